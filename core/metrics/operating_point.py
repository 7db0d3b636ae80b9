"""Predictive values, net benefit and the effect of a threshold shift at the prevalence of the place of use.

Sensitivity and specificity are measured on the test images. Predictive values, alarms and net benefit follow from them
at the user's prevalence, never at the share of positives in the test set. Nothing is fitted here.

References:
    Vickers and Elkin 2006, Decision curve analysis, doi:10.1177/0272989X06295361.
    Clopper and Pearson 1934 (shares of 0 or 1), doi:10.1093/biomet/26.4.404.
    Shifting probabilities to another prevalence: Saerens et al. 2002, doi:10.1162/089976602753284446.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, logit
from scipy.stats import beta

from core.errors import BadRequest
from core.metrics.bootstrap import RESAMPLES, Estimate, interval, percentile_band
from core.metrics.grouped_bootstrap import GroupResamples, resample_groups
from core.metrics.scores import Scores

CURVE_RESAMPLES = 400


@dataclass(frozen=True)
class Operation:
    """A classifier at its operating point and a prevalence.

    Attributes:
        prevalence: share of positives in the population of use.
        sensitivity, specificity: mean over runs, on the test images.
        ppv, npv: positive and negative predictive value at this prevalence.
        resamples: (2, B + 1), sensitivity and specificity on the original images and on each resample, for subtraction
            between thresholds; without the exact bound of a share of 0 or 1.
    """

    prevalence: float
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    resamples: np.ndarray

    def per_thousand(self) -> dict[str, float]:
        """Return the counts per 1,000 people: cases found and missed, false alarms, and people correctly left alone."""
        cases, others = 1000 * self.prevalence, 1000 * (1 - self.prevalence)
        hits, left_alone = self.sensitivity.value * cases, self.specificity.value * others
        return {"found": hits, "missed": cases - hits, "false_alarms": others - left_alone, "left_alone": left_alone}


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit, in true positives per person, against the threshold probability for acting.

    Attributes:
        prevalence: prevalence at which the curve holds.
        thresholds: (T,) threshold probabilities.
        benefit, low, high: (T,) net benefit of the classifier with the ends of its 95% interval.
        act_on_all: (T,) net benefit of acting on everybody; acting on nobody has 0.
        marks: (probability, net benefit) of the runs' own operating points.
    """

    prevalence: float
    thresholds: np.ndarray
    benefit: np.ndarray
    low: np.ndarray
    high: np.ndarray
    act_on_all: np.ndarray
    marks: tuple[tuple[float, float], ...]


def resample_images(runs: Sequence[Scores], groups: np.ndarray, draws: int = RESAMPLES) -> GroupResamples:
    """Resample the test images for `operate` and `decision_curve`, once for all positions of a slider.

    Raises:
        BadRequest: if there is no run, or the runs are not of the same images.
    """
    if not runs or any(not np.array_equal(run.labels, runs[0].labels) for run in runs):
        raise BadRequest("Expected one or more runs on the same test images in the same order.")
    return resample_groups(runs[0].labels, groups, draws)


def operate(
    runs: Sequence[Scores], groups: np.ndarray, prevalence: float, resamples: GroupResamples | None = None
) -> Operation:
    """Return sensitivity, specificity and predictive values of a family, the mean over its runs at their thresholds.

    Args:
        runs: binary predictions for the same images, each at its threshold (`Scores.at` sets another).
        groups: (N,), patients or lesions, resampled as a whole.
        prevalence: share of positives in the population of use.
        resamples: from `resample_images`; resampled here if None.
    Raises:
        BadRequest: if the prevalence is not between 0 and 1, or the task is not binary.
    """
    _check(prevalence)
    resamples = resample_images(runs, groups) if resamples is None else resamples
    truth = runs[0].positives()[1]
    votes = np.sum([run.positives()[0] >= run.threshold for run in runs], axis=0)  # (N,) by how many runs
    correct = _correct_shares(resamples, truth, votes, len(runs))
    units = [len(np.unique(resamples.group_index[members])) for members in (truth, ~truth)]
    shares = [_with_exact_bounds(row, count) for row, count in zip(correct, units, strict=True)]
    ppv, npv = predictive_values(shares[0], shares[1], prevalence)
    sensitivity, specificity, ppv_found, npv_found = (
        _interval_with_value(row, len(groups)) for row in (*shares, ppv, npv)
    )
    return Operation(prevalence, sensitivity, specificity, ppv_found, npv_found, correct)


def _correct_shares(resamples: GroupResamples, truth: np.ndarray, called: np.ndarray, runs: int) -> np.ndarray:
    """Return the (2, B + 1) share of correct decisions among positive and among negative images, the mean over runs.

    Args:
        resamples: resampled test images.
        truth: (N,) bool, whether an image is positive.
        called: (N,) number of runs that call an image positive.
        runs: number of runs.
    """
    columns = []
    for members, hits in ((truth, called), (~truth, runs - called)):
        table = resamples.count_by_bin(hits, runs + 1, members)
        columns += [table @ np.arange(runs + 1), table.sum(axis=1)]
    correct_positives, positives, correct_negatives, others = resamples.sum_counts(np.stack(columns, axis=1)).T
    return np.stack([correct_positives / (runs * positives), correct_negatives / (runs * others)])


def predictive_values(
    sensitivity: np.ndarray, specificity: np.ndarray, prevalence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return positive and negative predictive value by Bayes; NaN if nothing is called positive or negative."""
    tp, fn = sensitivity * prevalence, (1 - sensitivity) * prevalence
    fp, tn = (1 - specificity) * (1 - prevalence), specificity * (1 - prevalence)
    with np.errstate(invalid="ignore"):
        return tp / (tp + fp), tn / (tn + fn)


def net_benefit(sensitivity: np.ndarray, specificity: np.ndarray, prevalence: float, acting: np.ndarray) -> np.ndarray:
    """Return true positives per person minus false alarms at their exchange rate.

    Args:
        sensitivity: sensitivity of the decision.
        specificity: specificity of the decision.
        prevalence: share of positives.
        acting: threshold probability for acting; its odds are the number of cases that one false alarm is worth.
    """
    return sensitivity * prevalence - (1 - specificity) * (1 - prevalence) * acting / (1 - acting)


def shift_prevalence(probabilities: np.ndarray, fitting_prevalence: float, prevalence: float) -> np.ndarray:
    """Convert probabilities that hold at one prevalence to another."""
    edge = 1e-12
    moved = logit(np.clip(probabilities, edge, 1 - edge)) - logit(fitting_prevalence) + logit(prevalence)
    return np.asarray(expit(moved))


def decision_curve(
    runs: Sequence[Scores],
    groups: np.ndarray,
    prevalence: float,
    fitting_prevalence: float,
    acting: np.ndarray | None = None,
    resamples: GroupResamples | None = None,
) -> DecisionCurve:
    """Return the net benefit of a family at each threshold probability for acting, the mean over its runs.

    Args:
        runs: binary predictions for the same images.
        groups: (N,), patients or lesions, resampled as a whole.
        prevalence: share of positives in the population of use.
        fitting_prevalence: share of positives among the images that temperatures were fitted on; probabilities
            are shifted from there to `prevalence`.
        acting: (T,) threshold probabilities, ascending; 0.01 to 0.99 by default.
        resamples: from `resample_images`; a few are made here if None. Without resamples the curve has no band (NaN).
    Raises:
        BadRequest: if a prevalence is not between 0 and 1, or the task is not binary.
    """
    _check(prevalence)
    _check(fitting_prevalence)
    acting = np.linspace(0.01, 0.99, 50) if acting is None else acting
    resamples = resample_images(runs, groups, CURVE_RESAMPLES) if resamples is None else resamples
    truth = runs[0].positives()[1]
    reached = [
        np.searchsorted(acting, shift_prevalence(run.positives()[0], fitting_prevalence, prevalence), side="right")
        for run in runs
    ]
    sensitivity, false_positive_rate = (
        _called_shares(resamples, members, reached, len(acting)) for members in (truth, ~truth)
    )
    benefit = net_benefit(sensitivity, 1 - false_positive_rate, prevalence, acting)
    low, high = percentile_band(benefit[1:])
    act_on_all = net_benefit(np.ones_like(acting), np.zeros_like(acting), prevalence, acting)
    return DecisionCurve(
        prevalence, acting, benefit[0], low, high, act_on_all, operating_marks(runs, prevalence, fitting_prevalence)
    )


def _called_shares(
    resamples: GroupResamples, members: np.ndarray, reached: Sequence[np.ndarray], steps: int
) -> np.ndarray:
    """Return the (B + 1, T) share of some images that is called positive, the mean over runs.

    Args:
        resamples: resampled test images.
        members: (N,) bool, the images.
        reached: one (N,) per run, how many of the T probabilities an image reaches.
        steps: T.
    """
    table = np.sum([resamples.count_by_bin(run, steps + 1, members) for run in reached], axis=0)  # (G, T + 1)
    at_least = np.cumsum(table[:, ::-1], axis=1)[:, ::-1]  # the first column holds all
    sums = resamples.sum_counts(at_least)
    return np.asarray(sums[:, 1:] / sums[:, :1])


def operating_marks(
    runs: Sequence[Scores], prevalence: float, fitting_prevalence: float
) -> tuple[tuple[float, float], ...]:
    """Return each run's operating point on a decision curve as (probability, net benefit)."""
    marks = []
    for run in runs:
        p, truth = run.positives()
        called = p >= run.threshold
        acting = shift_prevalence(np.array(run.threshold), fitting_prevalence, prevalence)
        benefit = net_benefit(called[truth].mean(), (~called)[~truth].mean(), prevalence, acting)
        marks.append((float(acting), float(benefit)))
    return tuple(marks)


def shift_cost(before: Operation, after: Operation, n: int) -> dict[str, Estimate]:
    """Return the additional missed cases and false alarms per 1,000 people when the threshold moves.

    Args:
        before: the runs at one threshold.
        after: the same runs at another, at the same prevalence and on the same resamples.
        n: number of test images.
    """
    sensitivity, specificity = after.resamples - before.resamples
    return {
        "missed": interval(-1000 * before.prevalence * sensitivity + 0.0, n),
        "false_alarms": interval(-1000 * (1 - before.prevalence) * specificity + 0.0, n),
    }  # adding 0 turns the -0.0 of an unchanged value into 0


def at_thresholds(runs: Sequence[Scores], thresholds: Sequence[float]) -> list[Scores]:
    """Return the runs, each at a threshold of its own."""
    return [replace(run, threshold=threshold) for run, threshold in zip(runs, thresholds, strict=True)]


def _with_exact_bounds(shares: np.ndarray, units: int) -> np.ndarray:
    """Return the resampled values of a share, with its exact bound where resampling shows no variation.

    This is the case for a share of 0 or 1.
    """
    if 0 < shares[0] < 1:
        return shares
    levels = (np.arange(len(shares) - 1) + 0.5) / (len(shares) - 1)
    levels = np.random.default_rng(0).permutation(levels)
    bounds = beta.ppf(levels, units, 1)
    return np.concatenate([shares[:1], bounds if shares[0] == 1 else 1 - bounds])


def _interval_with_value(shares: np.ndarray, n: int) -> Estimate:
    """Return the interval of a share, extended to contain the share itself."""
    estimate = interval(shares, n)
    return replace(estimate, low=min(estimate.low, estimate.value), high=max(estimate.high, estimate.value))


def _check(prevalence: float) -> None:
    if not 0 < prevalence < 1:
        raise BadRequest(f"Expected a prevalence between 0 and 1, but got {prevalence}.")
