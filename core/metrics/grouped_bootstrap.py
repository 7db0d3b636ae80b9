"""Fast path for bootstrapping binary and multilabel metrics, with resamples stored per patient or lesion.

The resamples are those of `bootstrap.resample_weights`. A group is resampled as a whole, so one small count per group
and resample replaces a table of images. Sums over images are taken within groups first. The metrics themselves are
defined in `measures`. Rankings are evaluated only at positive images, which saves most of the work with several images
per patient and few positive images. For other tasks use `bootstrap.measure_resamples`. A test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from core.metrics.bootstrap import RESAMPLES, prepend_ones, resample_weights
from core.metrics.calibration import BINS, bin_of
from core.metrics.measures import COUNTED, METRICS, mean_of_defined, ratio
from core.metrics.scores import Scores

_BLOCK = 200_000  # values converted at once; they stay in the processor's cache


@dataclass(frozen=True)
class GroupResamples:
    """Bootstrap resamples of groups.

    Attributes:
        counts: (B + 1, G) integers, how often each group occurs in each resample; the first row is all ones.
        group_index: (N,) index of the group of each image.
    """

    counts: np.ndarray
    group_index: np.ndarray

    def first(self, draws: int) -> GroupResamples:
        """Return the original images and the first `draws` resamples."""
        return GroupResamples(self.counts[: draws + 1], self.group_index)

    def count_by_bin(self, place: np.ndarray, places: int, of: np.ndarray) -> np.ndarray:
        """Count the images of each group in each bin.

        Args:
            place: (N,) bin indices below `places`.
            places: number of bins.
            of: (N,) bool, the images to count.
        Returns:
            (G, places).
        """
        groups = self.counts.shape[1]
        counts = np.bincount(self.group_index[of] * places + place[of], minlength=groups * places)
        return counts.reshape(groups, places)

    def sum_counts(self, by_group: np.ndarray) -> np.ndarray:
        """Return the exact (B + 1, K) sums over each resample of (G, K) integers."""
        # single precision is exact as long as no sum exceeds 2 ** 24
        return self._times(by_group.astype(np.float32)).astype(float)

    def _times(self, by_group: np.ndarray) -> np.ndarray:
        step = max(1, _BLOCK // max(1, self.counts.shape[1]))
        blocks = [self.counts[at : at + step] for at in range(0, len(self.counts), step)]
        return np.concatenate([block.astype(by_group.dtype) @ by_group for block in blocks])

    def sum_sparse(self, place: np.ndarray, places: int, of: np.ndarray) -> np.ndarray:
        """Return (B + 1, places), the `sum_counts` values of a `count_by_bin`, quickly if few images are counted."""
        ones = np.ones(int(of.sum()), np.float32)
        indicator = sparse.csr_array((ones, (place[of], self.group_index[of])), shape=(places, self.counts.shape[1]))
        return np.asarray(indicator @ self.counts.T.astype(np.float32)).T.astype(float)

    def sum_values(self, values: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Sum real values of images over each resample.

        Args:
            values: (N, K), one row per image.
            of: (N,) bool, the images to count.
        Returns:
            (B + 1, K).
        """
        groups = self.counts.shape[1]
        columns = [np.bincount(self.group_index[of], column[of], minlength=groups) for column in values.T]
        return self._times(np.stack(columns, axis=1))

    def weights(self) -> np.ndarray:
        """Return (B + 1, N), how often each image occurs in each resample."""
        return np.take(self.counts, self.group_index, axis=1).astype(np.int32)


def resample_groups(labels: np.ndarray, groups: np.ndarray, draws: int = RESAMPLES) -> GroupResamples:
    """Resample groups with replacement within each class, identically to `resample_weights`.

    Args:
        labels: (N,) class indices, or (N, C) findings.
        groups: (N,) patients or lesions.
        draws: number of bootstrap resamples.
    """
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    counts = prepend_ones(resample_weights(labels[first], np.arange(len(first)), draws))
    return GroupResamples(counts.astype(np.min_scalar_type(int(counts.max(initial=1)))), number)


LARGEST = 4_000_000  # groups times positive images; above it the per-image path is faster and needs less memory


def supports(scores: Scores, groups: int) -> bool:
    """Return whether a task is binary or multilabel, and small enough for the fast path.

    Args:
        scores: predictions of the task.
        groups: number of patients or lesions.
    """
    if scores.multilabel:
        return int(np.nansum(scores.labels, axis=0).max(initial=0)) * groups <= LARGEST
    return scores.positive is not None and int((scores.labels == scores.positive).sum()) * groups <= LARGEST


def measure_groups(scores: Scores, resamples: GroupResamples) -> dict[str, np.ndarray]:
    """Compute metrics on the original images and each resample; for findings, the mean over those with both classes.

    Metrics without a fast path are left out. If no finding has both classes, every metric is NaN.

    Args:
        scores: predictions of a task that `supports` accepts.
        resamples: resamples of its images.
    Returns:
        metric -> (B + 1,) values.
    """
    if not scores.multilabel:
        return _measured(scores, np.ones(len(scores), bool), resamples)
    by_finding = [_measured(scores.finding(k), scores.known(k), resamples) for k in scores.evaluable]
    if not by_finding:
        return {name: np.full(len(resamples.counts), np.nan) for name in METRICS}
    return {name: mean_of_defined(np.array([values[name] for values in by_finding])) for name in by_finding[0]}


def _measured(scores: Scores, known: np.ndarray, resamples: GroupResamples) -> dict[str, np.ndarray]:
    p, truth = scores.positives()
    table = resamples.count_by_bin(2 * truth + (scores.decisions == scores.positive), 4, known)
    true_negatives, false_positives, false_negatives, true_positives = resamples.sum_counts(table).T
    counts = true_positives, false_positives, false_negatives, true_negatives
    values = {name: of_counts(*counts) for name, of_counts in COUNTED.items()}
    values["auroc"], values["auprc"] = _ranked(scores.odds(scores.classes()[0]), truth, known, resamples)
    confidence = scores.probabilities.max(axis=1)
    gap = (scores.probabilities.argmax(axis=1) == scores.labels) - confidence
    sums = resamples.sum_values(
        np.column_stack([(truth - p) ** 2, gap[:, None] * np.eye(BINS)[bin_of(confidence, BINS)]]), known
    )
    values["brier"] = ratio(sums[:, 0], np.add.reduce(counts))
    values["ece"] = ratio(np.abs(sums[:, 1:]).sum(axis=1), np.add.reduce(counts))
    return values


def _ranked(
    rank: np.ndarray, truth: np.ndarray, known: np.ndarray, resamples: GroupResamples
) -> tuple[np.ndarray, np.ndarray]:
    """Return AUROC and AUPRC, (B + 1,) each, from the counts at and above the score of each positive image."""
    steps = np.unique(rank[truth & known])  # (T,)
    if not len(steps):
        undefined = np.full(len(resamples.counts), np.nan)
        return undefined, undefined.copy()
    reached = np.searchsorted(steps, rank, side="right")  # number of steps that a score reaches
    at_or_above = np.cumsum(resamples.count_by_bin(reached, len(steps) + 1, known)[:, ::-1], axis=1)[:, -2::-1]
    called = resamples.sum_counts(at_or_above)  # (B + 1, T) images at or above each step
    at = np.maximum(reached - 1, 0)
    tied = known & ~truth & (steps[at] == rank)
    positive, level = resamples.sum_sparse(at, len(steps), truth & known), resamples.sum_sparse(at, len(steps), tied)
    hits = np.cumsum(positive[:, ::-1], axis=1)[:, ::-1]
    positives = hits[:, 0]
    negatives = resamples.sum_counts(resamples.count_by_bin(np.zeros(len(rank), int), 1, known & ~truth))[:, 0]
    below = negatives[:, None] - (called - hits) + level / 2
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return ratio((positive * below).sum(axis=1), positives * negatives), ratio(
        (precision * positive).sum(axis=1), positives
    )
