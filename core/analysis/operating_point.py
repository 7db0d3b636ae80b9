"""Operating-point analysis: bootstrap once, re-evaluate at every slider position.

Resampling test images is the most expensive step, so it is done once (`resample_series`), and every slider position is
evaluated on the same resamples. Thresholds are fitted on held-out images; the user may shift them. The statistics are
in `core.metrics.operating_point` and `core.metrics.selective`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.metrics import roc_curve

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
from core.runs import Run
from core.runs.metric_cache import groups_for
from core.runs.scores import load_part
from core.runs.series import check_comparable

CURVE_RESAMPLES = 200  # resamples for curves, whose bands are shown but not quoted
GRID = 201
_EDGE = 0.001


@dataclass(frozen=True)
class ResampledSeries:
    """A series at one size as one binary task, with resampled test images.

    Attributes:
        tests, held_out: predictions, one `Scores` per run.
        groups: (N,) patients or lesions of the test images.
        resamples: resamples of the test images.
    """

    tests: tuple[Scores, ...]
    held_out: tuple[Scores, ...]
    groups: np.ndarray
    resamples: GroupResamples

    @property
    def fitting_prevalence(self) -> float:
        """Share of positives among the held-out images, on which temperatures were fitted; the mean over runs."""
        return float(np.mean([scores.positives()[1].mean() for scores in self.held_out]))

    def for_curve(self, banded: bool) -> GroupResamples:
        """Return the resamples of a curve's band; only the original images without a band."""
        return self.resamples.first(CURVE_RESAMPLES if banded else 0)


@dataclass(frozen=True)
class ShiftedSeries:
    """A series at the user's operating point.

    Attributes:
        thresholds: shifted threshold of each run.
        performance: sensitivity, specificity and predictive values at them.
        decision_curve: net benefit, with the shifted thresholds marked.
    """

    thresholds: tuple[float, ...]
    performance: Operation
    decision_curve: DecisionCurve


@dataclass(frozen=True)
class RocCurve:
    """ROC curve.

    Attributes:
        false_positive_rate, sensitivity: (T,), from calling no image positive to calling all positive.
    """

    false_positive_rate: np.ndarray
    sensitivity: np.ndarray

    def precision(self, prevalence: float) -> np.ndarray:
        """Return the (T,) precision at a prevalence; before the first positive calls, it is the precision of these."""
        tp, fp = self.sensitivity * prevalence, self.false_positive_rate * (1 - prevalence)
        positive_calls = tp + fp
        shares = np.divide(tp, positive_calls, out=np.full(len(positive_calls), np.nan), where=positive_calls > 0)
        first = int(np.argmax(positive_calls > 0))
        shares[:first] = shares[first]
        return shares


def resample_series(runs: Sequence[Run], target: int | None = None) -> ResampledSeries:
    """Read a series and resample its test images.

    Args:
        runs: runs of one series at one size.
        target: the class or finding to evaluate against the rest, for a task that is not binary.
    Raises:
        BadRequest: if the runs are not of one split, or the task is not binary and no target is given.
        CorruptRun: if predictions cannot be read.
    """
    check_comparable(runs)
    tests = [load_part(run, target=target) for run in runs]
    tests[0].scores.positives()
    return ResampledSeries(
        tuple(test.scores for test in tests),
        tuple(load_part(run, "validation", target).scores for run in runs),
        tests[0].groups,
        groups_for(tests[0].scores.labels, tests[0].groups),
    )


def fit_points(series: ResampledSeries, aim: Aim) -> list[OperatingPoint]:
    """Fit the operating point of each run on its held-out images.

    Raises:
        BadRequest: if a class is missing among them.
    """
    return [fit_operating_point(scores, aim) for scores in series.held_out]


def shift_thresholds(thresholds: Sequence[float], shift: float) -> tuple[float, ...]:
    """Shift thresholds, clipped so that neither every nor no image is called positive."""
    return tuple(
        float(np.clip(threshold + shift, min(threshold, _EDGE), max(threshold, 1 - _EDGE))) for threshold in thresholds
    )


def evaluate_at_shift(
    series: ResampledSeries,
    fitted: Sequence[float],
    shift: float,
    prevalence: float,
    curve: DecisionCurve | None = None,
) -> ShiftedSeries:
    """Evaluate a series at shifted thresholds and a prevalence, on its resamples.

    Args:
        series: the series.
        fitted: threshold of each run.
        shift: amount added to each threshold.
        prevalence: share of positives in the population of use.
        curve: the decision curve at this prevalence, if known; thresholds move only its marks.
    Raises:
        BadRequest: if the prevalence is not between 0 and 1, or a class is missing among the held-out images.
    """
    thresholds = shift_thresholds(fitted, shift)
    runs = at_thresholds(series.tests, thresholds)
    performance = operate(runs, series.groups, prevalence, series.resamples)
    curve = benefit_at(series, prevalence) if curve is None else curve
    return ShiftedSeries(
        thresholds, performance, replace(curve, marks=operating_marks(runs, prevalence, series.fitting_prevalence))
    )


def benefit_at(series: ResampledSeries, prevalence: float, banded: bool = True) -> DecisionCurve:
    """Return the decision curve of a series at a prevalence, on its resamples.

    Args:
        series: the series.
        prevalence: share of positives in the population of use.
        banded: whether to compute a band, which takes most of the time.
    Raises:
        BadRequest: if the prevalence is not between 0 and 1, or a class is missing among the held-out images.
    """
    resamples = series.for_curve(banded)
    return decision_curve(series.tests, series.groups, prevalence, series.fitting_prevalence, resamples=resamples)


def risk_at(series: ResampledSeries, thresholds: Sequence[float], banded: bool = True) -> RiskCurve:
    """Return risk against coverage at thresholds, on the resamples of a series; `banded` as in `benefit_at`."""
    return risk_curve(at_thresholds(series.tests, thresholds), series.groups, resamples=series.for_curve(banded))


def roc_curves(series: ResampledSeries) -> tuple[RocCurve, list[RocCurve]]:
    """Return the mean ROC curve over seeds, and the ROC curve of each run."""
    grid = np.linspace(0, 1, GRID)
    runs = [RocCurve(*roc_curve(truth, p)[:2]) for p, truth in (scores.positives() for scores in series.tests)]
    mean = np.mean([_highest(run, grid) for run in runs], axis=0)
    return RocCurve(np.r_[0.0, grid], np.r_[0.0, mean]), runs


def _highest(run: RocCurve, grid: np.ndarray) -> np.ndarray:
    """Return the sensitivity at each false positive rate; the highest if several share a rate."""
    false_positive_rates, last = np.unique(run.false_positive_rate[::-1], return_index=True)
    return np.interp(grid, false_positive_rates, run.sensitivity[::-1][last])
