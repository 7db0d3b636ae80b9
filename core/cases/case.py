"""What is known of one image: the gate's word, each family's answer with its doubt. Nothing here asks or draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from core.checkpoints import RunMeta
from core.explain.quality import Faithfulness
from core.gate import Admission
from core.predictor import Prediction
from core.storage import sha256_of

if TYPE_CHECKING:
    from core.cases.verdict import Verdict


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
