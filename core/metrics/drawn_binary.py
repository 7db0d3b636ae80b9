"""All metrics of a yes-or-no task, or of findings, on drawn groups at once: the values of `measures`, sooner.

What is measured is said there. Here images are added up within groups first, and rankings are looked at only where a
positive image stands: with several images a patient and few positive ones, that is a small part of the work. Where
that is not so, and for tasks of several classes, `intervals.measure_drawn` is the way. A test holds both against each
other.
"""

from __future__ import annotations

import numpy as np

from core.metrics.calibration import BINS, bin_of
from core.metrics.group_draws import GroupDraws
from core.metrics.measures import COUNTED, METRICS, mean_of_defined
from core.metrics.scores import Scores

LARGEST = 4_000_000  # groups times positive images, from which image by image is quicker, and smaller


def takes(scores: Scores, groups: int) -> bool:
    """Whether a task is one of yes or no, or of findings, and small enough.

    Args:
        scores: of the task.
        groups: patients or lesions.
    """
    if scores.multilabel:
        return int(np.nansum(scores.labels, axis=0).max(initial=0)) * groups <= LARGEST
    return scores.positive is not None and int((scores.labels == scores.positive).sum()) * groups <= LARGEST


def measure_groups(scores: Scores, draws: GroupDraws) -> dict[str, np.ndarray]:
    """Metric -> (B + 1,) values, first on the images as they are; of findings the mean over those that can be judged.

    A metric that is not known here is left out; where nothing can be judged, every metric is NaN.

    Args:
        scores: of a task that `takes` accepts.
        draws: of its images.
    """
    if not scores.multilabel:
        return _measured(scores, np.ones(len(scores), bool), draws)
    found = [_measured(scores.finding(k), scores.known(k), draws) for k in scores.judged()]
    if not found:
        return {name: np.full(len(draws.counts), np.nan) for name in METRICS}
    return {name: mean_of_defined(np.array([one[name] for one in found])) for name in found[0]}


def _measured(scores: Scores, known: np.ndarray, draws: GroupDraws) -> dict[str, np.ndarray]:
    p, truth = scores.positives()
    counts = _counts(truth, scores.decisions == scores.positive, known, draws)
    found = {name: of_counts(*counts) for name, of_counts in COUNTED.items()}
    found["auroc"], found["auprc"] = _ranked(scores.odds(scores.classes()[0]), truth, known, draws)
    sure = scores.probabilities.max(axis=1)
    gap = (scores.probabilities.argmax(axis=1) == scores.labels) - sure
    added = draws.added(np.column_stack([(truth - p) ** 2, gap[:, None] * np.eye(BINS)[bin_of(sure, BINS)]]), known)
    found["brier"] = _share(added[:, 0], np.add.reduce(counts))
    found["ece"] = _share(np.abs(added[:, 1:]).sum(axis=1), np.add.reduce(counts))
    return found


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _counts(
    truth: np.ndarray, says: np.ndarray, known: np.ndarray, draws: GroupDraws
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Hits, false alarms, misses and rightly quiet images: four (B + 1,)."""
    table = draws.table(2 * truth + says, 4, known)
    quiet, alarms, missed, hits = draws.summed(table).T
    return hits, alarms, missed, quiet


def _ranked(rank: np.ndarray, truth: np.ndarray, known: np.ndarray, draws: GroupDraws) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and AUPRC, (B + 1,) each, from what lies at and above the score of each positive image."""
    steps = np.unique(rank[truth & known])  # (T,)
    if not len(steps):
        nothing = np.full(len(draws.counts), np.nan)
        return nothing, nothing.copy()
    reached = np.searchsorted(steps, rank, side="right")  # how many of them a score reaches
    from_here = np.cumsum(draws.table(reached, len(steps) + 1, known)[:, ::-1], axis=1)[:, -2::-1]
    called = draws.summed(from_here)  # (B + 1, T) images at or above each
    at = np.maximum(reached - 1, 0)
    tied = known & ~truth & (steps[at] == rank)
    positive, level = draws.picked(at, len(steps), truth & known), draws.picked(at, len(steps), tied)
    hits = np.cumsum(positive[:, ::-1], axis=1)[:, ::-1]
    there = hits[:, 0]
    rest = draws.summed(draws.table(np.zeros(len(rank), int), 1, known & ~truth))[:, 0]
    below = rest[:, None] - (called - hits) + level / 2
    right = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return _share((positive * below).sum(axis=1), there * rest), _share((right * positive).sum(axis=1), there)
