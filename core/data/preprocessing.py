"""The table of preprocessing steps, and how several make the pixels that an encoder sees.

Training and prediction go through the same `Preparation`, named in the run's record. What is random and only for
training images is in `core.data.augmentation`.

References:
    CLAHE: Zuiderveld 1994, Graphics Gems IV, doi:10.1016/B978-0-12-336156-1.50061-6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from core.data.images import to_array
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
    """A row of the table, of one of four sorts: it changes pixels, blanks some, frames the picture, or scales its
    values.

    Attributes:
        name: key in the registry; several are joined by `+`.
        title: for people.
        meaning: what it does, in a sentence.
        caveat: what a clinician should know about it.
        pixels: ((H, W) uint8 brightness or voxels) -> the same shape; colours keep their hue.
        grey: colours are dropped.
        keeps: (height and width) -> (H, W) bool, where the picture stays; the rest is black, colours too.
        pads: the picture keeps its ratio of width to height, on black; else it is squashed to a square.
        scaling: what the encoder expects -> with another mean and deviation.
        instead: the step that takes its place where an ablation leaves it out.
        volumes: whether it takes volumes.
    """

    name: str
    title: str
    meaning: str
    caveat: str
    pixels: Callable[[np.ndarray], np.ndarray] | None = None
    keeps: Callable[[int, int], np.ndarray] | None = None
    grey: bool = False
    pads: bool = False
    scaling: Callable[[ImageSpec], ImageSpec] | None = None
    instead: str = ""
    volumes: bool = True


PREPROCESSING: Registry[Step] = Registry("preprocessing step")


@dataclass(frozen=True)
class Preparation:
    """Steps in the order of the table; none of them is what data sets are trained on by default.

    Attributes:
        steps: what is done.
        interpolation: how pictures are resized.
    """

    steps: tuple[Step, ...] = ()
    interpolation: Interpolation = "bilinear"

    def for_encoder(self, image: ImageSpec) -> Preparation:
        """The same steps, with pictures resized as an encoder wants them."""
        return replace(self, interpolation=image.interpolation)

    @property
    def name(self) -> str:
        """The steps joined by `+`, as in a run's record."""
        return JOINED.join(step.name for step in self.steps)

    @property
    def of_pixels(self) -> str:
        """The name without steps that leave pixels as they are."""
        return JOINED.join(step.name for step in self.steps if not step.scaling)

    @property
    def stamp(self) -> str:
        """What an image bank is keyed by: all that decides on its pixels, "" for what is done by default."""
        return " ".join(filter(None, [self.of_pixels, "" if self.interpolation == "bilinear" else self.interpolation]))

    def spec(self, image: ImageSpec) -> ImageSpec:
        """What the encoder gets: its own mean and deviation unless a step sets others."""
        for step in self.steps:
            image = step.scaling(image) if step.scaling else image
        return image

    def image(self, image: Image.Image, size: int, channels: int) -> np.ndarray:
        """Makes the pixels of a picture.

        Args:
            image: as `decode` returns it.
            size: side in pixels.
            channels: 1 for grey, 3 for RGB.
        Returns:
            (channels, size, size), uint8.
        """
        if any(step.grey for step in self.steps):
            image = image.convert("L")
        left, top, right, bottom = self.box(image.width, image.height, size)
        pixels = to_array(image, (right - left, bottom - top), channels, self.interpolation)
        for step in self.steps:
            pixels = np.where(step.keeps(*pixels.shape[1:]), pixels, 0) if step.keeps else pixels
            pixels = _of_brightness(step.pixels, pixels) if step.pixels else pixels
        return np.pad(pixels, ((0, 0), (top, size - bottom), (left, size - right)))

    def volume(self, voxels: np.ndarray, size: int) -> np.ndarray:
        """(D, H, W) uint8 -> (1, size, size, size) uint8.

        Raises:
            BadRequest: if a step takes pictures only.
        """
        if flat := next((step.name for step in self.steps if not step.volumes), None):
            raise BadRequest(f"The preprocessing step {flat} does not take volumes.")
        for step in self.steps:
            voxels = step.pixels(voxels) if step.pixels else voxels
        if self.pads:
            deepest = max(voxels.shape)
            voxels = np.pad(voxels, [((deepest - side) // 2, (deepest - side + 1) // 2) for side in voxels.shape])
        return to_cube(voxels, size)

    @property
    def pads(self) -> bool:
        """Whether the ratio of width to height is kept."""
        return any(step.pads for step in self.steps)

    def box(self, width: int, height: int, size: int) -> Box:
        """Where a picture of some width and height lies in the square: left, top, right, bottom in pixels."""
        if not self.pads or width == height:
            return 0, 0, size, size
        wide = max(1, round(size * width / max(width, height)))
        tall = max(1, round(size * height / max(width, height)))
        left, top = (size - wide) // 2, (size - tall) // 2
        return left, top, left + wide, top + tall


def preparation(name: str) -> Preparation:
    """The preparation of step names joined by `+`, in any order; of none for "".

    Raises:
        UnknownName: if there is no such step.
        BadRequest: if two of them exclude one another.
    """
    wanted = {PREPROCESSING[part].name for part in filter(None, name.split(JOINED))}
    steps = tuple(step for step in PREPROCESSING.values() if step.name in wanted)
    if sum(step.scaling is not None for step in steps) > 1:
        raise BadRequest(f"{name!r} names two ways to scale values; choose one.")
    return Preparation(steps)


PLAIN = Preparation()


def _of_brightness(change: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """(1 or 3, H, W): applied to the one channel, or to the luminance, so that no colour is invented."""
    if len(pixels) == 1:
        return change(pixels[0])[None]
    luminance, *colour = Image.fromarray(pixels.transpose(1, 2, 0)).convert("YCbCr").split()
    changed = Image.fromarray(change(np.asarray(luminance)))
    return np.asarray(Image.merge("YCbCr", (changed, *colour)).convert("RGB")).transpose(2, 0, 1)


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


def _outer(height: int, width: int, share: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, 1) and (1, W) bool: the rows and columns that lie in the outer part, one in `share` of them at each end."""
    sides = []
    for length in (height, width):
        deep = max(1, round(length / share))
        at = np.arange(length)
        sides.append((at < deep) | (at >= length - deep))
    return sides[0][:, None], sides[1][None, :]


def _border(height: int, width: int) -> np.ndarray:
    rows, columns = _outer(height, width, 16)
    return rows | columns


def _corners(height: int, width: int) -> np.ndarray:
    rows, columns = _outer(height, width, 8)
    return rows & columns


for _step in (  # those that blank come first: a later step must not carry what they hide into what they leave
    Step(
        "border-only", "Border only", "The outer sixteenth at each side stays, all else is black.",
        "For checking a data set, never for use: whoever answers from this has not seen the patient.",
        keeps=_border, volumes=False,
    ),
    Step(
        "corner-only", "Corners only", "An eighth of each side in every corner stays, all else is black.",
        "As with the border: markers, frames and scanners lie there, and disease does not.",
        keeps=_corners, volumes=False,
    ),
    Step(
        "greyscale", "Greyscale", "Colours are dropped; brightness stays.",
        "Colour is evidence on skin and in stained cells.",
        grey=True, volumes=False,
    ),
    Step(
        KEEP_ASPECT, "Keep the aspect ratio", "The whole picture on black, instead of squashed to a square.",
        "The black margin tells the camera or the cropping, which may tell the class.",
        pads=True,
    ),
    Step(
        "brightness-contrast", "Brightness and contrast",
        "The darkest hundredth becomes black, the brightest white, the rest is stretched between.",
        "Absolute density is lost: a lung that is too bright all over no longer shows it.",
        pixels=_levels,
    ),
    Step(
        "clahe", "CLAHE", "Contrast is equalised place by place.",
        "Faint opacities are lifted, and noise with them.",
        pixels=_clahe, volumes=False,
    ),
    Step(
        "unit-range", "Values in [0, 1]", "Values are left in [0, 1], without mean and deviation.",
        "A pretrained encoder learnt with its own mean and deviation and may lose by it.",
        scaling=lambda image: replace(image, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    ),
    Step(
        "mean-std", "Mean and deviation", "Values in [0, 1] minus the encoder's mean, over its deviation; the default.",
        "None: it is what encoders learnt with.",
        scaling=lambda image: image, instead="unit-range",
    ),
):  # fmt: skip
    PREPROCESSING.add(_step)
