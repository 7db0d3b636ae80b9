"""Bootstrap resamples kept by patient or lesion, compact enough to hold in memory and fast enough for a slider.

The resamples are those of `bootstrap.draw_weights`. A group is resampled as a whole, so one small count a group and
resample replaces a table of images. Sums over images are taken within groups first. The metrics themselves are defined
in `measures`; here is a fast path for binary and multilabel tasks. Rankings are only visited where a positive image
stands, which saves most of the work with several images a patient and few positive images. For other tasks use
`bootstrap.measure_drawn`. A test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from core.metrics.bootstrap import DRAWS, draw_weights, with_once
from core.metrics.calibration import BINS, bin_of
from core.metrics.measures import COUNTED, METRICS, mean_of_defined
from core.metrics.scores import Scores

_BLOCK = 200_000  # numbers converted at once, so that they stay in the processor's cache


@dataclass(frozen=True)
class GroupDraws:
    """Which groups were drawn.

    Attributes:
        counts: (B + 1, G) whole numbers, how often each group was drawn, first each once.
        number: (N,) the group of each image, an index into those.
    """

    counts: np.ndarray
    number: np.ndarray

    def first(self, draws: int) -> GroupDraws:
        """The images as they are, and the first so many draws."""
        return GroupDraws(self.counts[: draws + 1], self.number)

    def table(self, place: np.ndarray, places: int, of: np.ndarray) -> np.ndarray:
        """(G, places): how many images of each group lie at each place.

        Args:
            place: (N,) indices below `places`.
            places: how many there are.
            of: (N,) bool, the images that are counted.
        """
        groups = self.counts.shape[1]
        found = np.bincount(self.number[of] * places + place[of], minlength=groups * places)
        return found.reshape(groups, places)

    def summed(self, by_group: np.ndarray) -> np.ndarray:
        """(G, K) whole numbers -> (B + 1, K) their exact sums over each draw."""
        values = by_group.astype(np.float32)  # exact as long as no sum exceeds 2 ** 24
        step = max(1, _BLOCK // max(1, self.counts.shape[1]))
        blocks = [self.counts[at : at + step].astype(np.float32) @ values for at in range(0, len(self.counts), step)]
        return np.concatenate(blocks).astype(float)

    def picked(self, place: np.ndarray, places: int, of: np.ndarray) -> np.ndarray:
        """(B + 1, places): what `summed` gives of a `table` in which few images are counted."""
        ones = np.ones(int(of.sum()), np.float32)
        few = sparse.csr_array((ones, (place[of], self.number[of])), shape=(places, self.counts.shape[1]))
        return np.asarray(few @ self.counts.T.astype(np.float32)).T.astype(float)

    def added(self, values: np.ndarray, of: np.ndarray) -> np.ndarray:
        """(N, K) real numbers of images -> (B + 1, K) their sums over each draw.

        Args:
            values: one row an image.
            of: (N,) bool, the images that are counted.
        """
        groups = self.counts.shape[1]
        columns = [np.bincount(self.number[of], column[of], minlength=groups) for column in values.T]
        by_group = np.stack(columns, axis=1)
        step = max(1, _BLOCK // max(1, groups))
        blocks = [self.counts[at : at + step].astype(float) @ by_group for at in range(0, len(self.counts), step)]
        return np.concatenate(blocks)

    def weights(self) -> np.ndarray:
        """(B + 1, N): how often each image was drawn."""
        return np.take(self.counts, self.number, axis=1).astype(np.int32)


def draw_groups(labels: np.ndarray, groups: np.ndarray, draws: int = DRAWS) -> GroupDraws:
    """Draws groups with replacement within each class, the same as `draw_weights`.

    Args:
        labels: (N,) class indices, or (N, C) findings.
        groups: (N,) patients or lesions.
        draws: bootstrap samples.
    """
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    counts = with_once(draw_weights(labels[first], np.arange(len(first)), draws))
    return GroupDraws(counts.astype(np.min_scalar_type(int(counts.max(initial=1)))), number)


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
