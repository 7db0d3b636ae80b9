"""The input gate: is this picture of the kind that a task's networks learnt from?

A probabilistic principal component model (Tipping and Bishop 1999, doi:10.1111/1467-9868.00196) of the ImageNet
encoder's embeddings of training images, small enough to lie beside the runs. Its threshold comes from training images
that the model did not see; no label is used. Simple checks go before it: detail, colour. A picture that would fit much
better turned or inverted is refused with that as the reason; how much better, training images say too.
"""

from __future__ import annotations

import io
import threading
import zipfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from core.data.preprocessing import PLAIN
from core.data.transforms import normalise, to_unit
from core.errors import CorruptRun
from core.files import write_atomically
from core.models import MODELS
from core.models.classifier import Classifier, channels_last, placed
from core.types import ImageSpec

FILE, ENCODER = "gate.npz", "imagenet-efficientnet-lite0"
COMPONENTS, QUANTILE = 64, 0.99
MIN_DETAIL, MIN_COLOUR = 6.0, 0.06
MOST_MARGIN = 0.9


@dataclass(frozen=True)
class Gate:
    """What training images look like to the encoder.

    Attributes:
        mean: (D,) of their embeddings.
        components: (K, D) directions in which they vary most, each divided by its deviation.
        noise: deviation in each of the other directions.
        threshold: distance above which a picture is unlike them.
        colour: share of training images that are in colour.
        images: how many were used.
        fingerprint: of the data set, as in the record of every run that learnt from it.
        margin: a turned picture whose distance is below this share of the picture's own shows how it should be.
    """

    mean: np.ndarray
    components: np.ndarray
    noise: float
    threshold: float
    colour: float
    images: int
    fingerprint: str
    margin: float = MOST_MARGIN

    def distance(self, embeddings: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,) root mean squared standardised distance; about 1 for a training image."""
        centred = embeddings - self.mean
        inside = centred @ self.components.T  # (N, K), in deviations
        scale = np.linalg.norm(self.components, axis=1)
        left = (centred**2).sum(axis=1) - ((inside / scale) ** 2).sum(axis=1)
        return np.sqrt(((inside**2).sum(axis=1) + np.maximum(left, 0) / self.noise**2) / centred.shape[1])


@dataclass(frozen=True)
class Admission:
    """What the gate makes of a picture.

    Attributes:
        admitted: whether networks of the task may be asked.
        reasons: why not, in sentences.
        distance, threshold: of the picture, and of the gate.
    """

    admitted: bool
    reasons: tuple[str, ...]
    distance: float
    threshold: float


def fit_gate(embeddings: np.ndarray, held: np.ndarray, others: np.ndarray, colour: float, fingerprint: str) -> Gate:
    """Fits the model to some training images, and its threshold and margin to others.

    Args:
        embeddings: (N, D) of training images.
        held: (M, D) of training images of other patients.
        others: (M, T, D) of the same, turned in each way.
        colour: share of colour images.
        fingerprint: of the data set.
    """
    from sklearn.decomposition import PCA

    count = max(1, min(COMPONENTS, len(embeddings) // 4, embeddings.shape[1] - 1))
    pca = PCA(count, random_state=0).fit(embeddings)
    components = pca.components_ / np.sqrt(pca.explained_variance_ + 1e-12)[:, None]
    noise = float(np.sqrt(max(pca.noise_variance_, 1e-12)))
    gate = Gate(
        pca.mean_.astype(np.float32), components.astype(np.float32), noise, 0.0, colour, len(embeddings), fingerprint
    )
    own = gate.distance(held)
    turned_best = gate.distance(others.reshape(-1, held.shape[1])).reshape(len(held), -1).min(axis=1)
    margin = min(MOST_MARGIN, float(np.quantile(turned_best / own, 1 - QUANTILE)))
    return replace(gate, threshold=float(np.quantile(own, QUANTILE)), margin=margin)


def turned(image: Image.Image) -> dict[str, Image.Image]:
    """The picture put right in several ways, by what was wrong with it if one of them fits."""
    return {
        "It seems to lie on its right side.": image.transpose(Image.Transpose.ROTATE_90),
        "It seems to lie on its left side.": image.transpose(Image.Transpose.ROTATE_270),
        "It seems to be upside down.": image.transpose(Image.Transpose.ROTATE_180),
        "Dark and bright seem to be exchanged.": ImageOps.invert(image),
    }


def plain_reasons(gate: Gate, image: Image.Image) -> list[str]:
    """What can be said against a picture without any network: no detail, or colour where there is none in training."""
    pixels = np.asarray(image.convert("RGB").resize((128, 128), Image.Resampling.BILINEAR)).astype(float)
    reasons = []
    if pixels.mean(axis=2).std() < MIN_DETAIL:
        reasons.append("It is almost of one brightness: there is nothing to see.")
    spread = (pixels.max(axis=2) - pixels.min(axis=2)).mean() / 255
    if gate.colour == 0 and spread > MIN_COLOUR:
        reasons.append("It is in colour; the training images are grey.")
    if gate.colour == 1 and spread < MIN_COLOUR / 10:
        reasons.append("It is grey; the training images are in colour.")
    return reasons


def admit(gate: Gate, image: Image.Image, embed: Callable[[list[Image.Image]], np.ndarray]) -> Admission:
    """Whether a picture is of the kind that the task's networks learnt from, and if not, why.

    Args:
        gate: of the task.
        image: as `decode` returns it.
        embed: pictures -> (N, D) embeddings, as those the gate was fitted to.
    """
    reasons = plain_reasons(gate, image)
    others = turned(image)
    distances = gate.distance(embed([image, *others.values()]))
    own = float(distances[0])
    best = int(distances[1:].argmin())
    if distances[1 + best] < min(own * gate.margin, gate.threshold):
        reasons.append(list(others)[best])
    elif own > gate.threshold:
        reasons.append("It is unlike the images that the networks of this task learnt from.")
    return Admission(not reasons, tuple(reasons), own, gate.threshold)


class Gatekeeper:
    """A gate with the encoder that its embeddings come from. Safe to share between threads.

    Args:
        gate: of the task.
    Raises:
        WeightsUnavailable: if the encoder cannot be had here.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._image = MODELS[ENCODER].image
        self._model = placed(MODELS[ENCODER].build(2, "", 0), torch.device("cpu")).eval().requires_grad_(False)
        self._lock = threading.Lock()

    def __call__(self, image: Image.Image) -> Admission:
        """Whether a picture is of the kind that the task's networks learnt from, and if not, why."""
        return admit(self.gate, image, self._embed)

    def _embed(self, images: list[Image.Image]) -> np.ndarray:
        with self._lock:
            return embed(self._model, self._image, images)


def open_gate(folder: Path, fingerprints: Collection[str]) -> Gatekeeper | None:
    """The gate beside a data set's runs, ready to judge pictures; None where none was made.

    Args:
        folder: of the data set's runs.
        fingerprints: of the images that the runs learnt from which are to answer.
    Raises:
        CorruptRun: if it is damaged, or was made from other images than the runs learnt from.
        WeightsUnavailable: if its encoder cannot be had here.
    """
    gate = read_gate(folder)
    if gate is None:
        return None
    if set(fingerprints) - {gate.fingerprint}:
        raise CorruptRun(
            f"The input gate of {folder.name} was made from other images than the networks learnt from. Make it anew: "
            f"python -m trainer gate --dataset {folder.name}"
        )
    return Gatekeeper(gate)


def embed(model: Classifier, spec: ImageSpec, images: list[Image.Image]) -> np.ndarray:
    """Pictures -> (N, D) embeddings by an encoder on the CPU."""
    pixels = np.stack([PLAIN.image(image, spec.size, 3) for image in images])
    with torch.no_grad():
        return model.embed(channels_last(normalise(to_unit(pixels), spec))).numpy()


def save_gate(folder: Path, gate: Gate) -> None:
    """Writes the gate beside the runs of its data set."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{k: np.asarray(v) for k, v in _stored(gate).items()})
    write_atomically(folder / FILE, buffer.getvalue())


def _stored(gate: Gate) -> dict[str, object]:
    return {**asdict(gate), "mean": gate.mean.astype(np.float16), "components": gate.components.astype(np.float16)}


def read_gate(folder: Path) -> Gate | None:
    """The gate of a data set's runs; None where none was made.

    Raises:
        CorruptRun: if the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {row.name: file[row.name] for row in fields(Gate)}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptRun(f"{folder.name}/{FILE} cannot be read ({error}).") from None
    return Gate(
        mean=values["mean"].astype(np.float32),
        components=values["components"].astype(np.float32),
        noise=float(values["noise"]),
        threshold=float(values["threshold"]),
        colour=float(values["colour"]),
        images=int(values["images"]),
        fingerprint=str(values["fingerprint"]),
        margin=float(values["margin"]),
    )
