"""Small structures that several packages of `core` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

Task = Literal["binary", "multiclass", "multilabel"]
JudgedPart = Literal["validation", "calibration", "test"]  # images whose predictions a run stores


class Images(Protocol):
    """(N, C, S, S) uint8 pixels that can be indexed by position: an array, or rows of one read when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: Any) -> np.ndarray: ...


@dataclass(frozen=True)
class ImageSpec:
    """What an encoder expects: square images of three channels, scaled to [0, 1], then (x - mean) / std."""

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
