"""The conformal set of one answer, with what may be promised of it and what was measured."""

from __future__ import annotations

import numpy as np

from core.cases.case import ClassSet
from core.checkpoints import RunMeta
from core.metrics.conformal import Conformal, Coverage, sets_of
from core.predictor import Prediction

LEVEL = 0.9


def class_set(fitted: Conformal, measured: Coverage, meta: RunMeta, prediction: Prediction) -> ClassSet:
    """The classes that cannot be ruled out for an image; of findings, whether the one asked about is there.

    Args:
        fitted: sets of the run, by `core.evidence.conformal`; of findings, of the prediction's target.
        measured: what they do on test images.
        meta: the run.
        prediction: its answer.
    """
    labels, probabilities = meta.titles, prediction.probabilities
    if meta.multilabel:
        finding = labels[prediction.target]
        chance = probabilities[prediction.target]
        labels, probabilities = (f"no {finding}", finding), np.array([1 - chance, chance])
    inside = sets_of(fitted, probabilities[None])[0]
    held = ", ".join(f"{label} {share.value:.0%}" for label, share in zip(labels, measured.holds, strict=True))
    return ClassSet(
        tuple(label for label, one in zip(labels, inside, strict=True) if one),
        fitted.level,
        f"{fitted.promise} On the test images it held the truth in: {held}.",
    )
