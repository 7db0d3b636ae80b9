"""Cross-validation inside a small subset: stratified by class, patients and copies never straddling."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from core.data.splits import strata_of
from core.errors import BadRequest

NOTHING_HELD_OUT = "nothing held out, as a class has images of one patient only; threshold 0.5, temperature 1"


def can_hold_out(labels: np.ndarray, groups: np.ndarray, folds: int) -> bool:
    """Whether every class has at least two groups, so that some can be judged by what learnt the others.

    Args:
        labels: (n,), class indices, or (n, C) findings.
        groups: (n,), what stays together.
        folds: parts of the cross-validation.
    """
    labels = strata_of(labels, groups, folds)
    return min(len(np.unique(groups[labels == c])) for c in np.unique(labels)) > 1


def judged_folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """`inner_folds`, or none where nothing can be held out."""
    return inner_folds(labels, groups, folds, seed) if folds > 1 and can_hold_out(labels, groups, folds) else []


def inner_folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of (learnt, judged) positions; every position is judged once.

    Args:
        labels: (n,), class indices, or (n, C) findings, of which the rarest that an image has is kept balanced.
        groups: (n,), what stays together.
        folds: parts, fewer where a class has not so many groups.
        seed: of the draw.

    Raises:
        BadRequest: if a class has fewer than two groups, so that nothing can be held out.
    """
    labels = strata_of(labels, groups, folds)
    smallest = min(len(np.unique(groups[labels == c])) for c in np.unique(labels))
    if smallest < 2:
        raise BadRequest("At least two images (of different patients) a class are needed to fit a threshold.")
    chooser = StratifiedGroupKFold(min(folds, smallest), shuffle=True, random_state=seed)
    return list(chooser.split(labels, labels, groups))
