"""What labels buy, read off fitted learning curves: sizes needed, label multipliers, crossovers, each with an interval.

All three compare curves that were fitted on common draws of seeds and test images (`curves.fit_curves`). Nothing is
said beyond `Fit.limit`; a size beyond it, or below the smallest measured one, is given as a bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.errors import BadRequest
from core.metrics.curves import Fit
from core.metrics.intervals import TAILS

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
