"""Predictions for new images: a stored run is loaded once and then queried many times, from several threads."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.special import logit

from core.data.images import decode
from core.data.preprocessing import preparation
from core.data.transforms import normalize, to_unit
from core.errors import BadRequest, CorruptRun, UnknownName, UnreadableImage
from core.explain import EXPLAINERS, ExplainerInput, Explanation, explain
from core.metrics.calibration import probabilities_of
from core.models import MODELS
from core.models.classifier import HEAD_LAYERS, Classifier, channels_last, layers_like, to_device
from core.models.medical_encoders import variant_of_run
from core.models.weights import weights_of
from core.runs import WEIGHTS_FILE, RunMeta, read_run, read_weights
from core.types import ImageSpec

_AT_ONCE = 32


@dataclass(frozen=True)
class Prediction:
    """A run's prediction for one image.

    Attributes:
        probabilities: (C,), after temperature scaling.
        decided: indices of the predicted classes: one, or any number of findings.
        target: the class that a heatmap explains.
        explanation: the heatmap, if one was requested and the explainer supports the network.
        unexplained: why there is no heatmap although one was requested; "" otherwise.
    """

    probabilities: np.ndarray
    decided: tuple[int, ...]
    target: int
    explanation: Explanation | None = None
    unexplained: str = ""


class Predictor:
    """A run ready to predict. Safe to share between threads: prediction and explanation hold the same lock.

    Args:
        folder: the run's folder.
        device: device to run on; the CPU if None.
    Raises:
        CorruptRun: if the run is damaged or has no weights.
        WeightsUnavailable: if its encoder's weights are not available.
    """

    def __init__(self, folder: Path, device: torch.device | None = None) -> None:
        self.meta = read_run(folder)
        if not self.meta.has_weights:
            raise CorruptRun(f"The run {self.meta.run} has no {WEIGHTS_FILE}; only its results are stored.")
        try:
            self._preparation = preparation(self.meta.preparation)
        except UnknownName as error:
            raise CorruptRun(f"The run {self.meta.run} was made with unknown preprocessing: {error}") from None
        self.device = device or torch.device("cpu")
        self._image = image_spec_of(self.meta)
        self._preparation = self._preparation.for_encoder(self._image)
        self._model = to_device(load_classifier(self.meta, folder), self.device)
        self._lock = threading.Lock()

    def predict(self, images: Sequence[Path | str | Image.Image]) -> list[Prediction]:
        """Predict image files, or images that are already decoded, in batches.

        Args:
            images: paths of PNG, JPEG, TIFF, BMP or DICOM files, or images of any size.
        Raises:
            UnreadableImage: naming a file that cannot be opened or is not a supported image.
        """
        predictions: list[Prediction] = []
        for start in range(0, len(images), _AT_ONCE):
            batch = images[start : start + _AT_ONCE]
            predictions += self([image if isinstance(image, Image.Image) else _read(Path(image)) for image in batch])
        return predictions

    def __call__(
        self,
        images: Sequence[Image.Image | np.ndarray],
        explainer: str | None = None,
        target: int | None = None,
        progress: Callable[[float], None] = lambda share: None,
    ) -> list[Prediction]:
        """Predict and, if requested, explain; both use one pass through the encoder.

        Args:
            images: decoded images of any size; for a run on volumes (D, H, W) uint8 arrays.
            explainer: name of an explainer; None for none.
            target: class to explain; the default of `default_target` if None.
            progress: called with the share of the explanation that is done, by explainers that take seconds.
        Raises:
            BadRequest: if images are given to a run on volumes, or volumes to one on images.
        """
        meta = self.meta
        batch = normalize(to_unit(np.stack([self._pixels(image) for image in images]), self.device), self._image)
        with self._lock:
            with torch.no_grad():
                features = self._model.encoder(channels_last(batch))
                logits = self._model.tapped(features).cpu().numpy()
                if meta.config.get("mirror"):
                    logits = (logits + self._model(channels_last(batch.flip(-1))).cpu().numpy()) / 2
            probabilities = probabilities_of(logits, meta.temperature, meta.multilabel)
            targets = [target if target is not None else default_target(meta, row) for row in probabilities]
            explanations: list[Explanation | None] = [None] * len(images)
            unexplained = ""
            if explainer is not None:
                inputs = ExplainerInput(
                    self._model, batch, features, torch.as_tensor(targets).to(self.device), progress
                )
                unexplained = EXPLAINERS[explainer].unsupported(inputs)
                if not unexplained:
                    heatmaps = explain(EXPLAINERS[explainer], inputs)
                    explanations = [self._framed(*pair) for pair in zip(heatmaps, images, strict=True)]
        return [
            Prediction(row, decide(meta, row), explained, explanation, unexplained)
            for row, explained, explanation in zip(probabilities, targets, explanations, strict=True)
        ]

    def _pixels(self, image: Image.Image | np.ndarray) -> np.ndarray:
        if isinstance(image, np.ndarray) != (self._image.dims == 3):
            expected, got = ("images", "a volume") if isinstance(image, np.ndarray) else ("volumes", "an image")
            raise BadRequest(f"The run {self.meta.run} expects {expected}, but got {got}.")
        if isinstance(image, np.ndarray):
            return self._preparation.volume(image, self.meta.size)
        return self._preparation.image(image, self.meta.size, self.meta.channels)

    def _framed(self, explanation: Explanation, image: Image.Image | np.ndarray) -> Explanation:
        """Return the part of a heatmap that shows the image; that of a volume is unchanged."""
        if isinstance(image, np.ndarray):
            return explanation
        return explanation.within(self._preparation.box(image.width, image.height, self.meta.size))


def image_spec_of(meta: RunMeta) -> ImageSpec:
    """Return the input specification of a run's encoder: its model's, with the run's size and normalization.

    Raises:
        CorruptRun: if the program no longer has the model.
    """
    if meta.model not in MODELS:
        raise CorruptRun(f"The run {meta.run} is of the model {meta.model}, which this program no longer has.")
    return replace(MODELS[meta.model].image, size=meta.size, mean=meta.mean, std=meta.std)


def _read(path: Path) -> Image.Image:
    try:
        return decode(path.read_bytes())
    except OSError:
        raise UnreadableImage(f"{path}: the file cannot be opened.") from None
    except UnreadableImage as error:
        raise UnreadableImage(f"{path}: {error}") from None


def load_run(folder: Path | str, device: torch.device | None = None) -> Predictor:
    """Load a stored run as a `Predictor`: `load_run("checkpoints/kermany/...").predict(["scan.png"])`."""
    return Predictor(Path(folder), device)


def decide(meta: RunMeta, probabilities: np.ndarray) -> tuple[int, ...]:
    """Return the indices of the predicted classes for (C,) probabilities, at the run's operating point."""
    if meta.multilabel:
        return tuple(np.flatnonzero(probabilities >= np.array(meta.thresholds)).tolist())
    if meta.positive is None:
        return (int(probabilities.argmax()),)
    return (meta.positive if probabilities[meta.positive] >= meta.threshold else 1 - meta.positive,)


def default_target(meta: RunMeta, probabilities: np.ndarray) -> int:
    """Return the class to explain by default.

    This is the positive class of two, the most likely of more, or the finding furthest above its threshold (by odds).
    """
    if meta.positive is not None:
        return meta.positive
    over = logit(probabilities.clip(1e-6, 1 - 1e-6)) - (logit(np.array(meta.thresholds)) if meta.multilabel else 0)
    return int(over.argmax())


def load_classifier(meta: RunMeta, folder: Path) -> Classifier:
    """Rebuild a run's classifier: the encoder's starting weights, then the weights that the run trained.

    Raises:
        CorruptRun: if the stored tensors do not match the model, or the run's encoder differs from the installed one.
        WeightsUnavailable: if the encoder's weights are not available.
    """
    image_spec_of(meta)
    spec, classes = MODELS[meta.model], len(meta.labels)
    if spec.weights.kind == "own" and meta.trained == "head":
        model = spec.build(classes, variant_of_run(meta.encoder), meta.seed)
    elif spec.weights.kind == "own" and spec.outline:
        model = spec.outline(classes)  # every tensor is the run's own, so the encoder's weights are not needed
    elif meta.trained == "head" and weights_of(spec, meta.dataset).sha256 != meta.encoder["sha256"]:
        raise CorruptRun(f"The run {meta.run} was made with another encoder than the installed one. Train it again.")
    else:
        model = spec.build(classes, meta.dataset, meta.seed)
    state = read_weights(folder)
    if head_state := {key.removeprefix(HEAD_LAYERS): state[key] for key in state if key.startswith(HEAD_LAYERS)}:
        try:
            model.head.layers = layers_like(head_state, model.head.layers, model.blocks)
        except (ValueError, IndexError):
            raise CorruptRun(
                f"{folder.name}/{WEIGHTS_FILE} contains a head that this program does not support."
            ) from None
    encoder = {key for key in model.state_dict() if key.startswith("encoder.")}
    if set(state) != set(model.state_dict()) - (encoder if meta.trained == "head" else set()):
        raise CorruptRun(f"{folder.name}/{WEIGHTS_FILE} contains other tensors than {meta.model} has.")
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CorruptRun(f"{folder.name}/{WEIGHTS_FILE} does not fit {meta.model}: {error}") from None
    return model.eval().requires_grad_(False)
