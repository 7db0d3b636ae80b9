"""From stored pixels to an encoder's input: scaling and normalization of whole batches on the device."""

import numpy as np
import torch

from core.types import ImageSpec


def to_unit(pixels: np.ndarray, device: torch.device | None = None) -> torch.Tensor:
    """Scale (B, C, S, S) uint8 pixels or (B, C, S, S, S) voxels to float32 in [0, 1]."""
    return torch.from_numpy(np.array(pixels)).to(device).float() / 255


def normalize(images: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """Convert a batch to an encoder's channels and range.

    Args:
        images: (B, 1 or 3, S, S) or, for volumes, (B, 1, S, S, S), in [0, 1].
        spec: the encoder's input.
    Returns:
        (B, spec.channels, ...), (x - mean) / std. Gray is repeated for a color encoder; colors are averaged for a gray
        encoder.
    """
    if spec.channels == 1 and images.shape[1] > 1:
        images = images.mean(dim=1, keepdim=True)
    shape = (1, spec.channels, *[1] * (images.ndim - 2))
    mean, std = (torch.tensor(row[: spec.channels], device=images.device).view(shape) for row in (spec.mean, spec.std))
    return (images - mean) / std
