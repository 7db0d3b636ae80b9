"""Images whose label the networks dispute, as candidates for a label error.

Reference: Northcutt et al. 2021, Confident learning, arXiv:1911.00068.
"""

from collections.abc import Sequence

import numpy as np

from core.metrics.calibration import probabilities_of
from core.runs import Run, read_predictions
from core.types import EvaluatedPart

# images that a run did not learn from: test images, and those held out of its subset
PARTS: tuple[EvaluatedPart, ...] = ("test", "validation")


def disputed_images(runs: Sequence[Run]) -> list[str]:
    """Return the images that runs assign to another class on average, the least probable label first.

    Args:
        runs: runs of one data set with one class per image.
    Raises:
        CorruptRun: if predictions cannot be read.
    """
    of_label: dict[str, list[float]] = {}
    of_other: dict[str, list[float]] = {}
    for run in runs:
        for part in PARTS:
            stored = read_predictions(run.folder, part)
            probabilities = probabilities_of(stored.logits, run.meta.temperature, multilabel=False)
            rows = np.arange(len(stored.labels))
            own = probabilities[rows, stored.labels]
            probabilities[rows, stored.labels] = -1
            for name, here, other in zip(stored.ids.tolist(), own, probabilities.max(axis=1), strict=True):
                of_label.setdefault(name, []).append(float(here))
                of_other.setdefault(name, []).append(float(other))
    means = {name: (float(np.mean(of_label[name])), float(np.mean(of_other[name]))) for name in of_label}
    return sorted((name for name, (own, other) in means.items() if own < other), key=lambda name: means[name][0])
