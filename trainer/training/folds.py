"""Cross-validation inside a small subset, stratified by class.

A patient's images, and copies of an image, never straddle two folds.
"""

import numpy as np

from core.data.splits import strata_of

NOTHING_HELD_OUT = "nothing held out (one fold, or one patient in a class); threshold 0.5, temperature 1"


def validation_folds(
    labels: np.ndarray, groups: np.ndarray, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of (training, held-out) positions; every position is held out exactly once.

    Args:
        labels: (n,) class indices, or (n, C) findings. Findings are stratified by the rarest one that an image has.
        groups: (n,) group numbers; images of a group stay together.
        folds: number of folds; fewer are made where a class has fewer groups.
        seed: random seed of the split.
    Returns:
        no pairs where nothing can be held out: for one fold, or if a class has only one group.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    labels = strata_of(labels, groups, folds)
    count = min(folds, *(len(np.unique(groups[labels == c])) for c in np.unique(labels)))
    if count < 2:
        return []
    return list(StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(labels, labels, groups))
