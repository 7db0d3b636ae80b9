"""Intervals over test images by the bootstrap, patients drawn whole, classes kept at their counts of patients.

Intervals between seeds are another question and are never mixed with these.

References:
    Efron and Tibshirani 1993, An introduction to the bootstrap (percentile interval).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.metrics.measures import METRICS, Metric, Scores

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Attributes:
        value: on the images as they are.
        low, high: ends of the 95% interval.
        n: images.
    """

    value: float
    low: float
    high: float
    n: int


def draw_weights(labels: np.ndarray, groups: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each image is drawn when groups are drawn with replacement within each class.

    Args:
        labels: (N,), class indices; or (N, C) findings, of which having any counts. A group counts for the class of its
            first image.
        groups: (N,), patients or lesions.
        draws: bootstrap samples.
        seed: of the draws.
    Returns:
        (draws, N), counts.
    """
    random = np.random.default_rng(seed)
    labels = labels if labels.ndim == 1 else (np.nan_to_num(labels) > 0.5).any(axis=1)
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    stratum = labels[first]
    counts = np.zeros((draws, len(first)))
    for label in np.unique(stratum):
        members = np.flatnonzero(stratum == label)
        counts[:, members] = random.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
    return counts[:, number]


def bootstrap_difference(
    runs: Sequence[Scores], others: Sequence[Scores], groups: np.ndarray, names: tuple[str, ...], draws: int = DRAWS
) -> dict[str, Estimate]:
    """95% percentile intervals over test images for the mean of some runs minus the mean of others.

    The same images are drawn for both sides; seeds stay as they are.

    Args:
        runs: predictions for the same images in the same order.
        others: the same, of what they are compared with.
        groups: (N,), what is drawn as a whole.
        names: metrics.
        draws: bootstrap samples.
    """
    weights = draw_weights(runs[0].labels, groups, draws)
    once = np.ones((1, len(groups)))

    def minus(metric: Metric, drawn: np.ndarray) -> np.ndarray:
        sides = [np.mean([metric(run, drawn) for run in side], axis=0) for side in (runs, others)]
        return sides[0] - sides[1]

    found = {}
    for name in names:
        low, high = np.nanpercentile(minus(METRICS[name], weights), [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2])
        value = float(minus(METRICS[name], once)[0])
        found[name] = Estimate(value, float(low), float(high), len(groups))
    return found


def bootstrap(
    runs: Sequence[Scores], groups: np.ndarray, names: tuple[str, ...] | None = None, draws: int = DRAWS
) -> dict[str, Estimate]:
    """95% percentile intervals over test images for the mean of one or several runs on the same images.

    Args:
        runs: predictions for the same images in the same order, one `Scores` a seed; the seeds stay as they are.
        groups: (N,), what is drawn as a whole.
        names: metrics; all by default.
        draws: bootstrap samples.
    Raises:
        ValueError: if there is no run, or the runs are not of the same images.
    """
    if not runs or any(not np.array_equal(run.labels, runs[0].labels, equal_nan=True) for run in runs):
        raise ValueError("Expected one or more runs on the same test images in the same order.")
    weights = draw_weights(runs[0].labels, groups, draws)
    once = np.ones((1, len(groups)))
    tail = 100 * (1 - LEVEL) / 2
    found = {}
    for name in names or tuple(METRICS):
        metric = METRICS[name]
        low, high = np.nanpercentile(np.mean([metric(run, weights) for run in runs], axis=0), [tail, 100 - tail])
        value = np.mean([metric(run, once)[0] for run in runs])
        found[name] = Estimate(float(value), float(low), float(high), len(groups))
    return found
