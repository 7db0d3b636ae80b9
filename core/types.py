"""Small types shared by several packages of `core`."""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

Task = Literal["binary", "multiclass", "multilabel"]
EvaluatedPart = Literal["validation", "calibration", "test", "external"]  # parts whose predictions a run stores
VIEW, READER = "view", "reader"  # facts about external images: projection of a radiograph, a radiologist's reading
Interpolation = Literal["bilinear", "bicubic"]


class Images(Protocol):
    """Images that can be indexed by position: an array, or rows of one that are read on demand.

    Shape (N, C, S, S), for volumes (N, C, S, S, S); uint8.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, which: Any) -> np.ndarray: ...


@dataclass(frozen=True)
class ImageSpec:
    """Input of an encoder: square images or cubes, scaled to [0, 1], then (x - mean) / std.

    Attributes:
        size: side in pixels.
        mean, std: values for red, green and blue; an encoder of one channel has the same value three times.
        channels: 3 (gray is repeated) or 1 (colors are averaged).
        dims: 2 for images, 3 for volumes.
        interpolation: interpolation method for resizing images; volumes are always resized linearly.
    """

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    channels: Literal[1, 3] = field(default=3, repr=False)
    dims: Literal[2, 3] = field(default=2, repr=False)
    interpolation: Interpolation = field(default="bilinear", repr=False)

    def __str__(self) -> str:
        """Return the text that is part of the key of cached embeddings; later fields appear only if not default."""
        defaults = {"channels": 3, "dims": 2, "interpolation": "bilinear"}
        changed = [
            f"{name}={getattr(self, name)}" for name, default in defaults.items() if getattr(self, name) != default
        ]
        return " ".join([repr(self), *changed])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input without the batch: (C, S, S), for volumes (C, S, S, S)."""
        return (self.channels, *[self.size] * self.dims)
