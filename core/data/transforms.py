"""From stored pixels to what an encoder sees: scaling and normalisation of whole batches on the device."""

from __future__ import annotations

import numpy as np
import torch

from core.types import ImageSpec


def to_unit(pixels: np.ndarray, device: torch.device | None = None) -> torch.Tensor:
    """(B, C, S, S) uint8 -> the same shape, float32 in [0, 1]."""
    return torch.from_numpy(np.array(pixels)).to(device).float() / 255


def normalise(images: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """(B, 1 or 3, S, S) in [0, 1] -> (B, 3, S, S), (x - mean) / std; grey is repeated."""
    mean = torch.tensor(spec.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(spec.std, device=images.device).view(1, 3, 1, 1)
    return (images - mean) / std
