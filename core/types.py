"""Small structures that several packages of `core` share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

Task = Literal["binary", "multiclass", "multilabel"]
JudgedPart = Literal["validation", "calibration", "test", "external"]  # images whose predictions a run stores
VIEW, READER = "view", "reader"  # facts of external images: projection of a radiograph, a radiologist's yes or no
Interpolation = Literal["bilinear", "bicubic"]


class Images(Protocol):
    """(N, C, S, S) uint8 pixels, (N, C, S, S, S) voxels, that can be indexed by position: an array, or rows of one read
    when asked for.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, which: Any) -> np.ndarray: ...


@dataclass(frozen=True)
class ImageSpec:
    """What an encoder expects: square images or cubes, scaled to [0, 1], then (x - mean) / std.

    Attributes:
        size: side in pixels.
        mean, std: of red, green and blue; an encoder of one channel has the same value three times.
        channels: 3, where grey is repeated, or 1, where colours are averaged.
        dims: 2 for images, 3 for volumes.
        interpolation: how images are resized; volumes are always resized linearly.
    """

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    channels: Literal[1, 3] = field(default=3, repr=False)
    dims: Literal[2, 3] = field(default=2, repr=False)
    interpolation: Interpolation = field(default="bilinear", repr=False)

    def __str__(self) -> str:
        """By which embeddings are cached; a field added later is named only where it is not the default."""
        later = {"channels": 3, "dims": 2, "interpolation": "bilinear"}
        stated = [f"{name}={getattr(self, name)}" for name, usual in later.items() if getattr(self, name) != usual]
        return " ".join([repr(self), *stated])

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, S, S), for volumes (C, S, S, S): one input without its batch."""
        return (self.channels, *[self.size] * self.dims)
