"""Window and level of grayscale images, for display only: no network sees the result."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

_GRAY = 12  # largest difference of color channels in a gray image; JPEG files of radiographs differ by a few levels
_TAIL = 2  # percent of pixels that automatic windows leave out at either end


@dataclass(frozen=True)
class Window:
    """A range of gray levels that is stretched from black to white.

    Attributes:
        level: its center, in [0, 255].
        width: number of gray levels, in [1, 256].
    """

    level: int = 128
    width: int = 256

    def apply(self, image: Image.Image) -> Image.Image:
        """Return an image of mode L whose window is stretched from black to white."""
        levels = (np.arange(256) - (self.level - self.width / 2)) / self.width * 256
        return image.convert("L").point(np.clip(levels, 0, 255).astype(np.uint8).tolist())


FULL_RANGE = Window()


def is_gray(image: Image.Image) -> bool:
    """Return whether an image has no color, whatever its mode."""
    if image.mode == "L":
        return True
    small = image.convert("RGB").resize((64, 64))
    return bool(np.ptp(np.asarray(small, np.int16), axis=2).max() <= _GRAY)


def presets(image: Image.Image) -> dict[str, Window]:
    """Return windows by title: all levels, all but the extremes, and the darker and the brighter half of the pixels."""
    low, middle, high = np.percentile(np.asarray(image.convert("L")), (_TAIL, 50, 100 - _TAIL)).round().astype(int)
    return {
        "As stored": FULL_RANGE,
        "Automatic": _between(low, high),
        "Dark areas": _between(low, middle),
        "Bright areas": _between(middle, high),
    }


def _between(low: int, high: int) -> Window:
    return Window(int(low + high) // 2, max(1, int(high - low)))
