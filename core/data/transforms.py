"""From stored pixels to what an encoder sees: scaling, normalisation, and augmentation of whole batches on the device.

An augmentation changes each image by a seed of its own, so the same view of an image is the same wherever and with
whatever neighbours it is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from core.registry import Registry
from core.types import ImageSpec

Augment = Callable[[torch.Tensor, np.ndarray], torch.Tensor]

ROTATION, SHIFT, ZOOM = 15.0, 0.10, (0.85, 1.2)
STRETCH = 0.3  # width against height, as a logarithm: an export squashed to a square keeps no true ratio
BRIGHTNESS, CONTRAST = (0.85, 1.15), (0.75, 1.25)
NOISE, NOISE_CHANCE, FLIP_CHANCE = 0.03, 0.3, 0.5


def to_unit(pixels: np.ndarray, device: torch.device | None = None) -> torch.Tensor:
    """(B, C, S, S) uint8 -> the same shape, float32 in [0, 1]."""
    return torch.from_numpy(np.array(pixels)).to(device).float() / 255


def normalise(images: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """(B, 1 or 3, S, S) in [0, 1] -> (B, 3, S, S), (x - mean) / std; grey is repeated."""
    mean = torch.tensor(spec.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(spec.std, device=images.device).view(1, 3, 1, 1)
    return (images - mean) / std


@dataclass(frozen=True)
class Augmentation:
    """A named recipe of random changes.

    Attributes:
        name: key in the registry.
        title: for people.
        apply: ((B, 1 or 3, S, S) images in [0, 1], (B,) seeds) -> changed images in [0, 1].
    """

    name: str
    title: str
    apply: Augment


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")


def _aggressive(images: torch.Tensor, seeds: np.ndarray) -> torch.Tensor:
    from kornia.enhance import adjust_brightness, adjust_contrast_with_mean_subtraction
    from kornia.geometry.transform import get_affine_matrix2d, warp_affine

    count, _, height, width = images.shape
    randoms = [np.random.default_rng(seed) for seed in seeds]
    drawn = torch.tensor(np.array([_draw(random) for random in randoms]), dtype=torch.float32, device=images.device)
    angle, shift, zoom, flip, brightness, contrast = drawn.split([1, 2, 2, 1, 1, 1], dim=1)
    side = torch.tensor([width, height], device=images.device)
    scale = zoom * torch.cat([flip, torch.ones_like(flip)], dim=1)
    centre = ((side - 1) / 2).expand(count, 2).float()
    matrix = get_affine_matrix2d(shift * side, centre, scale, angle[:, 0])[:, :2]
    images = warp_affine(images, matrix, (height, width), padding_mode="border", align_corners=True)
    images = adjust_contrast_with_mean_subtraction(adjust_brightness(images, brightness[:, 0] - 1), contrast[:, 0])
    return _with_noise(images, randoms).clamp(0, 1)


def _draw(random: np.random.Generator) -> list[float]:
    zoom, stretch = random.uniform(*ZOOM), np.exp(random.uniform(-STRETCH, STRETCH) / 2)
    return [
        random.uniform(-ROTATION, ROTATION),
        *random.uniform(-SHIFT, SHIFT, size=2),
        zoom * stretch,
        zoom / stretch,
        -1.0 if random.random() < FLIP_CHANCE else 1.0,
        random.uniform(*BRIGHTNESS),
        random.uniform(*CONTRAST),
    ]


def _with_noise(images: torch.Tensor, randoms: list[np.random.Generator]) -> torch.Tensor:
    noise = np.zeros((len(randoms), 1, *images.shape[2:]), np.float32)
    for row, random in zip(noise, randoms, strict=True):
        if random.random() < NOISE_CHANCE:
            row[:] = NOISE * random.standard_normal(row.shape, dtype=np.float32)
    return images + torch.from_numpy(noise).to(images.device)


AUGMENTATIONS.add(Augmentation("none", "None", lambda images, seeds: images))
AUGMENTATIONS.add(
    Augmentation("aggressive", "Rotation, shift, zoom, stretch, crop, flip, brightness, contrast, noise", _aggressive)
)
