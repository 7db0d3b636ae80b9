"""A series at a threshold and a prevalence of the user's: what is prepared once, and what moves with a slider.

Drawing test images again costs most, so it is done once (`prepare`); every position of a slider is judged on the same
draws. Thresholds are fitted on held-out images; a shift of them is the user's own. The statistics are in
`core.metrics.operating_point` and `core.metrics.selective`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.metrics import roc_curve

from core.analysis.comparison import judged
from core.metrics import Scores
from core.metrics.grouped_bootstrap import GroupDraws
from core.metrics.operating_point import DecisionCurve, Operation, at_thresholds, decision_curve, marks_of, operate
from core.metrics.selective import RiskCurve, risk_curve
from core.metrics.thresholds import Aim, OperatingPoint, fit_operating_point
from core.runs.metric_cache import groups_for
from core.runs.series import Run, check_comparable

DRAWS = 200  # of the curves, whose bands are looked at and not read off
GRID = 201
_EDGE = 0.001


@dataclass(frozen=True)
class Prepared:
    """A series at one size as one binary task.

    Attributes:
        tests, held_out: predictions, a run each.
        groups: (N,) patients or lesions of the test images.
        drawn: test images, first each once.
        seeds: of the runs.
    """

    tests: tuple[Scores, ...]
    held_out: tuple[Scores, ...]
    groups: np.ndarray
    drawn: GroupDraws
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Moved:
    """A series where the user put it.

    Attributes:
        thresholds: of each run, shifted.
        worth: sensitivity, specificity and predictive values with them.
        decisions: net benefit, with the shifted thresholds marked.
    """

    thresholds: tuple[float, ...]
    worth: Operation
    decisions: DecisionCurve


@dataclass(frozen=True)
class Rates:
    """Sensitivity against false alarms.

    Attributes:
        alarms, found: (T,) 1 - specificity and sensitivity, from calling none to calling all.
    """

    alarms: np.ndarray
    found: np.ndarray

    def precision(self, prevalence: float) -> np.ndarray:
        """(T,) share of alarms that are right at a prevalence; where nothing is called, that of the first calls."""
        right, wrong = self.found * prevalence, self.alarms * (1 - prevalence)
        called = right + wrong
        shares = np.divide(right, called, out=np.full(len(called), np.nan), where=called > 0)
        first = int(np.argmax(called > 0))
        shares[:first] = shares[first]
        return shares


def prepare(runs: Sequence[Run], target: int | None = None) -> Prepared:
    """Reads a series and draws its test images.

    Args:
        runs: of one series at one size.
        target: the class or finding to judge against the rest, of a task that is not binary.
    Raises:
        BadRequest: if the runs are not of one split, or the task is not binary and no target is given.
        CorruptRun: if predictions cannot be read.
    """
    check_comparable([meta for _, meta in runs])
    tests = [judged(run, target=target) for run in runs]
    tests[0].scores.positives()
    return Prepared(
        tuple(one.scores for one in tests),
        tuple(judged(run, "validation", target).scores for run in runs),
        tests[0].groups,
        groups_for(tests[0].scores.labels, tests[0].groups),
        tuple(meta.seed for _, meta in runs),
    )


def points_of(prepared: Prepared, aim: Aim) -> list[OperatingPoint]:
    """The operating point of each run, fitted on its held-out images.

    Raises:
        BadRequest: if a class is missing among them.
    """
    return [fit_operating_point(one, aim) for one in prepared.held_out]


def moved_by(thresholds: Sequence[float], shift: float) -> tuple[float, ...]:
    """Thresholds with the user's shift; what is called stays between never and always."""
    return tuple(float(np.clip(one + shift, min(one, _EDGE), max(one, 1 - _EDGE))) for one in thresholds)


def move(
    prepared: Prepared, fitted: Sequence[float], shift: float, prevalence: float, curve: DecisionCurve | None = None
) -> Moved:
    """What an operating point, a shift of it and a prevalence mean, on the draws that are there.

    Args:
        prepared: the series.
        fitted: threshold of each run.
        shift: added to each.
        prevalence: share of positives where the classifier is to be used.
        curve: the decision curve at this prevalence, where it is known: thresholds move its marks alone.
    Raises:
        BadRequest: if the prevalence is not between 0 and 1, or a class is missing among the held-out images.
    """
    thresholds = moved_by(fitted, shift)
    runs = at_thresholds(prepared.tests, thresholds)
    worth = operate(runs, prepared.groups, prevalence, prepared.drawn)
    curve = benefit_at(prepared, prevalence) if curve is None else curve
    return Moved(thresholds, worth, replace(curve, marks=marks_of(runs, prevalence, _fitted_at(prepared))))


def benefit_at(prepared: Prepared, prevalence: float, banded: bool = True) -> DecisionCurve:
    """The decision curve of a series at a prevalence, on the draws that are there.

    Args:
        prepared: the series.
        prevalence: share of positives where the classifier is to be used.
        banded: whether it has a band, which takes most of the time.
    Raises:
        BadRequest: if the prevalence is not between 0 and 1, or a class is missing among the held-out images.
    """
    drawn = _drawn(prepared, banded)
    return decision_curve(prepared.tests, prepared.groups, prevalence, _fitted_at(prepared), drawn=drawn)


def _fitted_at(prepared: Prepared) -> float:
    return float(np.mean([one.positives()[1].mean() for one in prepared.held_out]))


def _drawn(prepared: Prepared, banded: bool) -> GroupDraws:
    return prepared.drawn.first(DRAWS if banded else 0)


def risk_at(prepared: Prepared, thresholds: Sequence[float], banded: bool = True) -> RiskCurve:
    """Risk against coverage of a series at thresholds, on the draws that are there; `banded` as in `benefit_at`."""
    runs = at_thresholds(prepared.tests, thresholds)
    return risk_curve(runs, prepared.groups, drawn=_drawn(prepared, banded))


def rates_of(prepared: Prepared) -> tuple[Rates, list[Rates]]:
    """The mean over seeds of sensitivity at each share of false alarms, and the curve of each run."""
    grid = np.linspace(0, 1, GRID)
    runs = []
    for scores in prepared.tests:
        p, truth = scores.positives()
        alarms, found, _ = roc_curve(truth, p)
        runs.append(Rates(alarms, found))
    mean = np.mean([_highest(run, grid) for run in runs], axis=0)
    return Rates(np.r_[0.0, grid], np.r_[0.0, mean]), runs


def _highest(run: Rates, grid: np.ndarray) -> np.ndarray:
    """Sensitivity at each share of false alarms; of several with the same share the highest."""
    alarms, last = np.unique(run.alarms[::-1], return_index=True)
    return np.interp(grid, alarms, run.found[::-1][last])
