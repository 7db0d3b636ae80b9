"""Learning curve of a family: a power law with an asymptote, a - b * n^-c, and its uncertainty.

Every resample draws seeds (whole learning curves, because the subsets of a seed are nested) and test images, the same
ones for every family, so curves can be subtracted resample by resample.

The curve is fitted to the means over seeds by weighted least squares, in closed form for each exponent of a grid, under
the constraints of the metric: it never falls with more labels, and its asymptote does not exceed a perfect score. Three
parameters need four sizes. If a perfect asymptote fits the data as well as a nearer one, the data do not determine the
asymptote, and the fit says so.

Required sizes, label multipliers and crossovers are read off the fitted curves, each with an interval. Nothing is
reported beyond `Fit.limit`; a size beyond it, or below the smallest measured one, is given as a bound.

References:
    Cortes et al. 1993, Learning curves: asymptotic values and rate of convergence (NIPS 6).
    Viering and Loog 2021, The shape of learning curves, arXiv:2103.10948.
    Small-sample factor for seeds (expanded percentiles): Hesterberg 2015, arXiv:1411.5279.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from scipy import stats

from core.errors import BadRequest
from core.metrics.bootstrap import LEVEL, TAILS
from core.metrics.comparisons import MIN_SEEDS
from core.metrics.measures import METRICS

REACH = 4  # times the largest measured size; nothing is reported beyond
LEAST_SIZES = 3
_EXPONENTS = np.geomspace(0.05, 4, 80)
_RARE = 0.025
_NO_ASYMPTOTE = "The asymptote is not identifiable: a perfect one would fit nearly as well."
Key = TypeVar("Key")


@dataclass(frozen=True)
class MeasuredCurve:
    """A metric at several training set sizes.

    Attributes:
        metric: its name.
        values: images per class -> seed -> (B + 1,), the value on the original test images, then on each resample.
    """

    metric: str
    values: Mapping[float, Mapping[int, np.ndarray]]

    @property
    def sizes(self) -> tuple[float, ...]:
        """Images per class, ascending."""
        return tuple(sorted(self.values))

    @property
    def seeds(self) -> set[int]:
        """Seeds at any size."""
        return {seed for rows in self.values.values() for seed in rows}


@dataclass(frozen=True)
class Band:
    """A fitted curve with its 95% band.

    Attributes:
        sizes: (T,) images per class.
        value, low, high: (T,).
        extrapolated: (T,) bool, outside the measured sizes; charts mark this part.
    """

    sizes: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    extrapolated: np.ndarray


@dataclass(frozen=True)
class Fit:
    """A fitted learning curve.

    Attributes:
        metric: its name.
        sizes, means: the points it was fitted to.
        level, gain, exponent: (B + 1,) a, b and c of `a - b * (n / smallest size)^-c`, on the original data and on each
            resample; for a metric where lower is better, of its negative.
        doubts: reasons, in sentences, why the curve or its asymptote is unreliable; empty if there are none.
        extrapolable: whether the curve has enough sizes, rises, passes through their means, and does not put all gain
            before the second size. An unidentified asymptote does not matter over so short a range; the band shows it.
        seeds: seeds that every size has.
    """

    metric: str
    sizes: tuple[float, ...]
    means: tuple[float, ...]
    level: np.ndarray = field(repr=False)
    gain: np.ndarray = field(repr=False)
    exponent: np.ndarray = field(repr=False)
    doubts: tuple[str, ...] = ()
    extrapolable: bool = True
    seeds: int = 0

    @property
    def identifiable(self) -> bool:
        """Whether there are no doubts about the fitted asymptote."""
        return not self.doubts

    @property
    def sign(self) -> int:
        """1 for a metric where higher is better, else -1."""
        return 1 if METRICS[self.metric].higher_is_better else -1

    @property
    def limit(self) -> float:
        """The largest size to report, beyond the measured ones only if the curve may be extrapolated."""
        return self.sizes[-1] * (REACH if self.extrapolable else 1)

    def rising(self, n: np.ndarray) -> np.ndarray:
        """Return the (B + 1, T) curve at (T,) or (B + 1, T) sizes, signed so that higher is better."""
        relative = np.atleast_2d(np.asarray(n, dtype=float)) / self.sizes[0]
        return self.level[:, None] - self.gain[:, None] * relative ** -self.exponent[:, None]

    def size_for(self, target: np.ndarray) -> np.ndarray:
        """Return the (B + 1,) sizes at which the rising curve reaches (B + 1,) values; infinite if it never does."""
        gap = self.level - target
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            size = self.sizes[0] * (self.gain / gap) ** (1 / self.exponent)
        return np.where(gap > 0, size, np.inf)

    def band(self, sizes: np.ndarray) -> Band:
        """Return the curve with its band.

        Args:
            sizes: (T,) images per class; those beyond `limit` are left out.
        """
        sizes = np.asarray(sizes, dtype=float)
        sizes = sizes[sizes <= self.limit]
        curves = self.sign * self.rising(sizes)
        low, high = np.percentile(curves[1:], TAILS, axis=0)
        outside = (sizes < self.sizes[0]) | (sizes > self.sizes[-1])
        return Band(sizes, curves[0], low, high, outside)

    def gain_between(self, size: float, larger: float) -> tuple[float, float, float]:
        """Return how much higher the metric is at a larger size, and the ends of its 95% interval.

        For a metric where lower is better, a positive value is a decrease of the metric.
        """
        curves = self.rising(np.array([size, larger]))
        gains = curves[:, 1] - curves[:, 0]
        low, high = np.percentile(gains[1:], TAILS)
        return float(gains[0]), float(low), float(high)

    def asymptote(self) -> tuple[float, float, float]:
        """Return the value approached with unlimited labels, and the ends of its 95% interval."""
        levels = self.sign * self.level + 0.0  # no negative zero
        low, high = np.percentile(levels[1:], TAILS)
        return float(levels[0]), float(low), float(high)


def fit_curves(measured: Mapping[Key, MeasuredCurve]) -> dict[Key, Fit]:
    """Fit the learning curve of each family, on common resamples of seeds and images.

    Args:
        measured: family -> its metric, measured on the same resamples of test images.
    Returns:
        a fit for each family with at least three sizes.
    Raises:
        BadRequest: if the metrics differ, or one is undefined on the test images.
    """
    if len({curve.metric for curve in measured.values()}) > 1:
        raise BadRequest("Expected the learning curves of one metric, but got several metrics.")
    seeds = sorted(set().union(*(curve.seeds for curve in measured.values()))) if measured else []
    fits = {}
    for name, curve in measured.items():
        if len(curve.sizes) >= LEAST_SIZES:
            draws = len(next(iter(curve.values[curve.sizes[0]].values()))) - 1
            seed_counts = np.random.default_rng(0).multinomial(
                len(seeds), np.full(len(seeds), 1 / len(seeds)), size=draws
            )
            fits[name] = _fit(curve, dict(zip(seeds, seed_counts.T, strict=True)))
    return fits


def _fit(measured: MeasuredCurve, seed_counts: Mapping[int, np.ndarray]) -> Fit:
    sign = 1 if METRICS[measured.metric].higher_is_better else -1
    columns = [sign * _mean_over_seeds(measured.values[size], seed_counts) for size in measured.sizes]
    values = np.stack(columns, axis=1)  # (B + 1, S)
    if np.isnan(values[0]).any():
        raise BadRequest(f"{METRICS[measured.metric].title} is undefined at some size, so its curve cannot be fitted.")
    values = np.where(np.isnan(values), values[:1], values)
    bound = 1.0 if sign > 0 else 0.0
    errors = values[1:].std(axis=0)
    errors = np.maximum(errors, max(float(np.median(errors)) / 3, 1e-6))  # no point dominates the fit
    relative = np.array(measured.sizes) / measured.sizes[0]
    means = tuple((sign * values[0]).tolist())
    fit = Fit(measured.metric, measured.sizes, means, *fit_power_law(relative, values, errors**-2.0, bound))
    doubts = _doubts(fit, values, errors, bound)
    seeds = min(len(rows) for rows in measured.values.values())
    return replace(fit, doubts=tuple(doubts), extrapolable=set(doubts) <= {_NO_ASYMPTOTE}, seeds=seeds)


def _mean_over_seeds(by_seed: Mapping[int, np.ndarray], seed_counts: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return (B + 1,) means over resampled seeds, widened by Student's factor for few seeds."""
    rows = np.array(list(by_seed.values()))  # (K, B + 1)
    means = rows.mean(axis=0)
    if len(rows) == 1:
        return means
    counts = np.array([seed_counts[seed] for seed in by_seed], dtype=float)  # (K, B)
    total = counts.sum(axis=0)
    resampled = np.where(total > 0, (counts * rows[:, 1:]).sum(axis=0) / np.maximum(total, 1), means[1:])
    student = stats.t.ppf((1 + LEVEL) / 2, len(rows) - 1) / stats.norm.ppf((1 + LEVEL) / 2)
    widening = student * np.sqrt(len(rows) / (len(rows) - 1))
    return np.concatenate([means[:1], means[1:] + widening * (resampled - means[1:])])


def fit_power_law(
    sizes: np.ndarray, values: np.ndarray, precision: np.ndarray, bound: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit a - b * n^-c with b >= 0 and a <= bound by least squares, for many curves at once.

    Args:
        sizes: (S,), the smallest 1.
        values: (B, S), signed so that higher is better.
        precision: (S,) weights of the points, the inverse of their variance.
        bound: the best possible value of the metric.
    Returns:
        (B,) levels a, gains b and exponents c.
    """
    share = precision / precision.sum()
    coarse = np.broadcast_to(_EXPONENTS, (len(values), len(_EXPONENTS)))
    _, _, near = _best_of(coarse, sizes, values, share, bound)
    step = _EXPONENTS[1] / _EXPONENTS[0]
    fine = np.clip(near[:, None] * np.geomspace(1 / step, step, 15), _EXPONENTS[0], _EXPONENTS[-1])
    return _best_of(fine, sizes, values, share, bound)


def _best_of(
    exponents: np.ndarray, sizes: np.ndarray, values: np.ndarray, share: np.ndarray, bound: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the best fit of each of (B, S) curves among its (B, E) exponents, with level and gain in closed form."""
    x = sizes ** -exponents[..., None]  # (B, E, S)
    y = values[:, None]
    x_mean, y_mean = x @ share, y @ share
    around = x - x_mean[..., None]
    gain = np.maximum(-((around * y) @ share) / (around**2 @ share), 0)
    level = y_mean + gain * x_mean
    capped = np.maximum(((bound - y) * x) @ share / (x**2 @ share), 0)
    gain = np.where(level > bound, capped, gain)
    level = np.minimum(level, bound)
    best = ((y - level[..., None] + gain[..., None] * x) ** 2 @ share).argmin(axis=1)
    rows = np.arange(len(values))
    return level[rows, best], gain[rows, best], exponents[rows, best]


def _doubts(fit: Fit, values: np.ndarray, errors: np.ndarray, bound: float) -> list[str]:
    doubts = []
    if len(fit.sizes) <= LEAST_SIZES:
        doubts.append(f"{len(fit.sizes)} sizes are too few for an asymptote; four are needed.")
    if np.percentile(values[1:, -1] - values[1:, 0], TAILS[0]) <= 0:
        doubts.append("No detectable gain between the smallest and the largest size.")
    elif ((fit.level[1:] >= bound) | (fit.exponent[1:] <= _EXPONENTS[0])).mean() > _RARE:
        doubts.append(_NO_ASYMPTOTE)
    elif (fit.exponent[1:] >= _EXPONENTS[-1]).mean() > _RARE:
        doubts.append("How fast the asymptote is reached is not identifiable: all gain may lie before the second size.")
    residuals = (values[0] - fit.rising(np.array(fit.sizes))[0]) / errors
    worst = int(np.abs(residuals).argmax())
    if abs(residuals[worst]) > 2:
        doubts.append(
            f"The curve misses the mean at {fit.sizes[worst]:g} by {abs(residuals[worst]):.1f} standard errors."
        )
    return doubts


_GRID = 200


@dataclass(frozen=True)
class Bounded:
    """A size or a ratio of sizes with its 95% interval, known only between two bounds.

    Attributes:
        value, low, high: within the bounds.
        least, most: the bounds; a value at one of them is shown as `at most` or `more than`.
        measured: the largest value within measured sizes; values above it are extrapolated.
    """

    value: float
    low: float
    high: float
    least: float
    most: float
    measured: float

    @property
    def reached(self) -> bool:
        """Whether the value lies below the upper bound."""
        return self.value < self.most

    @property
    def extrapolated(self) -> bool:
        """Whether the value lies beyond the measured sizes."""
        return self.value > self.measured

    def format(self, value: float, digits: int = 0) -> str:
        """Format a value, as a bound if it lies at one."""
        if value >= self.most:
            return f"more than {self.most:.{digits}f}"
        return f"at most {self.least:.{digits}f}" if value <= self.least else f"{value:.{digits}f}"

    def text(self, digits: int = 0, unit: str = "") -> str:
        """Format the value with its interval, extrapolation marked.

        Args:
            digits: after the decimal point.
            unit: appended to the value.
        """
        value = f"{self.format(self.value, digits)}{unit}"
        if self.low >= self.most or self.high <= self.least:
            return f"{value} (as is the whole 95% interval)"
        mark = ", extrapolated" if self.extrapolated and self.reached else ""
        return f"{value} (95% interval {self.format(self.low, digits)} to {self.format(self.high, digits)}{mark})"


@dataclass(frozen=True)
class Crossover:
    """The size from which one family overtakes another.

    Attributes:
        size: images per class with the interval; None if the curves do not cross within the measured sizes.
        ahead: the family ahead at the largest common size: 0 the first, 1 the second.
        certain: share of resamples in which the same family is ahead at that size.
        certain_before: share of resamples in which the other family is ahead at the smallest common size; 0 if `size`
            is None.
        seeds: seeds of the family that has fewer. Below `MIN_SEEDS` nothing is claimed.
    """

    size: Bounded | None
    ahead: int
    certain: float
    certain_before: float
    seeds: int

    @property
    def detected(self) -> bool:
        """Whether there are enough seeds, and both leads, before and after, hold in 97.5% of resamples."""
        leads = min(self.certain, self.certain_before)
        return self.size is not None and self.seeds >= MIN_SEEDS and leads >= TAILS[1] / 100

    def verdict(self, first: str, second: str) -> str:
        """Format the finding as a sentence."""
        leader, other = (first, second) if self.ahead == 0 else (second, first)
        if self.size is None:
            certain = self.certain >= TAILS[1] / 100 and self.seeds >= MIN_SEEDS
            return (
                f"No crossover: {leader} is ahead of {other} throughout{'' if certain else ', though not detectably'}."
            )
        doubt = "" if self.detected else " The crossover itself is not certain."
        return f"From about {self.size.text(unit=' images per class')} {leader} overtakes {other}.{doubt}"


def default_target(fit: Fit) -> float:
    """Return the default target value: the mean at the largest size, rounded to the displayed digits."""
    return round(float(fit.means[-1]), 3)


def images_needed(fit: Fit, target: float) -> Bounded:
    """Return the images per class that a family needs to reach a value of its metric.

    Args:
        fit: its learning curve.
        target: the target value.
    """
    sizes = fit.size_for(np.full(len(fit.level), fit.sign * target))
    return _bounded(sizes, fit.sizes[0], fit.limit, fit.sizes[-1])


def label_multiplier(fit: Fit, other: Fit, size: float) -> Bounded:
    """Return how many times more labels a family needs to equal another at some size.

    Args:
        fit: the family that needs more labels.
        other: the reference family.
        size: images per class of the reference family, within its measured sizes.
    Raises:
        BadRequest: if the size is outside the measured range, or the curves come from different resamples.
    """
    _check(fit, other)
    if not other.sizes[0] <= size <= other.sizes[-1]:
        raise BadRequest(
            f"Expected a size between {other.sizes[0]:g} and {other.sizes[-1]:g} images per class, where the other "
            f"family was measured, but got {size:g}."
        )
    ratios = fit.size_for(other.rising(np.array([size]))[:, 0]) / size
    return _bounded(ratios, fit.sizes[0] / size, fit.limit / size, fit.sizes[-1] / size)


def multiplier_at(fits: Mapping[Key, Fit], first: Key, second: Key, size: float) -> tuple[Key, Key, Bounded]:
    """Return which family is behind at a size, which is ahead, and how many times as many labels the former needs."""
    lead = (fits[first].rising(np.array([size])) - fits[second].rising(np.array([size])))[0, 0]
    behind, ahead = (first, second) if lead < 0 else (second, first)
    return behind, ahead, label_multiplier(fits[behind], fits[ahead], size)


def crossover(first: Fit, second: Fit) -> Crossover:
    """Return where one of two families overtakes the other, within the sizes measured for both.

    Raises:
        BadRequest: if they have fewer than two sizes in common, or the curves come from different resamples.
    """
    _check(first, second)
    smallest, largest = max(first.sizes[0], second.sizes[0]), min(first.sizes[-1], second.sizes[-1])
    if smallest >= largest:
        raise BadRequest("The two families were measured at sizes that do not overlap.")
    grid = np.geomspace(smallest, largest, _GRID)
    lead = first.rising(grid) - second.rising(grid)  # (B + 1, T)
    ahead = int(lead[0, -1] < 0)
    lead = lead if ahead == 0 else -lead  # lead of the family ahead at the end
    certain, seeds = float((lead[1:, -1] > 0).mean()), min(first.seeds, second.seeds)
    behind = lead < 0
    if not behind[0].any():
        return Crossover(None, ahead, certain, 0.0, seeds)
    last_behind = np.where(behind.any(axis=1), _GRID - 1 - behind[:, ::-1].argmax(axis=1), -1)
    sizes = np.concatenate([[smallest], grid, [np.inf]])[last_behind + 1]
    sizes[last_behind == _GRID - 1] = np.inf
    return Crossover(_bounded(sizes, smallest, largest, largest), ahead, certain, float(behind[1:, 0].mean()), seeds)


def _bounded(values: np.ndarray, least: float, most: float, measured: float) -> Bounded:
    clipped = np.clip(values, least, most)
    low, high = np.percentile(clipped[1:], TAILS)
    return Bounded(float(clipped[0]), float(low), float(high), float(least), float(most), float(measured))


def _check(first: Fit, second: Fit) -> None:
    if first.metric != second.metric or len(first.level) != len(second.level):
        raise BadRequest("Expected two learning curves of one metric, fitted on the same resamples.")
