"""Augmentations and preprocessing steps shown on one image, before and after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from core.data.augmentation import AUGMENTATIONS, Augmentation, Augmenter
from core.data.images import decode
from core.data.listing import Listing
from core.data.preprocessing import PLAIN, PREPROCESSING, Preparation, Step
from core.data.specs import DatasetSpec
from core.data.transforms import to_unit
from core.errors import UnreadableImage
from core.types import ImageSpec

SIDE, CUBE = 224, 64
_TRIES = 50


@dataclass(frozen=True)
class Preview:
    """One image after one change.

    Attributes:
        row: the augmentation or step.
        pixels: (H, W) or (H, W, 3) uint8; of a volume its middle slice. None where it does not take volumes.
        scale: lowest and highest value that an encoder with mean and deviation one half would get.
    """

    row: Augmentation | Step
    pixels: np.ndarray | None
    scale: tuple[float, float] = (0.0, 1.0)


def pixels_of(spec: DatasetSpec, listing: Listing, index: int, preparation: Preparation = PLAIN) -> np.ndarray:
    """(C, S, S) pixels of an image, or (1, S, S, S) of a volume, uint8.

    Raises:
        UnreadableImage: if the file cannot be read.
    """
    try:
        data = listing.read(index)
    except OSError as error:
        raise UnreadableImage(f"The file cannot be opened ({type(error).__name__}).") from None
    if isinstance(data, np.ndarray) and listing.dims == 3:
        return preparation.volume(data, CUBE)
    image = Image.fromarray(data) if isinstance(data, np.ndarray) else decode(data)
    return preparation.image(image, SIDE, spec.channels)


def as_picture(pixels: np.ndarray) -> np.ndarray:
    """(C, S, S) or (1, S, S, S) -> (S, S) or (S, S, 3) for the eye."""
    if pixels.ndim == 4:
        return pixels[0, pixels.shape[1] // 2]
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def augmented(pixels: np.ndarray, other: np.ndarray, seed: int) -> list[Preview]:
    """An image after each augmentation alone, drawn by a seed.

    Args:
        pixels: (C, S, S), or (1, S, S, S), uint8.
        other: another image of the same shape, for those that mix two.
        seed: of the draws; one that leaves the image as it is, as half of all flips do, is passed over.
    """
    found, plain = [], as_picture(pixels)
    for row in AUGMENTATIONS.values():
        if pixels.ndim == 4 and not row.volumes:
            found.append(Preview(row, None))
            continue
        for number in range(seed, seed + _TRIES):
            shown = as_picture((255 * _change(row, to_unit(np.stack([pixels, other])), number)).round().byte().numpy())
            if not np.array_equal(shown, plain):
                break
        found.append(Preview(row, shown))
    return found


def _change(row: Augmentation, images: torch.Tensor, seed: int) -> torch.Tensor:
    """The first of two images after an augmentation drawn by a seed."""
    images = Augmenter((row,)).apply(images, np.array([seed, seed + 1]))
    if row.mixing:
        images, _ = row.mixing(images, torch.eye(2), np.random.default_rng(seed))
    return images[0]


def prepared(spec: DatasetSpec, listing: Listing, index: int) -> list[Preview]:
    """An image after each preprocessing step alone.

    Raises:
        UnreadableImage: if the file cannot be read.
    """
    found = []
    for step in PREPROCESSING.values():
        if listing.dims == 3 and not step.volumes:
            found.append(Preview(step, None))
            continue
        way = Preparation((step,))
        pixels, image = pixels_of(spec, listing, index, way), way.spec(ImageSpec(SIDE))
        low, high = ((value / 255 - image.mean[0]) / image.std[0] for value in (pixels.min(), pixels.max()))
        found.append(Preview(step, as_picture(pixels), (float(low), float(high))))
    return found
