"""Cross-validation inside a small subset, stratified by class.

A patient's images, and copies of an image, never straddle two folds.
"""

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from core.data.splits import strata_of
from core.errors import BadRequest

NOTHING_HELD_OUT = "nothing held out (one fold, or one patient in a class); threshold 0.5, temperature 1"


def can_cross_validate(labels: np.ndarray, groups: np.ndarray, folds: int) -> bool:
    """Return whether every class has at least two groups, so that each can be held out once.

    Args:
        labels: (n,) class indices, or (n, C) findings.
        groups: (n,) group numbers; images of a group stay together.
        folds: number of folds of the cross-validation.
    """
    labels = strata_of(labels, groups, folds)
    return min(len(np.unique(groups[labels == c])) for c in np.unique(labels)) > 1


def validation_folds(
    labels: np.ndarray, groups: np.ndarray, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return `inner_folds`, or an empty list where nothing can be held out."""
    return inner_folds(labels, groups, folds, seed) if folds > 1 and can_cross_validate(labels, groups, folds) else []


def inner_folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of (training, held-out) positions; every position is held out exactly once.

    Args:
        labels: (n,) class indices, or (n, C) findings. Findings are stratified by the rarest one that an image has.
        groups: (n,) group numbers; images of a group stay together.
        folds: number of folds; fewer are made where a class has fewer groups.
        seed: random seed of the split.

    Raises:
        BadRequest: if a class has fewer than two groups, so that nothing can be held out.
    """
    labels = strata_of(labels, groups, folds)
    smallest = min(len(np.unique(groups[labels == c])) for c in np.unique(labels))
    if smallest < 2:
        raise BadRequest(
            "Fitting a threshold needs images of at least two patients per class, but a class has images of one "
            "patient only. Raise --size."
        )
    splitter = StratifiedGroupKFold(min(folds, smallest), shuffle=True, random_state=seed)
    return list(splitter.split(labels, labels, groups))
