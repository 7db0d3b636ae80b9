"""Previews of augmentations and preprocessing steps on one image."""

from dataclasses import dataclass

import numpy as np
import torch

from core.data.augmentation import AUGMENTATIONS, Augmentation, Augmenter
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
        pixels: (H, W) or (H, W, 3) uint8; for a volume its middle slice. None if the row does not accept volumes.
        scale: lowest and highest input value of an encoder with mean and standard deviation 0.5.
    """

    row: Augmentation | Step
    pixels: np.ndarray | None
    scale: tuple[float, float] = (0.0, 1.0)


def pixels_of(spec: DatasetSpec, listing: Listing, index: int, preparation: Preparation = PLAIN) -> np.ndarray:
    """Return the pixels of an image, (C, S, S) uint8, or of a volume, (1, S, S, S) uint8.

    Raises:
        UnreadableImage: if the file cannot be read.
    """
    try:
        data = listing.read(index)
    except OSError as error:
        raise UnreadableImage(f"The file cannot be opened ({type(error).__name__}).") from None
    return preparation.pixels(data, listing.dims, CUBE if listing.dims == 3 else SIDE, spec.channels)


def as_image(pixels: np.ndarray) -> np.ndarray:
    """Convert (C, S, S) pixels or (1, S, S, S) voxels to a displayable image, (S, S) or (S, S, 3)."""
    if pixels.ndim == 4:
        return pixels[0, pixels.shape[1] // 2]
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def augmentation_previews(pixels: np.ndarray, other: np.ndarray, seed: int) -> list[Preview]:
    """Apply each augmentation alone to an image.

    Args:
        pixels: (C, S, S) or (1, S, S, S), uint8.
        other: another image of the same shape, for augmentations that mix two.
        seed: first random seed to try; a seed that leaves the image unchanged, as in half of all flips, is skipped.
    """
    previews, original = [], as_image(pixels)
    for row in AUGMENTATIONS.values():
        if pixels.ndim == 4 and not row.volumes:
            previews.append(Preview(row, None))
            continue
        for number in range(seed, seed + _TRIES):
            changed = as_image((255 * _change(row, to_unit(np.stack([pixels, other])), number)).round().byte().numpy())
            if not np.array_equal(changed, original):
                break
        previews.append(Preview(row, changed))
    return previews


def _change(row: Augmentation, images: torch.Tensor, seed: int) -> torch.Tensor:
    """Return the first of two images after an augmentation with a random seed."""
    images = Augmenter((row,)).apply(images, np.array([seed, seed + 1]))
    if row.mixing:
        images, _ = row.mixing(images, torch.eye(2), np.random.default_rng(seed))
    return images[0]


def preprocessing_previews(spec: DatasetSpec, listing: Listing, index: int) -> list[Preview]:
    """Apply each preprocessing step alone to an image.

    Raises:
        UnreadableImage: if the file cannot be read.
    """
    previews = []
    for step in PREPROCESSING.values():
        if listing.dims == 3 and not step.volumes:
            previews.append(Preview(step, None))
            continue
        preparation = Preparation((step,))
        pixels, image = pixels_of(spec, listing, index, preparation), preparation.spec(ImageSpec(SIDE))
        low, high = ((value / 255 - image.mean[0]) / image.std[0] for value in (pixels.min(), pixels.max()))
        previews.append(Preview(step, as_image(pixels), (float(low), float(high))))
    return previews
