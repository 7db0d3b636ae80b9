"""Selective prediction: the risk among the most certain images against the share that is answered.

Certainty is the distance of the decision's probability from the point where it would change: the threshold of a binary
task, on the log odds scale, or the probability of the most likely class. No cutoff is fitted here.

References:
    El-Yaniv and Wiener 2010, JMLR 11:1605-1641. Geifman and El-Yaniv 2017, arXiv:1705.08500.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from core.errors import BadRequest
from core.metrics.bootstrap import percentile_band
from core.metrics.grouped_bootstrap import GroupResamples, resample_groups
from core.metrics.scores import Scores

_EDGE = 1e-9


@dataclass(frozen=True)
class RiskCurve:
    """Risk against coverage.

    Attributes:
        coverage: (T,) shares of images answered, the most certain first.
        risk, low, high: (T,) share of these classified wrongly, with the ends of its 95% interval.
    """

    coverage: np.ndarray
    risk: np.ndarray
    low: np.ndarray
    high: np.ndarray


def decision_certainty(scores: Scores) -> np.ndarray:
    """Return the (N,) certainty of each decision, larger for decisions further from changing.

    Raises:
        BadRequest: if there are several findings.
    """
    if scores.multilabel:
        raise BadRequest("Expected one class per image; choose one of the findings first.")
    if scores.positive is None:
        return np.asarray(scores.probabilities.max(axis=1))
    p = np.clip(scores.probabilities[:, scores.positive], _EDGE, 1 - _EDGE)
    return np.abs(logit(p) - logit(np.clip(scores.threshold, _EDGE, 1 - _EDGE)))


def risk_curve(
    runs: Sequence[Scores],
    groups: np.ndarray,
    coverage: np.ndarray | None = None,
    draws: int = 400,
    resamples: GroupResamples | None = None,
) -> RiskCurve:
    """Return risk against coverage of a family, the mean over its runs.

    Args:
        runs: predictions for the same images.
        groups: (N,), patients or lesions, resampled as a whole.
        coverage: (T,) shares above 0, up to 1; 5% to all by default.
        draws: number of bootstrap resamples.
        resamples: resamples of the images, made once for all positions of a slider; made here if None. Without
            resamples the curve has no band (NaN).
    Raises:
        BadRequest: if there is no run or there are several findings.
    """
    if not runs:
        raise BadRequest("Expected at least one run.")
    shares = np.linspace(0.05, 1, 20) if coverage is None else coverage
    weights = (resample_groups(runs[0].labels, groups, draws) if resamples is None else resamples).weights()
    weights = np.concatenate([np.zeros_like(weights[:, :1]), weights], axis=1)  # cumulative sums start at 0 images
    risks = np.mean([_risks(run, weights, shares) for run in runs], axis=0)  # (draws + 1, T)
    low, high = percentile_band(risks[1:])
    return RiskCurve(shares, risks[0], low, high)


def _risks(scores: Scores, weights: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the (B, T) risk among the most certain shares; images with equal certainty count in part.

    Args:
        scores: predictions.
        weights: (B, 1 + N) integers, a column of zeros first.
        shares: (T,) shares of images answered.
    """
    certainty = decision_certainty(scores)
    order = np.argsort(-certainty, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(certainty[order]) != 0])
    wrong = (scores.decisions != scores.labels)[order]
    cuts = np.r_[0, starts[1:], len(order)]  # images answered at each cut, from none to all
    wrong_until = np.r_[0, np.cumsum(wrong)][cuts]  # few are wrong, so only these are summed
    answered, errors = (
        np.cumsum(np.take(weights, np.r_[0, 1 + indices], axis=1), axis=1, dtype=np.int32)
        for indices in (order, order[wrong])
    )
    target = answered[:, -1:] * shares
    at = np.maximum(list(map(np.searchsorted, answered[:, cuts], target)), 1)  # (B, T) first cut that reaches it
    rows = np.arange(len(answered))[:, None]
    before, after = answered[rows, cuts[at - 1]], answered[rows, cuts[at]]
    errors_before, errors_after = errors[rows, wrong_until[at - 1]], errors[rows, wrong_until[at]]
    step = np.divide(target - before, after - before, out=np.zeros_like(target), where=after > before)
    return np.asarray((errors_before + np.clip(step, 0, 1) * (errors_after - errors_before)) / target)
