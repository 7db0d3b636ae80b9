"""Drawn test images kept by patient or lesion, small enough to hold and quick enough for a slider.

The draws are those of `intervals.draw_weights`: a group is drawn as a whole, so that one small number a group and draw
says all, where a table of images would be many times as large. What is added up over drawn images is added up within
groups first. No statistic is here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from core.metrics.intervals import DRAWS, draw_weights, with_once

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
