"""What an operating point is worth where the classifier is to be used: predictive values, and what a shift costs.

Sensitivity and specificity are measured on the test images; predictive values, alarms and net benefit follow from them
at the user's own prevalence, never at the share of positives that the test set happens to have. Nothing is fitted here.

References:
    Vickers and Elkin 2006, Decision curve analysis, doi:10.1177/0272989X06295361.
    Clopper and Pearson 1934 (shares of none or all), doi:10.1093/biomet/26.4.404.
    Shifting probabilities to another prevalence: Saerens et al. 2002, doi:10.1162/089976602753284446.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, logit
from scipy.stats import beta

from core.errors import BadRequest
from core.metrics.bootstrap import DRAWS, Estimate, ends, interval
from core.metrics.grouped_bootstrap import GroupDraws, draw_groups
from core.metrics.scores import Scores

CURVE_DRAWS = 400


@dataclass(frozen=True)
class Operation:
    """A classifier at its operating point, at a prevalence.

    Attributes:
        prevalence: share of positives among those it is used on.
        sensitivity, specificity: mean over runs, on the test images.
        ppv, npv: share of alarms, and of quiet answers, that are right at this prevalence.
        drawn: (2, B + 1), sensitivity and specificity as they are and on each draw, to subtract those of another
            threshold from; the exact bound of a share of none or all is not in them.
    """

    prevalence: float
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    drawn: np.ndarray

    def per_thousand(self) -> dict[str, float]:
        """Of 1,000 people: cases found and missed, false alarms, and those rightly left alone."""
        cases, others = 1000 * self.prevalence, 1000 * (1 - self.prevalence)
        found, quiet = self.sensitivity.value * cases, self.specificity.value * others
        return {"found": found, "missed": cases - found, "false_alarms": others - quiet, "left_alone": quiet}


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit against the probability from which one would act; in true positives a person.

    Attributes:
        prevalence: at which it holds.
        thresholds: (T,) probabilities from which one would act.
        benefit, low, high: (T,) of the classifier with the ends of its 95% interval.
        act_on_all: (T,) of acting on everybody; acting on nobody has 0.
        marks: (probability, net benefit) of the runs' own operating points.
    """

    prevalence: float
    thresholds: np.ndarray
    benefit: np.ndarray
    low: np.ndarray
    high: np.ndarray
    act_on_all: np.ndarray
    marks: tuple[tuple[float, float], ...]


def drawn_images(runs: Sequence[Scores], groups: np.ndarray, draws: int = DRAWS) -> GroupDraws:
    """Drawn test images for `operate` and `decision_curve`, so that a slider draws them once.

    Raises:
        BadRequest: if there is no run, or the runs are not of the same images.
    """
    if not runs or any(not np.array_equal(run.labels, runs[0].labels) for run in runs):
        raise BadRequest("Expected one or more runs on the same test images in the same order.")
    return draw_groups(runs[0].labels, groups, draws)


def operate(
    runs: Sequence[Scores], groups: np.ndarray, prevalence: float, drawn: GroupDraws | None = None
) -> Operation:
    """Sensitivity, specificity and predictive values of a family, the mean over its runs at their thresholds.

    Args:
        runs: binary predictions for the same images, each at its threshold (`Scores.at` sets another).
        groups: (N,), patients or lesions, drawn as a whole.
        prevalence: share of positives where the classifier is to be used.
        drawn: of `drawn_images`; drawn anew if None.
    Raises:
        BadRequest: if the prevalence is not between 0 and 1, or the task is not binary.
    """
    _check(prevalence)
    drawn = drawn_images(runs, groups) if drawn is None else drawn
    truth = runs[0].positives()[1]
    called = np.sum([run.positives()[0] >= run.threshold for run in runs], axis=0)  # (N,) by how many runs
    right = _right(drawn, truth, called, len(runs))
    units = [len(np.unique(drawn.number[which])) for which in (truth, ~truth)]
    shares = [_with_doubt(row, count) for row, count in zip(right, units, strict=True)]
    ppv, npv = predictive_values(shares[0], shares[1], prevalence)
    sensitivity, specificity, ppv_found, npv_found = (_around(row, len(groups)) for row in (*shares, ppv, npv))
    return Operation(prevalence, sensitivity, specificity, ppv_found, npv_found, right)


def _right(drawn: GroupDraws, truth: np.ndarray, called: np.ndarray, runs: int) -> np.ndarray:
    """(2, B + 1) share of right answers among positive and among other images, the mean over runs.

    Args:
        drawn: test images.
        truth: (N,) bool, whether an image is positive.
        called: (N,) by how many runs an image is called positive.
        runs: how many there are.
    """
    columns = []
    for which, hits in ((truth, called), (~truth, runs - called)):
        table = drawn.table(hits, runs + 1, which)
        columns += [table @ np.arange(runs + 1), table.sum(axis=1)]
    right, positives, quiet, others = drawn.summed(np.stack(columns, axis=1)).T
    return np.stack([right / (runs * positives), quiet / (runs * others)])


def predictive_values(
    sensitivity: np.ndarray, specificity: np.ndarray, prevalence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positive and negative predictive value by Bayes; NaN where nothing is called so."""
    found, missed = sensitivity * prevalence, (1 - sensitivity) * prevalence
    alarms, quiet = (1 - specificity) * (1 - prevalence), specificity * (1 - prevalence)
    with np.errstate(invalid="ignore"):
        return found / (found + alarms), quiet / (quiet + missed)


def net_benefit(sensitivity: np.ndarray, specificity: np.ndarray, prevalence: float, acting: np.ndarray) -> np.ndarray:
    """True positives a person, less false alarms at their exchange rate.

    Args:
        sensitivity: of the decision.
        specificity: of the decision.
        prevalence: share of positives.
        acting: probability from which one would act; its odds say how many cases a false alarm is worth.
    """
    return sensitivity * prevalence - (1 - specificity) * (1 - prevalence) * acting / (1 - acting)


def shifted(probabilities: np.ndarray, fitted_at: float, prevalence: float) -> np.ndarray:
    """Probabilities that hold at one prevalence, as they are at another."""
    edge = 1e-12
    moved = logit(np.clip(probabilities, edge, 1 - edge)) - logit(fitted_at) + logit(prevalence)
    return np.asarray(expit(moved))


def decision_curve(
    runs: Sequence[Scores],
    groups: np.ndarray,
    prevalence: float,
    fitted_at: float,
    acting: np.ndarray | None = None,
    drawn: GroupDraws | None = None,
) -> DecisionCurve:
    """Net benefit of a family at each probability from which one would act, the mean over its runs.

    Args:
        runs: binary predictions for the same images.
        groups: (N,), patients or lesions, drawn as a whole.
        prevalence: share of positives where the classifier is to be used.
        fitted_at: share of positives among the images that temperatures were fitted on; probabilities are shifted from
            there to `prevalence`.
        acting: (T,) probabilities, rising; 0.01 to 0.99 by default.
        drawn: of `drawn_images`; a few drawn anew if None. Without draws the curve has no band (NaN).
    Raises:
        BadRequest: if a prevalence is not between 0 and 1, or the task is not binary.
    """
    _check(prevalence)
    _check(fitted_at)
    acting = np.linspace(0.01, 0.99, 50) if acting is None else acting
    drawn = drawn_images(runs, groups, CURVE_DRAWS) if drawn is None else drawn
    truth = runs[0].positives()[1]
    reached = [
        np.searchsorted(acting, shifted(run.positives()[0], fitted_at, prevalence), side="right") for run in runs
    ]
    sensitivity, alarms = (_called(drawn, which, reached, len(acting)) for which in (truth, ~truth))
    benefit = net_benefit(sensitivity, 1 - alarms, prevalence, acting)
    low, high = ends(benefit[1:])
    act_on_all = net_benefit(np.ones_like(acting), np.zeros_like(acting), prevalence, acting)
    return DecisionCurve(prevalence, acting, benefit[0], low, high, act_on_all, marks_of(runs, prevalence, fitted_at))


def _called(drawn: GroupDraws, which: np.ndarray, reached: Sequence[np.ndarray], steps: int) -> np.ndarray:
    """(B + 1, T) share of some images that is called, the mean over runs.

    Args:
        drawn: test images.
        which: (N,) bool, the images.
        reached: of each run (N,), how many of the T probabilities an image reaches.
        steps: T.
    """
    table = np.sum([drawn.table(run, steps + 1, which) for run in reached], axis=0)  # (G, T + 1)
    at_least = np.cumsum(table[:, ::-1], axis=1)[:, ::-1]  # the first column holds all
    sums = drawn.summed(at_least)
    return np.asarray(sums[:, 1:] / sums[:, :1])


def marks_of(runs: Sequence[Scores], prevalence: float, fitted_at: float) -> tuple[tuple[float, float], ...]:
    """Where the operating point of each run lies on a decision curve: (probability, net benefit)."""
    truth = runs[0].positives()[1]
    return tuple(_mark(run, truth, prevalence, fitted_at) for run in runs)


def _mark(run: Scores, truth: np.ndarray, prevalence: float, fitted_at: float) -> tuple[float, float]:
    acting = shifted(np.array(run.threshold), fitted_at, prevalence)
    says = run.positives()[0] >= run.threshold
    return float(acting), float(net_benefit(says[truth].mean(), (~says)[~truth].mean(), prevalence, acting))


def shift_cost(before: Operation, after: Operation, n: int) -> dict[str, Estimate]:
    """What moving the threshold changes in 1,000 people: cases missed more, false alarms more.

    Args:
        before: the runs at one threshold.
        after: the same runs at another, at the same prevalence and on the same draws.
        n: test images.
    """
    sensitivity, specificity = after.drawn - before.drawn
    return {
        "missed": interval(-1000 * before.prevalence * sensitivity + 0.0, n),
        "false_alarms": interval(-1000 * (1 - before.prevalence) * specificity + 0.0, n),
    }  # 0 is added because nothing changed is 0, not the -0.0 that the product gives


def at_thresholds(runs: Sequence[Scores], thresholds: Sequence[float]) -> list[Scores]:
    """The runs, each at a threshold of its own."""
    return [replace(run, threshold=threshold) for run, threshold in zip(runs, thresholds, strict=True)]


def _with_doubt(found: np.ndarray, units: int) -> np.ndarray:
    """Draws of a share; where it is none or all, drawing again shows no doubt, and the exact bound takes its place."""
    if 0 < found[0] < 1:
        return found
    levels = (np.arange(len(found) - 1) + 0.5) / (len(found) - 1)
    levels = np.random.default_rng(0).permutation(levels)
    doubt = beta.ppf(levels, units, 1)
    return np.concatenate([found[:1], doubt if found[0] == 1 else 1 - doubt])


def _around(found: np.ndarray, n: int) -> Estimate:
    """The interval of a share, in which the share itself always lies."""
    one = interval(found, n)
    return replace(one, low=min(one.low, one.value), high=max(one.high, one.value))


def _check(prevalence: float) -> None:
    if not 0 < prevalence < 1:
        raise BadRequest(f"Expected a prevalence between 0 and 1, but got {prevalence}.")
