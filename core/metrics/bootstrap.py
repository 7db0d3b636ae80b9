"""Bootstrap intervals over test images, clustered by patient and stratified by class.

All runs on a test set share the same resamples, so runs can be subtracted resample by resample (`comparisons`).
Intervals between seeds (`between_seeds`) answer a different question. A series reports both, and a third interval over
seeds and patients together (`with_seeds`). Each interval names what varies in it.

References:
    Zou and Donner 2008, Construction of confidence limits about effect measures, doi:10.1002/sim.3095 (MOVER: combines
    the distances from the value to the ends of two intervals by Pythagoras).
    Efron and Tibshirani 1993, An introduction to the bootstrap (percentile and reflected intervals).
    Wilson 1927, doi:10.1080/01621459.1927.10502953.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.metrics.measures import METRICS, Metric
from core.metrics.scores import Scores

RESAMPLES = 2000
LEVEL = 0.95
_BLOCK = 160_000
TAILS = (100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2)


def number_text(value: float | None, spec: str = ".3f") -> str:
    """Format a number, or a dash if it is None."""
    return "–" if value is None else f"{value:{spec}}"


def interval_text(low: float | None, high: float | None, spec: str = ".3f") -> str:
    """Format an interval as "low to high", or percentages as "82 to 98%"; an end that is None as a dash."""
    start, end = number_text(low, spec), number_text(high, spec)
    return f"{start.removesuffix('%') if end.endswith('%') else start} to {end}"


def with_interval(value: float, low: float, high: float, spec: str = ".3f") -> str:
    """Format a value as "value (low to high)": a dash if it is undefined, no parentheses if the interval is."""
    if math.isnan(value):
        return "–"
    return f"{value:{spec}}" if math.isnan(low) else f"{value:{spec}} ({interval_text(low, high, spec)})"


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% confidence interval.

    Attributes:
        value: value on the original images.
        low, high: ends of the interval.
        n: number of images.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def ends(self) -> str:
        """The interval as "low to high"."""
        return interval_text(self.low, self.high)

    def __format__(self, spec: str) -> str:
        """Format as "value (low to high)", each number by `spec`; a dash where the value is undefined."""
        return with_interval(self.value, self.low, self.high, spec or ".3f")


@dataclass(frozen=True)
class Spread:
    """Variation of a metric between seeds; each seed has its own training images.

    Attributes:
        mean: mean over seeds.
        sd: standard deviation between seeds; NaN for one seed.
        lowest, highest: lowest and highest value of any seed.
        low, high: ends of the 95% Student interval of the mean over all possible seeds; NaN for one seed.
        seeds: number of seeds.
    """

    mean: float
    sd: float
    lowest: float
    highest: float
    low: float
    high: float
    seeds: int

    @property
    def ends(self) -> str:
        """The interval as "low to high", or "one seed"."""
        return interval_text(self.low, self.high) if self.seeds > 1 else "one seed"


@dataclass(frozen=True)
class SeriesEstimate:
    """Mean over the seeds of a series, with one interval per source of variation.

    Attributes:
        value: mean over seeds on the original images.
        patients: the mean with its 95% interval over test patients, seeds held fixed.
        seeds: spread between seeds with the 95% Student interval, test patients held fixed.
        both: the mean with its 95% interval over seeds and test patients together; NaN ends for a single seed, whose
            contribution is unknown.
    """

    value: float
    patients: Estimate
    seeds: Spread
    both: Estimate

    def text(self, separator: str = "; ") -> str:
        """Format the value with both intervals, each labeled by what varies in it."""
        over_seeds = f"seeds {self.seeds.ends}" if self.seeds.seeds > 1 else self.seeds.ends
        return separator.join([f"{self.value:.3f}", f"test patients {self.patients.ends}", over_seeds])


def resample_weights(labels: np.ndarray, groups: np.ndarray, draws: int = RESAMPLES) -> np.ndarray:
    """Resample groups with replacement within each class and count how often each image occurs.

    Args:
        labels: (N,), class indices; or (N, C) findings, where having any finding is the positive class. A group belongs
            to the class of its first image.
        groups: (N,), patients or lesions.
        draws: number of bootstrap resamples.
    Returns:
        (draws, N), counts.
    """
    random = np.random.default_rng(0)
    labels = labels if labels.ndim == 1 else (np.nan_to_num(labels) > 0.5).any(axis=1)
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    stratum = labels[first]
    counts = np.zeros((draws, len(first)))
    for label in np.unique(stratum):
        members = np.flatnonzero(stratum == label)
        counts[:, members] = random.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
    return counts[:, number]


def prepend_ones(weights: np.ndarray) -> np.ndarray:
    """Prepend a row of ones to (B, N) weights, so that one call measures the original images and all resamples."""
    return np.concatenate([np.ones((1, weights.shape[1])), weights])


def measure_resamples(scores: Scores, weights: np.ndarray, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Compute metrics on each resample.

    The work is done in blocks that stay in the processor's cache.

    Args:
        scores: predictions.
        weights: (B, N), how often each image counts.
        names: metrics; all by default.
    Returns:
        metric -> (B,) values.
    """
    step = max(1, _BLOCK // max(1, weights.shape[1]))
    blocks = [weights[start : start + step] for start in range(0, len(weights), step)]
    return {name: np.concatenate([METRICS[name](scores, block) for block in blocks]) for name in names or METRICS}


def interval(values: np.ndarray, n: int, metric: Metric | None = None) -> Estimate:
    """Return a value with its 95% bootstrap interval.

    Args:
        values: (B + 1,), the value on the original images, then on each resample; undefined values are NaN.
        n: number of images.
        metric: what was measured. If resampling inflates the metric, its interval is reflected about the value and cut
            at 0; the interval then estimates where the true value lies, which is mostly below the measured one.
    """
    value, resampled = float(values[0]), values[1:][~np.isnan(values[1:])]
    if not len(resampled) or np.isnan(value):
        return Estimate(value, float("nan"), float("nan"), n)
    low, high = (float(end) for end in np.percentile(resampled, TAILS))
    if metric is not None and metric.inflated_by_resampling:
        low, high = max(0.0, 2 * value - high), max(value, 2 * value - low)
    return Estimate(value, low, high, n)


def percentile_band(curves: np.ndarray) -> np.ndarray:
    """Return the ends of the 95% band, (2, T), of (B, T) resampled curves; NaN if there are no resamples."""
    return np.percentile(curves, TAILS, axis=0) if len(curves) else np.full((2, curves.shape[1]), np.nan)


def bootstrap(
    runs: Sequence[Scores], groups: np.ndarray, names: tuple[str, ...] | None = None, draws: int = RESAMPLES
) -> dict[str, Estimate]:
    """Return 95% intervals over test images for the mean of one or several runs on the same images.

    Args:
        runs: predictions for the same images in the same order, one `Scores` per seed; seeds are not resampled.
        groups: (N,), patients or lesions, resampled as a whole.
        names: metrics; all by default.
        draws: number of bootstrap resamples.
    Raises:
        ValueError: if there is no run, or the runs are not of the same images.
    """
    if not runs or any(not np.array_equal(run.labels, runs[0].labels, equal_nan=True) for run in runs):
        raise ValueError("Expected one or more runs on the same test images in the same order.")
    weights = prepend_ones(resample_weights(runs[0].labels, groups, draws))
    by_run = [measure_resamples(run, weights, names) for run in runs]
    means = {name: np.mean([values[name] for values in by_run], axis=0) for name in by_run[0]}
    return {name: interval(values, len(groups), METRICS[name]) for name, values in means.items()}


def with_seeds(patients: Estimate, by_seed: Sequence[float], metric: Metric) -> SeriesEstimate:
    """Add the intervals over seeds, and over both, to a mean over seeds with its interval over test patients.

    Args:
        patients: the mean with its interval.
        by_seed: value of each seed on the original images.
        metric: what was measured.
    """
    value, seeds = patients.value, between_seeds(by_seed, metric)
    below = np.hypot(value - patients.low, value - seeds.low)
    above = np.hypot(patients.high - value, seeds.high - value)
    low, high = np.clip([value - below, value + above], *metric.range)  # keeps NaN
    return SeriesEstimate(value, patients, seeds, Estimate(value, float(low), float(high), patients.n))


def between_seeds(values: Sequence[float], metric: Metric | None = None) -> Spread:
    """Return how a metric varies between seeds on the original test images.

    Args:
        values: one per seed.
        metric: what was measured; the interval is clipped to its range. None clips nothing.
    Raises:
        ValueError: if there is no seed.
    """
    from scipy import stats

    by_seed = np.asarray(values, dtype=float)
    if not len(by_seed):
        raise ValueError("Expected the value of at least one seed.")
    mean, lowest, highest = float(by_seed.mean()), float(by_seed.min()), float(by_seed.max())
    if len(by_seed) == 1:
        return Spread(mean, float("nan"), lowest, highest, float("nan"), float("nan"), 1)
    sd = float(by_seed.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(by_seed) - 1)) * sd / np.sqrt(len(by_seed))
    least, most = metric.range if metric else (-np.inf, np.inf)
    low, high = np.clip([mean - half, mean + half], least, most)
    return Spread(mean, sd, lowest, highest, float(low), float(high), len(by_seed))


def wilson(hits: int, n: int) -> Estimate:
    """Return a proportion of independent images with its 95% Wilson interval.

    Args:
        hits: number of images with the property, 0 to n.
        n: number of images.
    """
    from scipy import stats

    if not n:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    ends = stats.binomtest(int(hits), int(n)).proportion_ci(LEVEL, method="wilson")
    return Estimate(hits / n, float(ends.low), float(ends.high), int(n))
