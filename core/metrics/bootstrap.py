"""Intervals over test images by the bootstrap, patients drawn whole, classes kept at their counts of patients.

The same drawn images serve every run on a test set, so that runs can be subtracted draw by draw (`comparisons`).
Intervals between seeds (`between_seeds`) are another question: a series has both side by side, and a third over both
(`series_estimate`), each named by what varies in it.

References:
    Zou and Donner 2008, Construction of confidence limits about effect measures, doi:10.1002/sim.3095 (MOVER: the
    distances from the value to the ends of two intervals, combined by Pythagoras).
    Efron and Tibshirani 1993, An introduction to the bootstrap (percentile and reflected interval).
    Wilson 1927, doi:10.1080/01621459.1927.10502953.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from core.metrics.measures import METRICS, Metric
from core.metrics.scores import Scores

DRAWS = 2000
LEVEL = 0.95
_BLOCK = 160_000
TAILS = (100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2)


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Attributes:
        value: on the images as they are.
        low, high: ends of the 95% interval.
        n: images.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Spread:
    """How a value differs between seeds, each a draw of training images of its own.

    Attributes:
        mean: over seeds.
        sd: standard deviation between seeds; NaN for one seed.
        lowest, highest: seed.
        low, high: ends of the 95% interval (Student) of the mean over all seeds there could be; NaN for one seed.
        seeds: how many.
    """

    mean: float
    sd: float
    lowest: float
    highest: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class SeriesEstimate:
    """The mean over the seeds of a series, with what varies kept apart.

    Attributes:
        value: mean over seeds on the images as they are.
        patients: its 95% interval over test patients; the seeds stay as they are.
        seeds: its 95% interval over seeds (Student), and their spread; the test patients stay as they are.
        both: its 95% interval over seeds and test patients together; NaN ends for a single seed, whose seeds' part
            nobody knows.
    """

    value: float
    patients: Estimate
    seeds: Spread
    both: Estimate

    def text(self, digits: int = 3, separator: str = "; ") -> str:
        """The value with both intervals side by side, each named by what varies in it.

        Args:
            digits: after the point.
            separator: between the parts.
        """
        over_seeds = (
            f"seeds {self.seeds.low:.{digits}f} to {self.seeds.high:.{digits}f}" if self.seeds.seeds > 1 else "one seed"
        )
        over_patients = f"test patients {self.patients.low:.{digits}f} to {self.patients.high:.{digits}f}"
        return separator.join([f"{self.value:.{digits}f}", over_patients, over_seeds])


def draw_weights(labels: np.ndarray, groups: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each image is drawn when groups are drawn with replacement within each class.

    Args:
        labels: (N,), class indices; or (N, C) findings, of which having any counts. A group counts for the class of its
            first image.
        groups: (N,), patients or lesions.
        draws: bootstrap samples.
        seed: of the draws.
    Returns:
        (draws, N), counts.
    """
    random = np.random.default_rng(seed)
    labels = labels if labels.ndim == 1 else (np.nan_to_num(labels) > 0.5).any(axis=1)
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    stratum = labels[first]
    counts = np.zeros((draws, len(first)))
    for label in np.unique(stratum):
        members = np.flatnonzero(stratum == label)
        counts[:, members] = random.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
    return counts[:, number]


def with_once(weights: np.ndarray) -> np.ndarray:
    """(B, N) -> (B + 1, N): first every image once, then the drawn weights, so that one call measures both."""
    return np.concatenate([np.ones((1, weights.shape[1])), weights])


def measure_drawn(scores: Scores, weights: np.ndarray, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """(B, N) weights -> metric -> (B,) values; block by block, so that the work stays in the processor's cache.

    Args:
        scores: predictions.
        weights: how often each image counts.
        names: metrics; all by default.
    """
    step = max(1, _BLOCK // max(1, weights.shape[1]))
    blocks = [weights[start : start + step] for start in range(0, len(weights), step)]
    return {
        name: np.concatenate([METRICS[name](scores, block) for block in blocks]) for name in names or tuple(METRICS)
    }


def interval(found: np.ndarray, n: int, metric: Metric | None = None) -> Estimate:
    """A value with the 95% interval that its draws give.

    Args:
        found: (B + 1,), the value on the images as they are, then on each drawn sample; undefined ones are NaN.
        n: images.
        metric: what it measures. The interval of one that drawing again makes larger is reflected about the value and
            cut at 0; its ends say where the true value lies, which is mostly below the measured one.
    """
    value, drawn = float(found[0]), found[1:][~np.isnan(found[1:])]
    if not len(drawn) or np.isnan(value):
        return Estimate(value, float("nan"), float("nan"), n)
    low, high = (float(end) for end in np.percentile(drawn, TAILS))
    if metric is not None and metric.grows_when_redrawn:
        low, high = max(0.0, 2 * value - high), max(value, 2 * value - low)
    return Estimate(value, low, high, n)


def ends(drawn: np.ndarray) -> np.ndarray:
    """(B, T) draws of a curve -> (2, T), the ends of its 95% band; NaN where nothing was drawn."""
    return np.percentile(drawn, TAILS, axis=0) if len(drawn) else np.full((2, drawn.shape[1]), np.nan)


def _mean_drawn(runs: Sequence[Scores], weights: np.ndarray, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    found = [measure_drawn(run, weights, names) for run in runs]
    return {name: np.mean([one[name] for one in found], axis=0) for name in found[0]}


def bootstrap(
    runs: Sequence[Scores], groups: np.ndarray, names: tuple[str, ...] | None = None, draws: int = DRAWS
) -> dict[str, Estimate]:
    """95% intervals over test images for the mean of one or several runs on the same images.

    Args:
        runs: predictions for the same images in the same order, one `Scores` a seed; the seeds stay as they are.
        groups: (N,), what is drawn as a whole.
        names: metrics; all by default.
        draws: bootstrap samples.
    Raises:
        ValueError: if there is no run, or the runs are not of the same images.
    """
    if not runs or any(not np.array_equal(run.labels, runs[0].labels, equal_nan=True) for run in runs):
        raise ValueError("Expected one or more runs on the same test images in the same order.")
    weights = with_once(draw_weights(runs[0].labels, groups, draws))
    found = _mean_drawn(runs, weights, names)
    return {name: interval(one, len(groups), METRICS[name]) for name, one in found.items()}


def series_estimate(values: np.ndarray, n: int, metric: Metric) -> SeriesEstimate:
    """Return the mean over seeds with its intervals over test patients, over seeds, and over both.

    Args:
        values: (K, B + 1), a row a seed; the value on the images as they are, then on each resample.
        n: test images.
        metric: what it measures.
    Raises:
        ValueError: if there is no seed.
    """
    patients, seeds = interval(values.mean(axis=0), n, metric), between_seeds(values[:, 0].tolist(), metric)
    value = patients.value
    below, above = (
        np.hypot(value - patients.low, value - seeds.low),
        np.hypot(patients.high - value, seeds.high - value),
    )
    low, high = np.clip([value - below, value + above], *metric.range)  # keeps NaN
    return SeriesEstimate(value, patients, seeds, Estimate(value, float(low), float(high), n))


def between_seeds(values: Sequence[float], metric: Metric | None = None) -> Spread:
    """How a metric differs between seeds, on the test images as they are.

    Args:
        values: of each seed.
        metric: what they measure; the interval is cut at the ends of its range. None cuts nothing.
    Raises:
        ValueError: if there is no seed.
    """
    found = np.asarray(values, dtype=float)
    if not len(found):
        raise ValueError("Expected the value of at least one seed.")
    mean, lowest, highest = float(found.mean()), float(found.min()), float(found.max())
    if len(found) == 1:
        return Spread(mean, float("nan"), lowest, highest, float("nan"), float("nan"), 1)
    sd = float(found.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(found) - 1)) * sd / np.sqrt(len(found))
    least, most = metric.range if metric else (-np.inf, np.inf)
    low, high = np.clip([mean - half, mean + half], least, most)
    return Spread(mean, sd, lowest, highest, float(low), float(high), len(found))


def wilson(hits: int, n: int) -> Estimate:
    """A plain proportion of independent images with its 95% Wilson interval.

    Args:
        hits: images of which it is true, 0 to n.
        n: images.
    """
    if not n:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    ends = stats.binomtest(int(hits), int(n)).proportion_ci(LEVEL, method="wilson")
    return Estimate(hits / n, float(ends.low), float(ends.high), int(n))
