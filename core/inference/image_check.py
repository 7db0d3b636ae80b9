"""The image check: whether an image is of the kind that a task's networks were trained on.

It is a probabilistic principal component model (Tipping and Bishop 1999, doi:10.1111/1467-9868.00196) of the ImageNet
encoder's embeddings of training images, small enough to be stored next to the runs. Its threshold comes from training
images that the model was not fitted on; no label is used. Simple checks of detail and color come first. An image that
would fit much better rotated or inverted is rejected with that as the reason; the margin also comes from training
images.
"""

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
from core.data.transforms import normalize, to_unit
from core.errors import CorruptRun
from core.files import write_atomically
from core.models import MODELS
from core.models.classifier import Classifier, channels_last, to_device
from core.types import ImageSpec

FILE, ENCODER = "image-check.npz", "imagenet-efficientnet-lite0"
COMPONENTS, QUANTILE = 64, 0.99
MIN_DETAIL, MIN_COLOR = 6.0, 0.06
MOST_MARGIN = 0.9


@dataclass(frozen=True)
class ImageCheck:
    """Model of the training images' embeddings.

    Attributes:
        mean: (D,) mean of their embeddings.
        components: (K, D) principal directions, each divided by its standard deviation.
        noise: standard deviation in each of the other directions.
        threshold: distance above which an image is unlike the training images.
        colour: share of training images that are in color; the key in the stored file.
        images: number of images used.
        fingerprint: fingerprint of the data set, as in the record of every run trained on it.
        margin: a transformed image whose distance is below this share of the original's distance shows the correct
            orientation or polarity.
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
        """Return the (N,) RMS standardized distance of (N, D) embeddings; about 1 for a training image."""
        centered = embeddings - self.mean
        projected = centered @ self.components.T  # (N, K), in deviations
        scale = np.linalg.norm(self.components, axis=1)
        residual = (centered**2).sum(axis=1) - ((projected / scale) ** 2).sum(axis=1)
        return np.sqrt(((projected**2).sum(axis=1) + np.maximum(residual, 0) / self.noise**2) / centered.shape[1])


@dataclass(frozen=True)
class CheckResult:
    """Result of the image check.

    Attributes:
        admitted: whether networks of the task may analyze the image.
        reasons: why not, in sentences.
        distance, threshold: distance of the image, and threshold of the image check.
    """

    admitted: bool
    reasons: tuple[str, ...]
    distance: float
    threshold: float


def fit_image_check(
    embeddings: np.ndarray, held: np.ndarray, others: np.ndarray, color: float, fingerprint: str
) -> ImageCheck:
    """Fit the model to some training images, and its threshold and margin to others.

    Args:
        embeddings: (N, D) embeddings of training images.
        held: (M, D) embeddings of training images of other patients.
        others: (M, T, D) embeddings of the latter, transformed in each of T ways.
        color: share of color images.
        fingerprint: fingerprint of the data set.
    """
    from sklearn.decomposition import PCA

    count = max(1, min(COMPONENTS, len(embeddings) // 4, embeddings.shape[1] - 1))
    pca = PCA(count, random_state=0).fit(embeddings)
    components = pca.components_ / np.sqrt(pca.explained_variance_ + 1e-12)[:, None]
    noise = float(np.sqrt(max(pca.noise_variance_, 1e-12)))
    image_check = ImageCheck(
        pca.mean_.astype(np.float32), components.astype(np.float32), noise, 0.0, color, len(embeddings), fingerprint
    )
    own = image_check.distance(held)
    corrected_best = image_check.distance(others.reshape(-1, held.shape[1])).reshape(len(held), -1).min(axis=1)
    margin = min(MOST_MARGIN, float(np.quantile(corrected_best / own, 1 - QUANTILE)))
    return replace(image_check, threshold=float(np.quantile(own, QUANTILE)), margin=margin)


def corrections(image: Image.Image) -> dict[str, Image.Image]:
    """Return the image corrected in several ways, by the error that each one corrects."""
    return {
        "It appears to be rotated onto its right side.": image.transpose(Image.Transpose.ROTATE_90),
        "It appears to be rotated onto its left side.": image.transpose(Image.Transpose.ROTATE_270),
        "It appears to be upside down.": image.transpose(Image.Transpose.ROTATE_180),
        "Its gray levels appear to be inverted.": ImageOps.invert(image),
    }


def plain_reasons(image_check: ImageCheck, image: Image.Image) -> list[str]:
    """Return reasons against an image that need no network: no detail, or color unlike the training images."""
    pixels = np.asarray(image.convert("RGB").resize((128, 128), Image.Resampling.BILINEAR)).astype(float)
    reasons = []
    if pixels.mean(axis=2).std() < MIN_DETAIL:
        reasons.append("It has almost uniform brightness and shows no detail.")
    spread = (pixels.max(axis=2) - pixels.min(axis=2)).mean() / 255
    if image_check.colour == 0 and spread > MIN_COLOR:
        reasons.append("It is in color, but the training images are grayscale.")
    if image_check.colour == 1 and spread < MIN_COLOR / 10:
        reasons.append("It is grayscale, but the training images are in color.")
    return reasons


def check_image(
    image_check: ImageCheck, image: Image.Image, embed: Callable[[list[Image.Image]], np.ndarray]
) -> CheckResult:
    """Check whether an image is of the kind that the task's networks were trained on, and if not, why.

    Args:
        image_check: the task's image check.
        image: the image, as `decode` returns it.
        embed: images -> (N, D) embeddings, by the encoder that the image check was fitted with.
    """
    reasons = plain_reasons(image_check, image)
    corrected = corrections(image)
    distances = image_check.distance(embed([image, *corrected.values()]))
    own = float(distances[0])
    best = int(distances[1:].argmin())
    if distances[1 + best] < min(own * image_check.margin, image_check.threshold):
        reasons.append(list(corrected)[best])
    elif own > image_check.threshold:
        reasons.append("It is unlike the training images of this task.")
    return CheckResult(not reasons, tuple(reasons), own, image_check.threshold)


class ImageChecker:
    """An image check with the encoder of its embeddings. Safe to share between threads.

    Args:
        image_check: the task's image check.
    Raises:
        WeightsUnavailable: if the encoder's weights are not available.
    """

    def __init__(self, image_check: ImageCheck) -> None:
        self.image_check = image_check
        self._image = MODELS[ENCODER].image
        self._model = to_device(MODELS[ENCODER].build(2, "", 0), torch.device("cpu")).eval().requires_grad_(False)
        self._lock = threading.Lock()

    def __call__(self, image: Image.Image) -> CheckResult:
        """Check whether an image is of the kind that the task's networks were trained on, and if not, why."""
        return check_image(self.image_check, image, self._embed)

    def _embed(self, images: list[Image.Image]) -> np.ndarray:
        with self._lock:
            return embed(self._model, self._image, images)


def open_image_checker(folder: Path, fingerprints: Collection[str]) -> ImageChecker | None:
    """Load the image check stored next to a data set's runs, ready to check images; None if there is none.

    Args:
        folder: folder of the data set's runs.
        fingerprints: fingerprints of the training images of the runs that will predict.
    Raises:
        CorruptRun: if it is damaged, or was made from other images than the runs were trained on.
        WeightsUnavailable: if its encoder's weights are not available.
    """
    image_check = read_image_check(folder)
    if image_check is None:
        return None
    if set(fingerprints) - {image_check.fingerprint}:
        raise CorruptRun(
            f"The image check of {folder.name} was made from other images than the networks were trained on. Make it "
            "again: python -m trainer image-check, with the --dataset or --folder of the networks."
        )
    return ImageChecker(image_check)


def embed(model: Classifier, spec: ImageSpec, images: list[Image.Image]) -> np.ndarray:
    """Embed images with an encoder on the CPU; returns (N, D)."""
    pixels = np.stack([PLAIN.image(image, spec.size, 3) for image in images])
    with torch.no_grad():
        return model.embed(channels_last(normalize(to_unit(pixels), spec))).numpy()


def save_image_check(folder: Path, image_check: ImageCheck) -> None:
    """Write the image check next to the runs of its data set."""
    halved = {"mean": image_check.mean.astype(np.float16), "components": image_check.components.astype(np.float16)}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, allow_pickle=False, **{k: np.asarray(v) for k, v in (asdict(image_check) | halved).items()}
    )
    write_atomically(folder / FILE, buffer.getvalue())


def read_image_check(folder: Path) -> ImageCheck | None:
    """Read the image check of a data set's runs; None if there is none.

    Raises:
        CorruptRun: if the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {row.name: file[row.name] for row in fields(ImageCheck)}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptRun(f"{folder.name}/{FILE} cannot be read ({error}).") from None
    return ImageCheck(
        **{name: value.astype(np.float32) if value.ndim else value.item() for name, value in values.items()}
    )
