"""The input gate: is this picture of the kind that a task's networks learnt from?

A probabilistic principal component model (Tipping and Bishop 1999, doi:10.1111/1467-9868.00196) of the ImageNet
encoder's embeddings of training images, small enough to lie beside the runs. Its threshold comes from training images
that the model did not see; no label is used. Simple checks go before it: detail, colour, brightness. Where a turned,
mirrored or inverted picture would fit much better than the picture itself, that is said as the reason.
"""

from __future__ import annotations

import io
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from core.data.preprocessing import PLAIN
from core.data.transforms import normalise, to_unit
from core.errors import CorruptRun
from core.models import MODELS
from core.storage import write_atomically

FILE, ENCODER = "gate.npz", "imagenet-efficientnet-lite0"
COMPONENTS, QUANTILE = 64, 0.99
MIN_DETAIL, MIN_COLOUR = 6.0, 0.06
_MARGIN = 0.9  # a turned picture must fit at least this much better to be named as the reason


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
        fingerprint: of the data set.
    """

    mean: np.ndarray
    components: np.ndarray
    noise: float
    threshold: float
    colour: float
    images: int
    fingerprint: str

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


def fit_gate(embeddings: np.ndarray, held: np.ndarray, colour: float, fingerprint: str) -> Gate:
    """Fits the model to some training images and its threshold to others.

    Args:
        embeddings: (N, D) of training images.
        held: (M, D) of training images of other patients.
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
    threshold = float(np.quantile(gate.distance(held), QUANTILE))
    return Gate(gate.mean, gate.components, noise, threshold, colour, len(embeddings), fingerprint)


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
    own = float(gate.distance(embed([image]))[0])
    if own > gate.threshold:  # only then is it worth while to turn it
        others = turned(image)
        distances = gate.distance(embed(list(others.values())))
        best = int(distances.argmin())
        if distances[best] < own * _MARGIN and distances[best] <= gate.threshold:
            reasons.append(list(others)[best])
        else:
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
        self._model = MODELS[ENCODER].build(2, "", 0).eval().requires_grad_(False)
        self._lock = threading.Lock()

    def __call__(self, image: Image.Image) -> Admission:
        """Whether a picture is of the kind that the task's networks learnt from, and if not, why."""
        return admit(self.gate, image, self._embed)

    def _embed(self, images: list[Image.Image]) -> np.ndarray:
        pixels = np.stack([PLAIN.image(image, self._image.size, 3) for image in images])
        with self._lock, torch.no_grad():
            return self._model.embed(normalise(to_unit(pixels), self._image)).numpy()


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
    )
