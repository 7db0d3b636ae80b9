"""Small structures that several packages of `core` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Task = Literal["binary", "multiclass", "multilabel"]


@dataclass(frozen=True)
class ImageSpec:
    """What an encoder expects: square images of three channels, scaled to [0, 1], then (x - mean) / std."""

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
