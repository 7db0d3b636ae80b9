"""Predictions for uploaded images, kept in the session so that sliders do not trigger new ones.

The session keeps thumbnails, hashes and predictions under the SHA-256 of the upload, never the bytes of the file, and
the unpacked archives. Entries of images that are no longer uploaded are dropped. The log records the kind and place of
an error only, without names or content.
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
from core.data.uploads import Upload, unpack
from core.errors import LowshotError, UnreadableImage
from core.explain import EXPLAINERS
from core.explain.quality import faithfulness, top_overlap
from core.inference import Answer, Case, ClassSet, SeedInterval, pixels_hash
from core.inference.case import LEVEL, class_set
from core.inference.input_gate import CheckResult, Gatekeeper
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
class PageSettings:
    """Settings of the page that apply to every image.

    Attributes:
        store: the run store.
        task: name of the data set.
        title: title of the data set.
        synthetic: whether its images are computer-generated.
        chosen: the run that predicts, by family.
        explainer: name of the explainer.
        target: class to explain; None for the default class of each prediction.
        keeper: the input gate; None if the task has none.
        stages: the screening and the second stage; None if the task has no stages.
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
    """An upload as kept in the session.

    Attributes:
        name: file name.
        digest: SHA-256 of the file.
        problem: why the file cannot be read as an image; "" if it can.
        shown: thumbnail.
        pixels: hash of the decoded pixels.
        width: of the decoded image, in pixels.
        height: of the decoded image, in pixels.
    """

    name: str
    digest: str
    problem: str = ""
    shown: Image.Image | None = None
    pixels: str = ""
    width: int = 0
    height: int = 0


class Picture:
    """The pixels of an upload, decoded on first use and at most once per rerun."""

    def __init__(self, upload: Upload) -> None:
        self.upload = upload

    @cached_property
    def image(self) -> Image.Image:
        """The image as returned by `decode`."""
        return decode(self.upload.content)


def _kept() -> dict[tuple[Any, ...], Any]:
    entries: dict[tuple[Any, ...], Any] = st.session_state.setdefault(_KEPT, {})
    return entries


def is_kept(asked: PageSettings, item: Item, overridden: bool) -> bool:
    """Return whether the row of this image can be shown without running the gate or a network."""
    gate = asked.keeper is None or ("admission", item.digest, asked.task) in _kept()
    answers = all(_answer_key(asked, item, run, False) in _kept() for run in asked.chosen.values())
    return gate and (answers or (not overridden and _is_refused(asked, item)))


def _is_refused(asked: PageSettings, item: Item) -> bool:
    admission = _kept().get(("admission", item.digest, asked.task))
    return admission is not None and not admission.admitted


def _answer_key(asked: PageSettings, item: Item, run: Run, explained: bool) -> tuple[Any, ...]:
    explainer = (asked.explainer, asked.target) if explained else ("", None)
    return ("answer", item.digest, run[1].run, *explainer)


def drop_missing(digests: set[str]) -> None:
    """Drop the entries of images that are no longer uploaded."""
    st.session_state[_KEPT] = {key: value for key, value in _kept().items() if key[1] in digests}


def item_of(picture: Picture) -> Item:
    """Return the item of an upload, which is decoded once per session; reruns use its thumbnail."""
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


def case_of(asked: PageSettings, item: Item, picture: Picture, overridden: bool, explained: bool) -> Case:
    """Return the results for an image. Networks run if the gate admits it, or if the user overrides the gate.

    Args:
        asked: settings of the page.
        item: the image, as kept in the session.
        picture: its pixels.
        overridden: whether the user overrides a refusal of the gate.
        explained: whether to compute heatmaps.
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
        case, overridden=refused, answers=answers, verdict=_two_stage_verdict(asked, answers),
        overlaps=_overlaps(answers) if explained else {},
    )  # fmt: skip


def _two_stage_verdict(asked: PageSettings, answers: Mapping[str, Answer]) -> Verdict | None:
    """Return the two-stage verdict; None if the task has no stages or either network failed."""
    if asked.stages is None:
        return None
    first, second = answers[asked.stages.screen], answers[asked.stages.confirmer]
    if first.prediction is None or second.prediction is None:
        return None
    return verdict(asked.stages, second.meta, first.prediction, second.prediction)


def _admission(asked: PageSettings, item: Item, picture: Picture) -> CheckResult | None:
    if asked.keeper is None:
        return None
    key = ("admission", item.digest, asked.task)
    if key not in _kept():
        _kept()[key] = asked.keeper(picture.image)
    admission: CheckResult = _kept()[key]
    return admission


def _answer(asked: PageSettings, item: Item, picture: Picture, run: Run, explained: bool) -> Answer:
    key = _answer_key(asked, item, run, explained)
    if key not in _kept():
        _kept()[key] = catch_errors(lambda: _predict(asked, picture.image, run, explained), run[1])
    return replace(_kept()[key], faithfulness=_kept().get(("faithfulness", *key[1:])))


def catch_errors(ask: Callable[[], Answer], meta: RunMeta) -> Answer:
    """Return a result, or one that states the problem. An unexpected error is logged without its text."""
    try:
        return ask()
    except LowshotError as error:
        return Answer(meta, problem=str(error))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        _LOG.error("%s in %s, line %s", type(error).__name__, last.name, last.lineno)
        return Answer(meta, problem=f"This network failed ({type(error).__name__}); the others are not affected.")


def _predict(asked: PageSettings, image: Image.Image, run: Run, explained: bool) -> Answer:
    predictor = cache.predictor(run)
    refusal = predictor.refusal(asked.explainer) if explained else ""
    target = asked.target if explained else None
    prediction = predictor([image], asked.explainer if explained and not refusal else None, target)[0]
    return Answer(
        run[1],
        prediction,
        unexplained=refusal,
        seeds=_seeds(asked, image, run, prediction),
        doubt=_prediction_set(run, prediction),
    )


def _seeds(asked: PageSettings, image: Image.Image, run: Run, prediction: Prediction) -> SeedInterval | str:
    others, target = siblings(asked.store, run[1]), prediction.target
    own = float(prediction.probabilities[target])
    try:
        if ready := [other for other in others if other[1].has_weights]:
            answers = [cache.predictor(other)([image])[0] for other in ready]
            return from_answers([own, *(float(answer.probabilities[target]) for answer in answers)])
        return from_lookup(cache.seed_lookup(run, others, target), own)
    except LowshotError as error:
        return f"Variability between seeds is not available: {error}"


def _prediction_set(run: Run, prediction: Prediction) -> ClassSet | str:
    meta = run[1]
    try:
        fitted = cache.conformal([run], LEVEL, prediction.target if meta.multilabel else None)[0][0]
    except LowshotError as error:
        return str(error)
    return class_set(*fitted, meta, prediction)


def _overlaps(answers: Mapping[str, Answer]) -> dict[tuple[str, str], float]:
    """Return the overlap of the heatmaps of each pair of families that explain the same class."""
    maps = {
        family: answer.prediction.explanation
        for family, answer in answers.items()
        if answer.prediction and answer.prediction.explanation and not answer.prediction.explanation.degenerate
    }
    return {
        (first, second): top_overlap(maps[first], maps[second])
        for first, second in combinations(maps, 2)
        if maps[first].target == maps[second].target
    }


def measure_heatmaps(asked: PageSettings, item: Item, picture: Picture) -> None:
    """Measure deletion and insertion for every heatmap of an image and keep the results in the session."""
    for run in asked.chosen.values():
        key = _answer_key(asked, item, run, True)
        prediction = _kept()[key].prediction if key in _kept() else None
        if prediction is None or prediction.explanation is None or prediction.explanation.degenerate:
            continue
        predictor = cache.predictor(run)

        def probabilities_of(images: Sequence[Image.Image], predictor: Predictor = predictor) -> np.ndarray:
            return np.stack([prediction.probabilities for prediction in predictor.predict(images)])

        _kept()[("faithfulness", *key[1:])] = faithfulness(picture.image, prediction.explanation, probabilities_of)


_TAKEN_APART = "diagnose_taken_apart"


def unpacked_uploads(files: Sequence[UploadedFile]) -> tuple[list[Upload], int]:
    """Return the uploads from `unpack`, kept in memory until the uploaded files change."""
    file_ids = tuple(file.file_id for file in files)
    before, unpacked = st.session_state.get(_TAKEN_APART, (None, ([], 0)))
    if before != file_ids:
        unpacked = unpack((file.name, file.getvalue()) for file in files)
        st.session_state[_TAKEN_APART] = (file_ids, unpacked)
    images, more = unpacked
    return list(images), more
