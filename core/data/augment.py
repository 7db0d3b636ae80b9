"""Random changes of training images, in whole batches on the device.

Each image has a seed of its own, so the same view of an image is the same wherever and with whatever neighbours it is
computed. All geometric changes become one affine warp, so that pixels are interpolated once. Volumes (B, C, D, H, W)
are changed alike in all slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from core.data.augmentations import AUGMENTATIONS, Augmentation, Pose
from core.errors import BadRequest

JOINED, NONE = "+", "none"
PRESETS: dict[str, tuple[str, ...]] = {
    "none": (),
    "mild": ("rotation-mild", "shift-mild", "horizontal-flip"),
    "geometric": ("zoom", "stretch", "rotation", "shift", "horizontal-flip"),
    "stretched": ("wide-crop", "wide-stretch", "rotation", "horizontal-flip"),
    "aggressive": (
        "zoom", "stretch", "rotation", "shift", "horizontal-flip", "brightness", "contrast", "noise",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Augmenter:
    """Augmentations that are applied together: geometry in one warp, then photometry in order, then mixing."""

    rows: tuple[Augmentation, ...]

    def apply(self, images: torch.Tensor, seeds: np.ndarray) -> torch.Tensor:
        """Changes images, each by its own seed.

        Args:
            images: (B, 1 or 3, S, S), or (B, 1, S, S, S) for volumes, in [0, 1].
            seeds: (B,).
        Returns:
            the same shape, in [0, 1].
        """
        if not self.rows:
            return images
        shape = images.shape
        flat = images.flatten(1, -3)  # (B, C or C * D, S, S)
        randoms = [np.random.default_rng(seed) for seed in seeds]
        poses = [Pose() for _ in randoms]
        for row in self.rows:
            if row.geometry:
                for random, pose in zip(randoms, poses, strict=True):
                    row.geometry(random, pose)
        if any(row.geometry for row in self.rows):
            flat = _warp(flat, poses)
        for row in self.rows:
            if row.photometry:
                flat = row.photometry(flat, randoms)
        return flat.clamp(0, 1).reshape(shape)

    def mix(
        self, images: torch.Tensor, targets: torch.Tensor, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixes the images of a batch with one another, and their targets alike; one way is drawn for each batch."""
        ways = [row.mixing for row in self.rows if row.mixing]
        return ways[random.integers(len(ways))](images, targets, random) if ways else (images, targets)

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed, so that targets are no longer one class an image."""
        return any(row.mixing for row in self.rows)


def augmenter(name: str) -> Augmenter:
    """The augmenter of a preset, of one augmentation, or of several joined by `+`, whatever their order.

    Raises:
        UnknownName: if there is no such augmentation.
        BadRequest: if one is named twice.
    """
    name = in_order(name)
    return Augmenter(tuple(AUGMENTATIONS[part] for part in PRESETS.get(name, name.split(JOINED))))


def in_order(name: str) -> str:
    """The one name of what several names mean: a preset as it is, others in the order of the table.

    Raises:
        UnknownName: if there is no such augmentation.
        BadRequest: if one is named twice.
    """
    asked = [part for part in name.split(JOINED) if PRESETS.get(part) != ()]
    if len(asked) < 2:
        return asked[0] if asked else NONE
    names = [part for joined in asked for part in PRESETS.get(joined, (joined,))]
    if twice := {part for part in names if names.count(part) > 1}:
        raise BadRequest(f"The augmentation {sorted(twice)[0]} is named twice in {name!r}.")
    known = list(AUGMENTATIONS)
    return JOINED.join(sorted(names, key=lambda part: known.index(AUGMENTATIONS[part].name)))


def _warp(images: torch.Tensor, poses: list[Pose]) -> torch.Tensor:
    from kornia.geometry.transform import get_affine_matrix2d, warp_affine

    count, _, height, width = images.shape
    drawn = torch.tensor([[p.angle, p.shift_x, p.shift_y, p.scale_x, p.scale_y] for p in poses], dtype=torch.float32)
    angle, shift, scale = drawn.to(images.device).split([1, 2, 2], dim=1)
    side = torch.tensor([width, height], device=images.device)
    centre = ((side - 1) / 2).expand(count, 2).float()
    matrix = get_affine_matrix2d(shift * side, centre, scale, angle[:, 0])[:, :2]
    return warp_affine(images, matrix, (height, width), padding_mode="border", align_corners=True)
