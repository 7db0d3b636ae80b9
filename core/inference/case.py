"""One image as a case: the result of the input check, and each family's prediction with its uncertainty.

Uncertainty includes the conformal prediction set, with the coverage it promises and the coverage that was measured.
Nothing here runs a network or draws on a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from core.explain.quality import Faithfulness
from core.files import sha256_of
from core.inference.input_gate import Admission
from core.inference.predictor import Prediction
from core.runs import RunMeta

if TYPE_CHECKING:
    from core.inference.two_stage import Verdict

import numpy as np

from core.metrics.conformal import Conformal, Coverage, sets_of


@dataclass(frozen=True)
class SeedInterval:
    """How far the probability lies apart between trainings that differ in their seed alone.

    Attributes:
        low, high: probabilities of the class that the answer is about.
        seeds: trainings looked at.
        asked: whether these answered for this very image; else they stand in by test images of like probability.
        how: in a sentence.
    """

    low: float
    high: float
    seeds: int
    asked: bool
    how: str


@dataclass(frozen=True)
class ClassSet:
    """A conformal set.

    Attributes:
        classes: names in the set; none where no class fits.
        level: share of sets that were meant to hold the truth.
        how: promise and measured coverage, in words.
    """

    classes: tuple[str, ...]
    level: float
    how: str


@dataclass(frozen=True)
class Answer:
    """One family's answer.

    Attributes:
        meta: the run.
        prediction: None where it could not answer.
        problem: why not.
        unexplained: why there is no heatmap, where one was asked for.
        seeds, doubt: interval and conformal set, or why there is none.
        faithfulness: of the heatmap, where it was measured.
    """

    meta: RunMeta
    prediction: Prediction | None = None
    problem: str = ""
    unexplained: str = ""
    seeds: SeedInterval | str = ""
    doubt: ClassSet | str = ""
    faithfulness: Faithfulness | None = None


@dataclass(frozen=True)
class Case:
    """One image and what is said of it.

    Attributes:
        name: of the upload; for the person who uploaded it, and in a report only if asked for.
        pixels: SHA-256 of its decoded pixels, which names it.
        width, height: as decoded.
        task: title of the data set.
        synthetic: whether the task is one of drawn images.
        admission: the gate's word; None where the task has no gate.
        overridden: answered although the gate refused it.
        explainer: title of the explainer.
        answers: by family.
        verdict: of both stages; None where the task has none, or a stage could not answer.
        overlaps: pairs of families and the share of the strongest fifth of their heatmaps that is common.
    """

    name: str
    pixels: str
    width: int
    height: int
    task: str
    synthetic: bool
    admission: Admission | None
    overridden: bool
    explainer: str
    answers: Mapping[str, Answer] = field(default_factory=dict)
    verdict: Verdict | None = None
    overlaps: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def answered(self) -> list[Answer]:
        """Answers that are there."""
        return [answer for answer in self.answers.values() if answer.prediction is not None]

    @property
    def unlike(self) -> bool:
        """Whether the gate found the image unlike the training data."""
        return self.admission is not None and not self.admission.admitted


def pixels_hash(image: Image.Image) -> str:
    """SHA-256 of decoded pixels: the same picture has the same name, whatever file it came in."""
    return sha256_of([f"{image.mode} {image.width}x{image.height} ".encode(), image.tobytes()])


LEVEL = 0.9


def class_set(fitted: Conformal, measured: Coverage, meta: RunMeta, prediction: Prediction) -> ClassSet:
    """The classes that cannot be ruled out for an image; of findings, whether the one asked about is there.

    Args:
        fitted: sets of the run, by `core.analysis.comparison.conformal`; of findings, of the prediction's target.
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
