"""Answering only when sure: the risk among the images that are answered, against how many are.

Sureness is the distance of the decision's probability from where it would turn: the threshold of a binary task, on the
scale of log odds, or the probability of the likeliest class. No limit is fitted here.

References:
    El-Yaniv and Wiener 2010, JMLR 11:1605-1641. Geifman and El-Yaniv 2017, arXiv:1705.08500.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from core.errors import BadRequest
from core.metrics.intervals import Estimate, draw_weights, ends, interval, with_once
from core.metrics.scores import Scores

_EDGE = 1e-9


@dataclass(frozen=True)
class RiskCurve:
    """Risk against coverage.

    Attributes:
        coverage: (T,) shares of images answered, the surest first.
        risk, low, high: (T,) share of these decided wrongly, with the ends of its 95% interval.
        area: mean risk over all coverages.
    """

    coverage: np.ndarray
    risk: np.ndarray
    low: np.ndarray
    high: np.ndarray
    area: Estimate


def sureness(scores: Scores) -> np.ndarray:
    """(N,), larger for decisions that are further from turning.

    Raises:
        BadRequest: if there are several findings.
    """
    if scores.multilabel:
        raise BadRequest("Expected one class an image; of several findings choose one first.")
    if scores.positive is None:
        return np.asarray(scores.probabilities.max(axis=1))
    p = np.clip(scores.probabilities[:, scores.positive], _EDGE, 1 - _EDGE)
    return np.abs(logit(p) - logit(np.clip(scores.threshold, _EDGE, 1 - _EDGE)))


def risk_curve(
    runs: Sequence[Scores],
    groups: np.ndarray,
    coverage: np.ndarray | None = None,
    draws: int = 400,
    weights: np.ndarray | None = None,
) -> RiskCurve:
    """Risk against coverage of a family, the mean over its runs.

    Args:
        runs: predictions for the same images.
        groups: (N,), patients or lesions, drawn as a whole.
        coverage: (T,) shares above 0, up to 1; 5% to all by default.
        draws: bootstrap samples.
        weights: (B + 1, N) drawn images, first each once, so that a slider draws them once; drawn anew if None. The
            first row alone gives the curve without a band (NaN).
    Raises:
        BadRequest: if there is no run or there are several findings.
    """
    if not runs:
        raise BadRequest("Expected at least one run.")
    shares = np.linspace(0.05, 1, 20) if coverage is None else coverage
    weights = with_once(draw_weights(runs[0].labels, groups, draws)) if weights is None else weights
    found = np.mean([_risks(run, weights, shares) for run in runs], axis=0)  # (draws + 1, T)
    low, high = ends(found[1:])
    return RiskCurve(shares, found[0], low, high, interval(found.mean(axis=1), len(groups)))


def _risks(scores: Scores, weights: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(B, N) weights -> (B, T) risk among the surest share of the weight; images equally sure are taken in part."""
    sure = sureness(scores)
    order = np.argsort(-sure, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(sure[order]) != 0])
    wrong = (scores.decisions != scores.labels)[order]
    cuts = np.r_[0, starts[1:], len(order)]  # images answered at each cut, from none to all
    answered = _added(weights[:, order])[:, cuts]
    errors = _added(weights[:, order[wrong]])[:, np.r_[0, np.cumsum(wrong)][cuts]]  # few are wrong: add up these alone
    wanted = answered[:, -1:] * shares
    return _between(wanted, answered, errors) / wanted


def _added(weights: np.ndarray) -> np.ndarray:
    """(B, N) -> (B, N + 1): the weight of the first none, one, two, ... images."""
    return np.pad(np.cumsum(weights, axis=1), ((0, 0), (1, 0)))


def _between(wanted: np.ndarray, answered: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Row by row the errors where (B, T) weight is answered, on the line between the cuts beside it, for all rows in
    one search: each row is moved above the one before it.
    """
    rows = np.arange(len(answered))[:, None]
    above = (answered[:, -1].max() + 1) * rows
    at = np.searchsorted((answered + above).ravel(), (wanted + above).ravel()).reshape(wanted.shape)
    at = np.clip(at - answered.shape[1] * rows, 1, answered.shape[1] - 1)
    before, after = answered[rows, at - 1], answered[rows, at]
    step = np.divide(wanted - before, after - before, out=np.zeros_like(wanted), where=after > before)
    return np.asarray(errors[rows, at - 1] + np.clip(step, 0, 1) * (errors[rows, at] - errors[rows, at - 1]))
