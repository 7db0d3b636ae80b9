"""The learning curve of a family: a power law with an asymptote, a - b * n^-c, with what seeds and images leave open.

Every draw takes seeds (whole learning curves: the subsets of a seed are nested) and test images again, the same ones
for every family, so that curves can be subtracted draw by draw.

The curve is fitted to the means over seeds by weighted least squares, for each exponent of a grid in closed form,
within what the metric allows: it never falls with more labels, and its asymptote does not pass a perfect score. Three
numbers need four sizes, and data that fit a perfect asymptote as well as a near one do not tell it. The fit then says
so.

Sizes needed, label multipliers and crossovers are read off the fitted curves, each with an interval. Nothing is stated
beyond `Fit.limit`; a size beyond it, or below the smallest measured one, is given as a bound.

References:
    Cortes et al. 1993, Learning curves: asymptotic values and rate of convergence (NIPS 6).
    Viering and Loog 2021, The shape of learning curves, arXiv:2103.10948.
    Small-sample factor of the seeds' part (expanded percentiles): Hesterberg 2015, arXiv:1411.5279.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from scipy import stats

from core.errors import BadRequest
from core.metrics.bootstrap import LEVEL, TAILS
from core.metrics.measures import METRICS

REACH = 4  # times the largest measured size, beyond which nothing is said
LEAST_SIZES = 3
_EXPONENTS = np.geomspace(0.05, 4, 80)
_RARE = 0.025
_NO_ASYMPTOTE = "The asymptote is not identifiable: a perfect one would fit nearly as well."
Key = TypeVar("Key")


@dataclass(frozen=True)
class Measured:
    """A metric at several sizes of the training set.

    Attributes:
        metric: its name.
        found: images per class -> seed -> (B + 1,), the value on the test images as they are and on each draw of them.
    """

    metric: str
    found: Mapping[float, Mapping[int, np.ndarray]]

    @property
    def sizes(self) -> tuple[float, ...]:
        """Images per class, ascending."""
        return tuple(sorted(self.found))

    @property
    def seeds(self) -> set[int]:
        """Seeds at any size."""
        return {seed for rows in self.found.values() for seed in rows}


@dataclass(frozen=True)
class Band:
    """A fitted curve with its 95% band.

    Attributes:
        sizes: (T,) images per class.
        value, low, high: (T,).
        extrapolated: (T,) bool, beyond what was measured; to be drawn differently.
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
        sizes, means: what it was fitted to.
        level, gain, exponent: (B + 1,) a, b and c of `a - b * (n / smallest size)^-c`, as measured and on each draw; of
            a metric that is better when lower, of its negative.
        doubts: why the curve, or its asymptote, is not to be relied on, in sentences; empty where nothing is known
            against it.
        carries: whether the curve may be drawn beyond the measured sizes: it has enough of them, gains, passes through
            their means, and does not put all gain before the second one. An asymptote that could be anywhere up to
            perfect does not matter for so short a way; the band shows it.
    """

    metric: str
    sizes: tuple[float, ...]
    means: tuple[float, ...]
    level: np.ndarray = field(repr=False)
    gain: np.ndarray = field(repr=False)
    exponent: np.ndarray = field(repr=False)
    doubts: tuple[str, ...] = ()
    carries: bool = True

    @property
    def identifiable(self) -> bool:
        """Whether nothing speaks against the fitted asymptote."""
        return not self.doubts

    @property
    def sign(self) -> int:
        """1 for a metric that is better when higher, else -1."""
        return 1 if METRICS[self.metric].higher_is_better else -1

    @property
    def limit(self) -> float:
        """The largest size of which anything is said; beyond the measured ones only where the curve carries so far."""
        return self.sizes[-1] * (REACH if self.carries else 1)

    def rising(self, n: np.ndarray) -> np.ndarray:
        """(B + 1, T) curve at (T,) or (B + 1, T) sizes, turned so that higher is better."""
        relative = np.atleast_2d(np.asarray(n, dtype=float)) / self.sizes[0]
        return self.level[:, None] - self.gain[:, None] * relative ** -self.exponent[:, None]

    def size_for(self, wanted: np.ndarray) -> np.ndarray:
        """(B + 1,) sizes at which the rising curve reaches (B + 1,) values; infinite where it never does."""
        gap = self.level - wanted
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            found = self.sizes[0] * (self.gain / gap) ** (1 / self.exponent)
        return np.where(gap > 0, found, np.inf)

    def band(self, sizes: np.ndarray) -> Band:
        """The curve with its band.

        Args:
            sizes: (T,) images per class; those beyond `limit` are left out.
        """
        sizes = np.asarray(sizes, dtype=float)
        sizes = sizes[sizes <= self.limit]
        every = self.sign * self.rising(sizes)
        low, high = np.percentile(every[1:], TAILS, axis=0)
        outside = (sizes < self.sizes[0]) | (sizes > self.sizes[-1])
        return Band(sizes, every[0], low, high, outside)

    def asymptote(self) -> tuple[float, float, float]:
        """The value that more and more labels would lead to, with the ends of its 95% interval."""
        every = self.sign * self.level + 0.0  # no negative zero
        low, high = np.percentile(every[1:], TAILS)
        return float(every[0]), float(low), float(high)


def fit_curves(measured: Mapping[Key, Measured], seed: int = 0) -> dict[Key, Fit]:
    """Fits the learning curve of each family, on common draws of seeds and images.

    Args:
        measured: name -> a metric of it, measured with the same draws of test images.
        seed: of the draws of seeds.
    Returns:
        a fit for each family with at least three sizes.
    Raises:
        BadRequest: if the metrics differ, or one is undefined on the test images.
    """
    if len({one.metric for one in measured.values()}) > 1:
        raise BadRequest("Expected the learning curves of one metric, but got several metrics.")
    seeds = sorted(set().union(*(one.seeds for one in measured.values()))) if measured else []
    fits = {}
    for name, one in measured.items():
        if len(one.sizes) >= LEAST_SIZES:
            draws = len(next(iter(one.found[one.sizes[0]].values()))) - 1
            taken = np.random.default_rng(seed).multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=draws)
            fits[name] = _fit(one, dict(zip(seeds, taken.T, strict=True)))
    return fits


def _fit(measured: Measured, taken: Mapping[int, np.ndarray]) -> Fit:
    sign = 1 if METRICS[measured.metric].higher_is_better else -1
    columns = [sign * _mean_over_seeds(measured.found[size], taken) for size in measured.sizes]
    values = np.stack(columns, axis=1)  # (B + 1, S)
    if np.isnan(values[0]).any():
        raise BadRequest(f"{METRICS[measured.metric].title} is undefined at some size; its curve cannot be fitted.")
    values = np.where(np.isnan(values), values[:1], values)
    bound = 1.0 if sign > 0 else 0.0
    errors = values[1:].std(axis=0)
    errors = np.maximum(errors, max(float(np.median(errors)) / 3, 1e-6))  # no point outweighs all others
    relative = np.array(measured.sizes) / measured.sizes[0]
    means = tuple((sign * values[0]).tolist())
    fit = Fit(measured.metric, measured.sizes, means, *fit_power_law(relative, values, errors**-2.0, bound))
    doubts = _doubts(fit, values, errors, bound)
    return replace(fit, doubts=tuple(doubts), carries=set(doubts) <= {_NO_ASYMPTOTE})


def _mean_over_seeds(found: Mapping[int, np.ndarray], taken: Mapping[int, np.ndarray]) -> np.ndarray:
    """(B + 1,) means over seeds taken so often, spread as far as Student's t says for so few seeds."""
    rows = np.array([found[seed] for seed in found])  # (K, B + 1)
    plain = rows.mean(axis=0)
    if len(rows) == 1:
        return plain
    often = np.array([taken[seed] for seed in found], dtype=float)  # (K, B)
    total = often.sum(axis=0)
    drawn = np.where(total > 0, (often * rows[:, 1:]).sum(axis=0) / np.maximum(total, 1), plain[1:])
    student = stats.t.ppf((1 + LEVEL) / 2, len(rows) - 1) / stats.norm.ppf((1 + LEVEL) / 2)
    wider = student * np.sqrt(len(rows) / (len(rows) - 1))
    return np.concatenate([plain[:1], plain[1:] + wider * (drawn - plain[1:])])


def fit_power_law(
    sizes: np.ndarray, values: np.ndarray, precision: np.ndarray, bound: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares of a - b * n^-c with b >= 0 and a <= bound, for many curves at once.

    Args:
        sizes: (S,), the smallest 1.
        values: (B, S), turned so that higher is better.
        precision: (S,) weights of the points, one over their variance.
        bound: the best value that the metric can have.
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
    """For each of (B, S) curves the best of its (B, E) exponents, level and gain in closed form."""
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
    found = []
    if len(fit.sizes) <= LEAST_SIZES:
        found.append(f"{len(fit.sizes)} sizes are too few for an asymptote; four are needed.")
    if np.percentile(values[1:, -1] - values[1:, 0], TAILS[0]) <= 0:
        found.append("No detectable gain between the smallest and the largest size.")
    elif ((fit.level[1:] >= bound) | (fit.exponent[1:] <= _EXPONENTS[0])).mean() > _RARE:
        found.append(_NO_ASYMPTOTE)
    elif (fit.exponent[1:] >= _EXPONENTS[-1]).mean() > _RARE:
        found.append("How fast the asymptote is reached is not identifiable: all gain may lie before the second size.")
    missed = (values[0] - fit.rising(np.array(fit.sizes))[0]) / errors
    worst = int(np.abs(missed).argmax())
    if abs(missed[worst]) > 2:
        found.append(f"The curve misses the mean at {fit.sizes[worst]:g} by {abs(missed[worst]):.1f} standard errors.")
    return found


_GRID = 200


@dataclass(frozen=True)
class Bounded:
    """A size or a ratio of sizes with its 95% interval, known only between two bounds.

    Attributes:
        value, low, high: within the bounds.
        least, most: the bounds; a value at one of them says `at most` or `more than`.
        measured: the largest value that lies within measured sizes; what is above it was extrapolated.
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

    def said(self, value: float, digits: int = 0) -> str:
        """One of its numbers in words."""
        if value >= self.most:
            return f"more than {self.most:.{digits}f}"
        return f"at most {self.least:.{digits}f}" if value <= self.least else f"{value:.{digits}f}"

    def words(self, digits: int = 0, unit: str = "") -> str:
        """Value and interval in words, extrapolation marked.

        Args:
            digits: after the point.
            unit: what is counted, said after the value.
        """
        value = f"{self.said(self.value, digits)}{unit}"
        if self.low >= self.most or self.high <= self.least:
            return f"{value} (so is the whole 95% interval)"
        mark = ", extrapolated" if self.extrapolated and self.reached else ""
        return f"{value} (95% interval {self.said(self.low, digits)} to {self.said(self.high, digits)}{mark})"


@dataclass(frozen=True)
class Crossover:
    """From which size on one family is ahead of another that leads before.

    Attributes:
        size: images per class with the interval; None where the curves do not cross within the measured sizes.
        ahead: the family ahead at the largest common size: 0 the first, 1 the second.
        certain: share of draws in which the same family is ahead at that size.
        certain_before: share of draws in which the other one is ahead at the smallest common size; 0 where `size` is
            None.
    """

    size: Bounded | None
    ahead: int
    certain: float
    certain_before: float

    @property
    def detected(self) -> bool:
        """Whether both leads, before and after, hold in 97.5% of draws."""
        return self.size is not None and min(self.certain, self.certain_before) >= TAILS[1] / 100

    def verdict(self, first: str, second: str) -> str:
        """The finding in a sentence."""
        later, sooner = (first, second) if self.ahead == 0 else (second, first)
        if self.size is None:
            sure = self.certain >= TAILS[1] / 100
            return f"No crossover: {later} is ahead of {sooner} throughout{'' if sure else ', though not detectably'}."
        doubt = "" if self.detected else " That there is a crossover at all is not certain."
        return f"From about {self.size.words(unit=' images per class')} {later} overtakes {sooner}.{doubt}"


def usual_reach(fit: Fit) -> float:
    """The value to be reached where none was asked for: the mean at the largest size, to the digits that are shown."""
    return round(float(fit.means[-1]), 3)


def images_needed(fit: Fit, wanted: float) -> Bounded:
    """Images per class that a family needs to reach a value of its metric.

    Args:
        fit: its learning curve.
        wanted: the value.
    """
    every = fit.size_for(np.full(len(fit.level), fit.sign * wanted))
    return _bounded(every, fit.sizes[0], fit.limit, fit.sizes[-1])


def label_multiplier(fit: Fit, other: Fit, size: float) -> Bounded:
    """How many times more labels a family needs to equal another at some size.

    Args:
        fit: the family that is to catch up.
        other: the family that sets the mark.
        size: images per class that the other one has, within its measured sizes.
    Raises:
        BadRequest: if the size was not within what was measured, or the curves come from other draws.
    """
    _check(fit, other)
    if not other.sizes[0] <= size <= other.sizes[-1]:
        raise BadRequest(
            f"Expected a size between {other.sizes[0]:g} and {other.sizes[-1]:g} images per class, where the other "
            f"family was measured, but got {size:g}."
        )
    every = fit.size_for(other.rising(np.array([size]))[:, 0]) / size
    return _bounded(every, fit.sizes[0] / size, fit.limit / size, fit.sizes[-1] / size)


def crossover(first: Fit, second: Fit) -> Crossover:
    """Where one of two families overtakes the other, within the sizes at which both were measured.

    Raises:
        BadRequest: if they have no two sizes in common to look between, or the curves come from other draws.
    """
    _check(first, second)
    smallest, largest = max(first.sizes[0], second.sizes[0]), min(first.sizes[-1], second.sizes[-1])
    if smallest >= largest:
        raise BadRequest("The two families were measured at sizes that do not overlap.")
    grid = np.geomspace(smallest, largest, _GRID)
    lead = first.rising(grid) - second.rising(grid)  # (B + 1, T)
    ahead = int(lead[0, -1] < 0)
    lead = lead if ahead == 0 else -lead  # now the final leader's
    certain = float((lead[1:, -1] > 0).mean())
    behind = lead < 0
    if not behind[0].any():
        return Crossover(None, ahead, certain, 0.0)
    last_behind = np.where(behind.any(axis=1), _GRID - 1 - behind[:, ::-1].argmax(axis=1), -1)
    every = np.concatenate([[smallest], grid, [np.inf]])[last_behind + 1]
    every[last_behind == _GRID - 1] = np.inf
    return Crossover(_bounded(every, smallest, largest, largest), ahead, certain, float(behind[1:, 0].mean()))


def _bounded(every: np.ndarray, least: float, most: float, measured: float) -> Bounded:
    kept = np.clip(every, least, most)
    low, high = np.percentile(kept[1:], TAILS)
    return Bounded(float(kept[0]), float(low), float(high), float(least), float(most), float(measured))


def _check(first: Fit, second: Fit) -> None:
    if first.metric != second.metric or len(first.level) != len(second.level):
        raise BadRequest("Expected two learning curves of one metric, fitted on the same draws.")
