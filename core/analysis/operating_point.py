"""Operating-point analysis: bootstrap once, re-evaluate at every slider position.

Resampling test images is the most expensive step, so it is done once (`prepare`), and every slider position is
evaluated on the same resamples. Thresholds are fitted on held-out images; the user may shift them. The statistics are
in `core.metrics.operating_point` and `core.metrics.selective`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.metrics import roc_curve

from core.analysis.comparison import load_part
from core.metrics import Scores
from core.metrics.grouped_bootstrap import GroupResamples
from core.metrics.operating_point import (
    DecisionCurve,
    Operation,
    at_thresholds,
    decision_curve,
    operate,
    operating_marks,
)
from core.metrics.selective import RiskCurve, risk_curve
from core.metrics.thresholds import Aim, OperatingPoint, fit_operating_point
from core.runs.metric_cache import groups_for
from core.runs.series import Run, check_comparable

DRAWS = 200  # resamples for curves, whose bands are shown but not quoted
GRID = 201
_EDGE = 0.001


@dataclass(frozen=True)
class Prepared:
    """A series at one size as one binary task.

    Attributes:
        tests, held_out: predictions, one `Scores` per run.
        groups: (N,) patients or lesions of the test images.
        drawn: resampled test images.
        seeds: of the runs.
    """

    tests: tuple[Scores, ...]
    held_out: tuple[Scores, ...]
    groups: np.ndarray
    drawn: GroupResamples
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class ShiftedSeries:
    """A series at the user's operating point.

    Attributes:
        thresholds: of each run, shifted.
        worth: sensitivity, specificity and predictive values at them.
        decisions: net benefit, with the shifted thresholds marked.
    """

    thresholds: tuple[float, ...]
    worth: Operation
    decisions: DecisionCurve


@dataclass(frozen=True)
class RocCurve:
    """ROC curve.

    Attributes:
        alarms, found: (T,) 1 - specificity and sensitivity, from calling none to calling all.
    """

    alarms: np.ndarray
    found: np.ndarray

    def precision(self, prevalence: float) -> np.ndarray:
        """Return the (T,) precision at a prevalence; before the first positive calls, the precision of these."""
        tp, fp = self.found * prevalence, self.alarms * (1 - prevalence)
        positive_calls = tp + fp
        shares = np.divide(tp, positive_calls, out=np.full(len(positive_calls), np.nan), where=positive_calls > 0)
        first = int(np.argmax(positive_calls > 0))
        shares[:first] = shares[first]
        return shares


def prepare(runs: Sequence[Run], target: int | None = None) -> Prepared:
    """Read a series and resample its test images.

    Args:
        runs: of one series at one size.
        target: the class or finding to evaluate against the rest, for a task that is not binary.
    Raises:
        BadRequest: if the runs are not of one split, or the task is not binary and no target is given.
        CorruptRun: if predictions cannot be read.
    """
    check_comparable([meta for _, meta in runs])
    tests = [load_part(run, target=target) for run in runs]
    tests[0].scores.positives()
    return Prepared(
        tuple(test.scores for test in tests),
        tuple(load_part(run, "validation", target).scores for run in runs),
        tests[0].groups,
        groups_for(tests[0].scores.labels, tests[0].groups),
        tuple(meta.seed for _, meta in runs),
    )


def points_of(prepared: Prepared, aim: Aim) -> list[OperatingPoint]:
    """Fit the operating point of each run on its held-out images.

    Raises:
        BadRequest: if a class is missing among them.
    """
    return [fit_operating_point(scores, aim) for scores in prepared.held_out]


def shift_thresholds(thresholds: Sequence[float], shift: float) -> tuple[float, ...]:
    """Shift thresholds, clipped so that neither every nor no image is called positive."""
    return tuple(
        float(np.clip(threshold + shift, min(threshold, _EDGE), max(threshold, 1 - _EDGE))) for threshold in thresholds
    )


def evaluate_at_shift(
    prepared: Prepared, fitted: Sequence[float], shift: float, prevalence: float, curve: DecisionCurve | None = None
) -> ShiftedSeries:
    """Evaluate a series at shifted thresholds and a prevalence, on the prepared resamples.

    Args:
        prepared: the series.
        fitted: threshold of each run.
        shift: added to each.
        prevalence: share of positives in the population of use.
        curve: the decision curve at this prevalence, if known; thresholds move only its marks.
    Raises:
        BadRequest: if the prevalence is not between 0 and 1, or a class is missing among the held-out images.
    """
    thresholds = shift_thresholds(fitted, shift)
    runs = at_thresholds(prepared.tests, thresholds)
    worth = operate(runs, prepared.groups, prevalence, prepared.drawn)
    curve = benefit_at(prepared, prevalence) if curve is None else curve
    return ShiftedSeries(
        thresholds, worth, replace(curve, marks=operating_marks(runs, prevalence, _fitted_at(prepared)))
    )


def benefit_at(prepared: Prepared, prevalence: float, banded: bool = True) -> DecisionCurve:
    """Return the decision curve of a series at a prevalence, on the prepared resamples.

    Args:
        prepared: the series.
        prevalence: share of positives in the population of use.
        banded: whether to compute a band, which takes most of the time.
    Raises:
        BadRequest: if the prevalence is not between 0 and 1, or a class is missing among the held-out images.
    """
    drawn = _drawn(prepared, banded)
    return decision_curve(prepared.tests, prepared.groups, prevalence, _fitted_at(prepared), resamples=drawn)


def _fitted_at(prepared: Prepared) -> float:
    return float(np.mean([scores.positives()[1].mean() for scores in prepared.held_out]))


def _drawn(prepared: Prepared, banded: bool) -> GroupResamples:
    return prepared.drawn.first(DRAWS if banded else 0)


def risk_at(prepared: Prepared, thresholds: Sequence[float], banded: bool = True) -> RiskCurve:
    """Return risk against coverage at thresholds, on the prepared resamples; `banded` as in `benefit_at`."""
    runs = at_thresholds(prepared.tests, thresholds)
    return risk_curve(runs, prepared.groups, resamples=_drawn(prepared, banded))


def rates_of(prepared: Prepared) -> tuple[RocCurve, list[RocCurve]]:
    """Return the mean ROC curve over seeds, and the ROC curve of each run."""
    grid = np.linspace(0, 1, GRID)
    runs = []
    for scores in prepared.tests:
        p, truth = scores.positives()
        false_positive_rate, sensitivity, _ = roc_curve(truth, p)
        runs.append(RocCurve(false_positive_rate, sensitivity))
    mean = np.mean([_highest(run, grid) for run in runs], axis=0)
    return RocCurve(np.r_[0.0, grid], np.r_[0.0, mean]), runs


def _highest(run: RocCurve, grid: np.ndarray) -> np.ndarray:
    """Return the sensitivity at each false positive rate; the highest if several share a rate."""
    false_positive_rates, last = np.unique(run.alarms[::-1], return_index=True)
    return np.interp(grid, false_positive_rates, run.found[::-1][last])
