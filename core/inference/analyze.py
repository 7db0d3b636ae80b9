"""From an uploaded image to its case: image check, predictions with heatmaps and uncertainty, and their comparison."""

import logging
import traceback
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image

from core.analysis.comparison import conformal
from core.data.images import reduced
from core.data.uploads import Upload
from core.errors import LowshotError, UnreadableImage
from core.explain import EXPLAINERS
from core.explain.quality import top_overlap
from core.files import sha256_of
from core.inference.case import Case, NetworkResult
from core.inference.image_check import ImageChecker
from core.inference.predictor import Prediction, Predictor
from core.inference.track_record import Rates, rated_class, track_record
from core.inference.two_stage import Stages, verdict_of
from core.inference.uncertainty import (
    PredictionSet,
    SeedInterval,
    interval_from_similar_images,
    interval_over_seeds,
    prediction_set,
    seed_lookup,
    thresholds_of,
)
from core.runs import Run, RunMeta

LEVEL = 0.9
THUMBNAIL_SIDE = 512
_IMAGE, _CHECK = "image", "check"  # keys of known results
_LOG = logging.getLogger("lowshot.diagnose")


class Network:
    """A stored run that predicts, with the runs from which the uncertainty of its predictions is computed.

    Attributes:
        run: the run that predicts.
        runs: the same, followed by its other seeds.

    Args:
        runs: the run that predicts, followed by the runs that differ from it only in their seed.
        load: a run -> its predictor; called for every image, so it should cache what it loads.
    """

    def __init__(self, runs: Sequence[Run], load: Callable[[Run], Predictor]) -> None:
        self.runs, self.run = runs, runs[0]
        self._load = load
        self._seed_lookup = cache(partial(seed_lookup, self.run, runs[1:]))
        self._conformal = cache(partial(conformal, self.run, LEVEL))
        self._track_record = cache(partial(track_record, self.run))

    @property
    def predictor(self) -> Predictor:
        """The run's predictor."""
        return self._load(self.run)

    def predict(
        self,
        image: Image.Image,
        explainer: str | None = None,
        target: int | None = None,
        uncertainty: bool = False,
        progress: Callable[[float], None] = lambda share: None,
    ) -> NetworkResult:
        """Return the prediction for an image, or the problem that prevented it.

        An unexpected error is logged by kind and place only, as its text may contain values of the image.

        Args:
            image: the image, as `decode` returns it.
            explainer: name of the explainer; None for no heatmap.
            target: class to explain; None for the default class of the prediction.
            uncertainty: whether to compute the seed interval, the prediction set and the track record.
            progress: called with the share of the heatmap that is done, by explainers that take seconds.
        """
        meta = self.run.meta
        try:
            prediction = self.predictor([image], explainer, target, progress)[0]
            if not uncertainty:
                return NetworkResult(meta, prediction)
            return NetworkResult(
                meta, prediction, seed_interval=self._seed_interval(image, prediction),
                prediction_set=self._prediction_set(prediction), track_record=self._rates(prediction),
            )  # fmt: skip
        except LowshotError as error:
            return NetworkResult(meta, problem=str(error))
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            _LOG.error("%s in %s, line %s", type(error).__name__, last.name, last.lineno)
            problem = f"This network failed ({type(error).__name__}); the others are not affected."
            return NetworkResult(meta, problem=problem)

    def probabilities(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return the (N, C) probabilities for images."""
        return np.stack([prediction.probabilities for prediction in self.predictor.predict(images)])

    def _seed_interval(self, image: Image.Image, prediction: Prediction) -> SeedInterval | str:
        target = prediction.target
        own = float(prediction.probabilities[target])
        try:
            if siblings := [run for run in self.runs[1:] if run.meta.has_weights]:
                others = [self._load(run)([image])[0].probabilities[target] for run in siblings]
                return interval_over_seeds([own, *map(float, others)], thresholds_of([self.run, *siblings], target))
            return interval_from_similar_images(*self._seed_lookup(target), own, thresholds_of(self.runs, target))
        except LowshotError as error:
            return f"Variability between seeds is not available: {error}"

    def _rates(self, prediction: Prediction) -> list[Rates]:
        try:
            return self._track_record(rated_class(self.run.meta, prediction.target))
        except LowshotError:  # the record is missing or damaged; the prediction stands without it
            return []

    def _prediction_set(self, prediction: Prediction) -> PredictionSet | str:
        meta = self.run.meta
        try:
            fitted, measured = self._conformal(prediction.target if meta.multilabel else None)
        except LowshotError as error:
            return str(error)
        return prediction_set(fitted, measured, meta, prediction)


@dataclass(frozen=True)
class Settings:
    """Settings that apply to every image.

    Attributes:
        networks: family -> network; all networks are of one data set.
        image_checker: the image check; None if the task has none.
        explainer: name of the explainer; None for no heatmaps.
        target: class to explain; None for the default class of each prediction.
        stages: the screening and the second stage; None if the task has no stages.
        uncertainty: whether to compute seed intervals and prediction sets.
    """

    networks: Mapping[str, Network]
    image_checker: ImageChecker | None = None
    explainer: str | None = None
    target: int | None = None
    stages: Stages | None = None
    uncertainty: bool = False

    @property
    def meta(self) -> RunMeta:
        """One of the runs, for facts about the data set."""
        return next(iter(self.networks.values())).run.meta

    def key(self, family: str) -> tuple[Any, ...]:
        """Return the key of a family's result: all that it depends on besides the image."""
        return self.networks[family].run.meta.run, self.explainer, self.target, self.uncertainty


def analyze(
    upload: Upload,
    settings: Settings,
    overridden: bool = False,
    known: dict[Hashable, Any] | None = None,
    progress: Callable[[float], None] = lambda networks: None,
) -> Case:
    """Return all results for an image. Networks run if the image check accepts it, or if the user overrides the check.

    Args:
        upload: the image; decoded only if something has to be computed.
        settings: what applies to every image.
        overridden: whether the user overrides a rejection by the image check.
        known: results for this image from earlier calls; they are used, and new ones added.
        progress: called with the number of networks that are done, with the share of the one that computes a heatmap.
    """
    known = {} if known is None else known
    meta = settings.meta
    image = cache(upload.decode)  # at most once, and only if something has to be computed
    if _IMAGE not in known:
        known[_IMAGE] = _read(upload.name, image)
    case = replace(known[_IMAGE], name=upload.name)
    if case.problem:
        return case
    if settings.image_checker and (_CHECK, meta.dataset) not in known:
        known[_CHECK, meta.dataset] = settings.image_checker(image())
    case = replace(
        case, task=meta.dataset_title, synthetic=meta.synthetic,
        check=known[_CHECK, meta.dataset] if settings.image_checker else None,
        explainer=EXPLAINERS[settings.explainer].title if settings.explainer else "",
    )  # fmt: skip
    if case.rejected and not overridden:
        return case
    results = {}
    for done, (family, network) in enumerate(settings.networks.items()):
        key = settings.key(family)
        if key not in known:
            progress(done)
            share = partial(_part_done, progress, done)
            known[key] = network.predict(image(), settings.explainer, settings.target, settings.uncertainty, share)
        results[family] = known[key]
    return replace(
        case, overridden=case.rejected, results=results, overlaps=_overlaps(results),
        verdict=verdict_of(settings.stages, results) if settings.stages else None,
    )  # fmt: skip


def _part_done(progress: Callable[[float], None], done: int, share: float) -> None:
    progress(done + share)


def is_known(settings: Settings, overridden: bool, known: Mapping[Hashable, Any]) -> bool:
    """Return whether `analyze` would return a case from known results alone, without decoding the image."""
    if _IMAGE not in known or known[_IMAGE].problem:
        return _IMAGE in known
    check = known.get((_CHECK, settings.meta.dataset))
    if settings.image_checker and (check is None or not (check.admitted or overridden)):
        return check is not None
    return all(settings.key(family) in known for family in settings.networks)


def _read(name: str, decode: Callable[[], Image.Image]) -> Case:
    """Return a case without results: the hash and size of an image, and a thumbnail; or why it cannot be read."""
    try:
        image = decode()
    except UnreadableImage as error:
        return Case(name, problem=str(error))
    thumbnail = reduced(image, THUMBNAIL_SIDE)
    return Case(name, pixels_hash(image), image.width, image.height, thumbnail=thumbnail)


def pixels_hash(image: Image.Image) -> str:
    """Return the SHA-256 of decoded pixels, equal for the same image in any file format."""
    return sha256_of([f"{image.mode} {image.width}x{image.height} ".encode(), image.tobytes()])


def _overlaps(results: Mapping[str, NetworkResult]) -> dict[tuple[str, str], float]:
    """Return the overlap of the heatmaps of each pair of families that explain the same class."""
    heatmaps = {family: result.heatmap for family, result in results.items() if result.heatmap}
    return {
        (first, second): top_overlap(heatmaps[first], heatmaps[second])
        for first, second in combinations(heatmaps, 2)
        if heatmaps[first].target == heatmaps[second].target
    }
