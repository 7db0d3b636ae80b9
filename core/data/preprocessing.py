"""Preprocessing: the table of steps, and their combination into the pixels that an encoder gets.

Training and prediction use the same `Preparation`, which the run's record names. Random changes of training images are
in `core.data.augmentation`.

References:
    CLAHE: Zuiderveld 1994, Graphics Gems IV, doi:10.1016/B978-0-12-336156-1.50061-6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from core.data.images import decode, to_array
from core.data.volumes import to_cube
from core.errors import BadRequest
from core.registry import Registry
from core.types import ImageSpec, Interpolation

JOINED = "+"
KEEP_ASPECT = "keep-aspect"
_CLIP, _TAIL = 0.01, 1.0
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Step:
    """A row of the table: a step that changes pixels, masks a region, sets the framing, or scales values.

    Attributes:
        name: key in the registry; `+` joins several names.
        title: display name.
        meaning: what it does, in a sentence.
        caveat: what a clinician should know about it.
        pixels: ((H, W) uint8 luminance or voxels) -> the same shape; colors keep their hue.
        gray: whether colors are dropped.
        keep_mask: (height, width) -> (H, W) bool, the region to keep; the rest becomes black in all channels.
        pads: whether the image keeps its aspect ratio, on a black margin; else it is squashed to a square.
        scaling: the encoder's input -> the same with another mean and standard deviation.
        replaced_by: name of the step that replaces it when an ablation leaves it out.
        volumes: whether it accepts volumes.
    """

    name: str
    title: str
    meaning: str
    caveat: str
    pixels: Callable[[np.ndarray], np.ndarray] | None = None
    keep_mask: Callable[[int, int], np.ndarray] | None = None
    gray: bool = False
    pads: bool = False
    scaling: Callable[[ImageSpec], ImageSpec] | None = None
    replaced_by: str = ""
    volumes: bool = True


PREPROCESSING: Registry[Step] = Registry("preprocessing step")


@dataclass(frozen=True)
class Preparation:
    """Preprocessing steps in the order of the table; by default none.

    Attributes:
        steps: the steps.
        interpolation: interpolation method for resizing images.
    """

    steps: tuple[Step, ...] = ()
    interpolation: Interpolation = "bilinear"

    def for_encoder(self, image: ImageSpec) -> Preparation:
        """Return the same steps with the interpolation that an encoder expects."""
        return replace(self, interpolation=image.interpolation)

    @property
    def name(self) -> str:
        """Names of the steps joined by `+`, as in a run's record."""
        return JOINED.join(step.name for step in self.steps)

    @property
    def pixel_steps(self) -> str:
        """Names of the steps that change pixels, joined by `+`."""
        return JOINED.join(step.name for step in self.steps if not step.scaling)

    @property
    def stamp(self) -> str:
        """Part of an image bank's key: everything that determines its pixels; "" for the default."""
        return " ".join(
            filter(None, [self.pixel_steps, "" if self.interpolation == "bilinear" else self.interpolation])
        )

    def spec(self, image: ImageSpec) -> ImageSpec:
        """Return the encoder's input: its own mean and standard deviation unless a step sets others."""
        for step in self.steps:
            image = step.scaling(image) if step.scaling else image
        return image

    def pixels(self, data: bytes | np.ndarray, dims: int, size: int, channels: int) -> np.ndarray:
        """Decode and preprocess what a listing reads: the bytes of an image file, or the pixels of an image or volume.

        Raises:
            UnreadableImage: if the file cannot be read as an image.
            BadRequest: if a step accepts images only.
        """
        if isinstance(data, bytes):
            return self.image(decode(data), size, channels)
        return self.volume(data, size) if dims == 3 else self.image(Image.fromarray(data), size, channels)

    def image(self, image: Image.Image, size: int, channels: int) -> np.ndarray:
        """Preprocess an image.

        Args:
            image: the image, as `decode` returns it.
            size: side in pixels.
            channels: 1 for gray, 3 for RGB.
        Returns:
            (channels, size, size), uint8.
        """
        if any(step.gray for step in self.steps):
            image = image.convert("L")
        left, top, right, bottom = self.box(image.width, image.height, size)
        pixels = to_array(image, (right - left, bottom - top), channels, self.interpolation)
        for step in self.steps:
            pixels = np.where(step.keep_mask(*pixels.shape[1:]), pixels, 0) if step.keep_mask else pixels
            pixels = _of_brightness(step.pixels, pixels) if step.pixels else pixels
        if pixels.shape[1:] == (size, size):
            return pixels
        return np.pad(pixels, ((0, 0), (top, size - bottom), (left, size - right)))

    def volume(self, voxels: np.ndarray, size: int) -> np.ndarray:
        """Preprocess a volume: (D, H, W) uint8 -> (1, size, size, size) uint8.

        Raises:
            BadRequest: if a step accepts images only.
        """
        if unsupported := next((step.name for step in self.steps if not step.volumes), None):
            raise BadRequest(f"The preprocessing step {unsupported} does not accept volumes. Leave it out.")
        for step in self.steps:
            voxels = step.pixels(voxels) if step.pixels else voxels
        if self.pads:
            longest = max(voxels.shape)
            voxels = np.pad(voxels, [((longest - side) // 2, (longest - side + 1) // 2) for side in voxels.shape])
        return to_cube(voxels, size)

    @property
    def pads(self) -> bool:
        """Whether the aspect ratio is kept."""
        return any(step.pads for step in self.steps)

    def box(self, width: int, height: int, size: int) -> Box:
        """Return the place of an image in the square: left, top, right, bottom in pixels."""
        if not self.pads or width == height:
            return 0, 0, size, size
        wide = max(1, round(size * width / max(width, height)))
        tall = max(1, round(size * height / max(width, height)))
        left, top = (size - wide) // 2, (size - tall) // 2
        return left, top, left + wide, top + tall


def preparation(name: str) -> Preparation:
    """Return the preparation of step names joined by `+` in any order; "" stands for no step.

    Raises:
        UnknownName: if there is no such step.
        BadRequest: if two steps exclude each other.
    """
    wanted = {PREPROCESSING[part].name for part in filter(None, name.split(JOINED))}
    steps = tuple(step for step in PREPROCESSING.values() if step.name in wanted)
    if sum(step.scaling is not None for step in steps) > 1:
        raise BadRequest(f"{name!r} has two steps that scale values; choose one.")
    return Preparation(steps)


PLAIN = Preparation()


def _of_brightness(change: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """Apply a change to (1 or 3, H, W) pixels: to the only channel, or to the luminance so that hues do not change."""
    if len(pixels) == 1:
        return change(pixels[0])[None]
    luminance, *chroma = Image.fromarray(pixels.transpose(1, 2, 0)).convert("YCbCr").split()
    changed = Image.fromarray(change(np.asarray(luminance)))
    return np.asarray(Image.merge("YCbCr", (changed, *chroma)).convert("RGB")).transpose(2, 0, 1)


def _levels(pixels: np.ndarray) -> np.ndarray:
    from skimage.exposure import rescale_intensity

    low, high = np.percentile(pixels, [_TAIL, 100 - _TAIL])
    if high <= low:
        return pixels
    return np.rint(rescale_intensity(pixels.astype(float), (low, high), (0, 255))).astype(np.uint8)


def _clahe(pixels: np.ndarray) -> np.ndarray:
    from skimage.exposure import equalize_adapthist

    if pixels.min() == pixels.max():
        return pixels
    return np.rint(equalize_adapthist(pixels, clip_limit=_CLIP) * 255).astype(np.uint8)


def _outer(length: int, share: int) -> np.ndarray:
    """Return the positions, (length,) bool, within 1 / `share` of the length from either end."""
    position = np.arange(length)
    return np.minimum(position, position[::-1]) < max(1, round(length / share))


# Masking steps come first, so that no later step carries masked content into the region that stays
PREPROCESSING.add(
    Step(
        "border-only", "Border only", "Keeps the outer sixteenth at each side; the rest is black.",
        "For checking a data set, never for use: a classifier of these images has not seen the patient.",
        keep_mask=lambda height, width: _outer(height, 16)[:, None] | _outer(width, 16), volumes=False,
    ),
    Step(
        "corner-only", "Corners only", "Keeps an eighth of each side in every corner; the rest is black.",
        "For checking a data set: corners show markers, frames and scanners, but no disease.",
        keep_mask=lambda height, width: _outer(height, 8)[:, None] & _outer(width, 8), volumes=False,
    ),
    Step(
        "greyscale", "Grayscale", "Drops colors and keeps luminance.",
        "Color is diagnostic on skin and in stained cells.",
        gray=True, volumes=False,
    ),
    Step(
        KEEP_ASPECT, "Keep the aspect ratio", "Pads the image with black instead of squashing it to a square.",
        "The black margin reveals the camera or the cropping, which may reveal the class.",
        pads=True,
    ),
    Step(
        "brightness-contrast", "Brightness and contrast",
        "The darkest 1% of pixels becomes black, the brightest 1% white, and the rest is stretched between.",
        "Absolute density is lost: a lung that is too bright as a whole looks normal.",
        pixels=_levels,
    ),
    Step(
        "clahe", "CLAHE", "Equalizes contrast locally.",
        "Amplifies faint opacities, and noise with them.",
        pixels=_clahe, volumes=False,
    ),
    Step(
        "unit-range", "Values in [0, 1]", "Leaves values in [0, 1] without normalization.",
        "A pretrained encoder was trained with its own mean and standard deviation and may perform worse.",
        scaling=lambda image: replace(image, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    ),
    Step(
        "mean-std", "Mean and standard deviation",
        "Subtracts the encoder's mean and divides by its standard deviation; the default.",
        "None: encoders are trained with it.",
        scaling=lambda image: image, replaced_by="unit-range",
    ),
)  # fmt: skip
