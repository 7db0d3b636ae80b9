"""Predictions for uploaded images, kept for the visit so that sliders need no new ones.

Kept are small copies, hashes and predictions, by the SHA-256 of the upload, never its bytes; so are unpacked archives.
What is no longer uploaded is dropped. Errors are logged by kind and place alone, without names or content.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st
from PIL import Image

from core.data.images import decode
from core.data.uploads import Upload, take_apart
from core.errors import LowshotError, UnreadableImage
from core.explain import EXPLAINERS
from core.explain.quality import faithfulness, top_overlap
from core.inference import Answer, Case, ClassSet, SeedInterval, pixels_hash
from core.inference.case import LEVEL, class_set
from core.inference.input_gate import Admission, Gatekeeper
from core.inference.predictor import Prediction, Predictor
from core.inference.seed_interval import from_answers, from_lookup, siblings
from core.inference.two_stage import Stages, Verdict, verdict
from core.runs import RunMeta, Store
from core.runs.series import Run
from core.ui import cache

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

SHOWN_SIDE = 512
_KEPT = "diagnose_kept"
_LOG = logging.getLogger("lowshot.diagnose")


@dataclass(frozen=True)
class Asked:
    """What is asked of every image.

    Attributes:
        store: of runs.
        task, title, synthetic: the data set.
        chosen: the run that answers, by family.
        explainer: name of the explainer.
        target: class to explain; None for the one that tells most.
        keeper: the input gate; None where there is none.
        stages: who screens and who says which; None where the task has no stages.
    """

    store: Store
    task: str
    title: str
    synthetic: bool
    chosen: Mapping[str, Run]
    explainer: str
    target: int | None
    keeper: Gatekeeper | None
    stages: Stages | None = None


@dataclass(frozen=True)
class Item:
    """One upload as it is kept.

    Attributes:
        name: as it came.
        digest: SHA-256 of the file.
        problem: why it is no image; "" where it is.
        shown: a small copy.
        pixels, width, height: of the decoded image.
    """

    name: str
    digest: str
    problem: str = ""
    shown: Image.Image | None = None
    pixels: str = ""
    width: int = 0
    height: int = 0


class Picture:
    """An upload's pixels, decoded when first asked for and only once a rerun."""

    def __init__(self, upload: Upload) -> None:
        self.upload = upload

    @cached_property
    def image(self) -> Image.Image:
        """As `decode` returns it."""
        return decode(self.upload.content)


def _kept() -> dict[tuple[Any, ...], Any]:
    found: dict[tuple[Any, ...], Any] = st.session_state.setdefault(_KEPT, {})
    return found


def is_kept(asked: Asked, item: Item, overridden: bool) -> bool:
    """Whether nothing has to be asked before this image's row can be shown."""
    gate = asked.keeper is None or ("admission", item.digest, asked.task) in _kept()
    answers = all(_answer_key(asked, item, run, False) in _kept() for run in asked.chosen.values())
    return gate and (answers or (not overridden and _is_refused(asked, item)))


def _is_refused(asked: Asked, item: Item) -> bool:
    found = _kept().get(("admission", item.digest, asked.task))
    return found is not None and not found.admitted


def _answer_key(asked: Asked, item: Item, run: Run, explained: bool) -> tuple[Any, ...]:
    explainer = (asked.explainer, asked.target) if explained else ("", None)
    return ("answer", item.digest, run[1].run, *explainer)


def forget_others(digests: set[str]) -> None:
    """Drops whatever belongs to images that are no longer uploaded."""
    st.session_state[_KEPT] = {key: value for key, value in _kept().items() if key[1] in digests}


def item_of(picture: Picture) -> Item:
    """An upload decoded once a visit; later only its small copy is looked at."""
    key = ("item", digest := picture.upload.digest)
    if key not in _kept():
        _kept()[key] = _decoded(picture, digest)
    return replace(_kept()[key], name=picture.upload.name)


def _decoded(picture: Picture, digest: str) -> Item:
    name, problem = picture.upload.name, picture.upload.problem
    if problem:
        return Item(name, digest, problem)
    try:
        image = picture.image
    except UnreadableImage as error:
        return Item(name, digest, str(error))
    shown = image.copy()
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return Item(name, digest, "", shown, pixels_hash(image), image.width, image.height)


def case_of(asked: Asked, item: Item, picture: Picture, overridden: bool, explained: bool) -> Case:
    """All that is said of an image. Networks are asked where the gate admits it, or the user says so all the same.

    Args:
        asked: what is asked.
        item: the image, as kept.
        picture: its pixels.
        overridden: whether a refusal of the gate is set aside.
        explained: whether heatmaps are wanted.
    """
    admission = _admission(asked, item, picture)
    refused = admission is not None and not admission.admitted
    title = EXPLAINERS[asked.explainer].title
    case = Case(
        item.name, item.pixels, item.width, item.height, asked.title, asked.synthetic, admission, False, title
    )  # fmt: skip
    if refused and not overridden:
        return case
    answers = {family: _answer(asked, item, picture, run, explained) for family, run in asked.chosen.items()}
    return replace(
        case, overridden=refused, answers=answers, verdict=_verdict(asked, answers),
        overlaps=_overlaps(answers) if explained else {},
    )  # fmt: skip


def _verdict(asked: Asked, answers: Mapping[str, Answer]) -> Verdict | None:
    """Both stages' verdict, where both could answer."""
    if asked.stages is None:
        return None
    first, second = answers[asked.stages.screen], answers[asked.stages.confirmer]
    if first.prediction is None or second.prediction is None:
        return None
    return verdict(asked.stages, second.meta, first.prediction, second.prediction)


def _admission(asked: Asked, item: Item, picture: Picture) -> Admission | None:
    if asked.keeper is None:
        return None
    key = ("admission", item.digest, asked.task)
    if key not in _kept():
        _kept()[key] = asked.keeper(picture.image)
    found: Admission = _kept()[key]
    return found


def _answer(asked: Asked, item: Item, picture: Picture, run: Run, explained: bool) -> Answer:
    key = _answer_key(asked, item, run, explained)
    if key not in _kept():
        _kept()[key] = guarded(lambda: _ask(asked, picture.image, run, explained), run[1])
    return replace(_kept()[key], faithfulness=_kept().get(("faithfulness", *key[1:])))


def guarded(ask: Callable[[], Answer], meta: RunMeta) -> Answer:
    """An answer, or the sentence that stands for it; an error that nobody foresaw is logged without its text."""
    try:
        return ask()
    except LowshotError as error:
        return Answer(meta, problem=str(error))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        _LOG.error("%s in %s, line %s", type(error).__name__, last.name, last.lineno)
        return Answer(meta, problem=f"This network could not answer ({type(error).__name__}); others are not affected.")


def _ask(asked: Asked, image: Image.Image, run: Run, explained: bool) -> Answer:
    predictor = cache.predictor(*run)
    refusal = predictor.refusal(asked.explainer) if explained else ""
    target = asked.target if explained else None
    prediction = predictor([image], asked.explainer if explained and not refusal else None, target)[0]
    return Answer(
        run[1],
        prediction,
        unexplained=refusal,
        seeds=_seeds(asked, image, run, prediction),
        doubt=_doubt(run, prediction),
    )


def _seeds(asked: Asked, image: Image.Image, run: Run, prediction: Prediction) -> SeedInterval | str:
    others, target = siblings(asked.store, run[1]), prediction.target
    own = float(prediction.probabilities[target])
    try:
        if ready := [other for other in others if other[1].has_weights]:
            answers = [cache.predictor(*other)([image])[0] for other in ready]
            return from_answers([own, *(float(one.probabilities[target]) for one in answers)])
        return from_lookup(cache.seed_lookup(run, others, target), own)
    except LowshotError as error:
        return f"How much hangs on the seed is not known: {error}"


def _doubt(run: Run, prediction: Prediction) -> ClassSet | str:
    meta = run[1]
    try:
        found = cache.conformal([run], LEVEL, prediction.target if meta.multilabel else None)[0][0]
    except LowshotError as error:
        return str(error)
    return class_set(*found, meta, prediction)


def _overlaps(answers: Mapping[str, Answer]) -> dict[tuple[str, str], float]:
    """How far heatmaps of two families on the same class lie in the same places."""
    maps = {
        family: answer.prediction.explanation
        for family, answer in answers.items()
        if answer.prediction and answer.prediction.explanation and not answer.prediction.explanation.degenerate
    }
    return {
        (one, other): top_overlap(maps[one], maps[other])
        for one, other in combinations(maps, 2)
        if maps[one].target == maps[other].target
    }


def measure_heatmaps(asked: Asked, item: Item, picture: Picture) -> None:
    """Measures deletion and insertion of every heatmap of an image, and keeps them."""
    for run in asked.chosen.values():
        key = _answer_key(asked, item, run, True)
        prediction = _kept()[key].prediction if key in _kept() else None
        if prediction is None or prediction.explanation is None or prediction.explanation.degenerate:
            continue
        predictor = cache.predictor(*run)

        def ask(images: Sequence[Image.Image], predictor: Predictor = predictor) -> np.ndarray:
            return np.stack([one.probabilities for one in predictor.predict(images)])

        _kept()[("faithfulness", *key[1:])] = faithfulness(picture.image, prediction.explanation, ask)


_TAKEN_APART = "diagnose_taken_apart"


def taken_apart(files: Sequence[UploadedFile]) -> tuple[list[Upload], int]:
    """Uploaded files as `take_apart` gives them, kept in memory until other files, or none, are uploaded."""
    named = tuple(file.file_id for file in files)
    before, found = st.session_state.get(_TAKEN_APART, (None, ([], 0)))
    if before != named:
        found = take_apart((file.name, file.getvalue()) for file in files)
        st.session_state[_TAKEN_APART] = (named, found)
    images, more = found
    return list(images), more
