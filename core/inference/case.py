"""One image as a case: the result of the input check, and each family's prediction with its uncertainty.

Uncertainty includes the conformal prediction set, with the coverage it guarantees and the coverage that was measured.
Nothing here runs a network or draws on a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from core.explain.quality import Faithfulness
from core.files import sha256_of
from core.inference.input_gate import CheckResult
from core.inference.predictor import Prediction
from core.runs import RunMeta

if TYPE_CHECKING:
    from core.inference.two_stage import Verdict

import numpy as np

from core.metrics.conformal import Conformal, Coverage, sets_of


@dataclass(frozen=True)
class SeedInterval:
    """Seed-to-seed variability of a probability: its range over runs that differ only in their seed.

    Attributes:
        low, high: probabilities of the class that the prediction is about.
        seeds: number of runs.
        asked: True if all runs predicted this image; False if test images with a similar probability stand in.
        how: explanation in a sentence.
    """

    low: float
    high: float
    seeds: int
    asked: bool
    how: str


@dataclass(frozen=True)
class ClassSet:
    """A conformal prediction set.

    Attributes:
        classes: names in the set; empty if no class fits.
        level: target coverage.
        how: guarantee and measured coverage, in words.
    """

    classes: tuple[str, ...]
    level: float
    how: str


@dataclass(frozen=True)
class Answer:
    """The prediction of one family.

    Attributes:
        meta: the run.
        prediction: None if there is none.
        problem: why there is none.
        unexplained: why there is no heatmap although one was requested.
        seeds, doubt: seed interval and conformal set, or why there is none.
        faithfulness: of the heatmap, if it was measured.
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
    """One image and all results for it.

    Attributes:
        name: of the upload; shown to the person who uploaded it, and included in a report only on request.
        pixels: SHA-256 of its decoded pixels, which identifies it.
        width, height: as decoded.
        task: title of the data set.
        synthetic: whether the task's images are generated.
        admission: result of the input check; None if the task has none.
        overridden: analyzed although the check rejected it.
        explainer: title of the explainer.
        answers: by family.
        verdict: of both stages; None if the task has no stages, or a stage has no prediction.
        overlaps: pairs of families and the share of the strongest fifth of their heatmaps that overlaps.
    """

    name: str
    pixels: str
    width: int
    height: int
    task: str
    synthetic: bool
    admission: CheckResult | None
    overridden: bool
    explainer: str
    answers: Mapping[str, Answer] = field(default_factory=dict)
    verdict: Verdict | None = None
    overlaps: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def answered(self) -> list[Answer]:
        """The answers that have a prediction."""
        return [answer for answer in self.answers.values() if answer.prediction is not None]

    @property
    def unlike(self) -> bool:
        """Whether the input check rejected the image."""
        return self.admission is not None and not self.admission.admitted


def pixels_hash(image: Image.Image) -> str:
    """Return the SHA-256 of decoded pixels, equal for the same image in any file format."""
    return sha256_of([f"{image.mode} {image.width}x{image.height} ".encode(), image.tobytes()])


LEVEL = 0.9


def class_set(fitted: Conformal, measured: Coverage, meta: RunMeta, prediction: Prediction) -> ClassSet:
    """Return the classes that cannot be ruled out for an image; for findings, whether the target finding can.

    Args:
        fitted: conformal sets of the run, by `core.analysis.comparison.conformal`; for findings, of the prediction's
            target.
        measured: their coverage on test images.
        meta: the run.
        prediction: of the run for the image.
    """
    labels, probabilities = meta.titles, prediction.probabilities
    if meta.multilabel:
        finding = labels[prediction.target]
        probability = probabilities[prediction.target]
        labels, probabilities = (f"no {finding}", finding), np.array([1 - probability, probability])
    members = sets_of(fitted, probabilities[None])[0]
    coverages = ", ".join(f"{label} {share.value:.0%}" for label, share in zip(labels, measured.holds, strict=True))
    return ClassSet(
        tuple(label for label, member in zip(labels, members, strict=True) if member),
        fitted.level,
        f"{fitted.guarantee} Measured coverage on the test images: {coverages}.",
    )
