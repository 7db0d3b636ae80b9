"""Data augmentation: the table of random transforms, and their application to whole batches on the device.

Each image has its own seed, so its augmented view does not depend on the other images of the batch. All geometric
transforms are composed into one affine warp, so pixels are interpolated once. All slices of a volume (B, C, D, H, W)
get the same transform.

What is computed on the pixels is in `pixel_augmentation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from core.errors import BadRequest
from core.registry import LazyFunction, Registry

if TYPE_CHECKING:
    import torch

    from core.data.pixel_augmentation import Batch


class Pose(NamedTuple):
    """Affine pose of one image: angle in degrees, shift as a fraction of the side; a negative scale mirrors.

    Poses are composed by adding their angles and shifts and multiplying their scales.
    """

    angle: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    scale_x: float = 1.0
    scale_y: float = 1.0


@dataclass(frozen=True)
class Augmentation:
    """A row of the table: one augmentation, either geometric, photometric or mixing.

    Attributes:
        name: key in the registry; `+` joins several names.
        title: display name.
        ranges: range of the random parameter, in words.
        caveat: what a clinician should know about it.
        geometry: generator -> a random pose.
        photometry: ((B, C, S, S) in [0, 1], one generator per image) -> the same shape, not yet clipped to [0, 1].
        mixing: ((B, ...) normalized images, (B, K) targets as probabilities, generator) -> mixed images and targets.
        volumes: whether it accepts volumes.
    """

    name: str
    title: str
    ranges: str
    caveat: str
    geometry: Callable[[np.random.Generator], Pose] | None = None
    photometry: Callable[[torch.Tensor, list[np.random.Generator]], torch.Tensor] | None = None
    mixing: Callable[[torch.Tensor, torch.Tensor, np.random.Generator], Batch] | None = None
    volumes: bool = True


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")


def _rotate(degrees: float, random: np.random.Generator) -> Pose:
    return Pose(random.uniform(-degrees, degrees))


def _shift(share: float, random: np.random.Generator) -> Pose:
    return Pose(0.0, *random.uniform(-share, share, size=2))


def _zoom(low: float, high: float, random: np.random.Generator) -> Pose:
    zoom = random.uniform(low, high)
    return Pose(scale_x=zoom, scale_y=zoom)


def _stretch(log_ratio: float, random: np.random.Generator) -> Pose:
    stretch = float(np.exp(random.uniform(-log_ratio, log_ratio) / 2))
    return Pose(scale_x=stretch, scale_y=1 / stretch)


def _crop(least: float, random: np.random.Generator) -> Pose:
    zoom = 1 / random.uniform(least, 1)
    x, y = random.uniform(-1, 1, size=2) * (zoom - 1) / 2
    return Pose(0.0, x, y, zoom, zoom)


def _flip(x: float, y: float, random: np.random.Generator) -> Pose:
    return Pose(scale_x=x, scale_y=y) if random.random() < 0.5 else Pose()


AUGMENTATIONS.add(
    Augmentation(
        "horizontal-flip", "Horizontal flip", "half of the images",
        "A flipped heart lies on the wrong side: harmless for opacities, wrong for situs or named sides.",
        geometry=partial(_flip, -1.0, 1.0),
    ),
    Augmentation(
        "mirror", "Mirror image", "every image",
        "For averaging over an image and its mirror image at test time; see horizontal flip.",
        geometry=lambda random: Pose(scale_x=-1.0),
    ),
    Augmentation(
        "vertical-flip", "Vertical flip", "half of the images",
        "No chest radiograph is upside down; use it for skin and cells only.",
        geometry=partial(_flip, 1.0, -1.0),
    ),
    Augmentation(
        "rotation", "Rotation", "-15 to 15 degrees",
        "Patients are seldom rotated by more.",
        geometry=partial(_rotate, 15.0),
    ),
    Augmentation(
        "rotation-mild", "Slight rotation", "-7 to 7 degrees",
        "The usual variation in patient positioning.",
        geometry=partial(_rotate, 7.0),
    ),
    Augmentation(
        "shift", "Shift", "up to 10% of the side",
        "Findings near the border may be cut off.",
        geometry=partial(_shift, 0.10),
    ),
    Augmentation(
        "shift-mild", "Slight shift", "up to 5% of the side",
        "The usual variation in patient positioning.",
        geometry=partial(_shift, 0.05),
    ),
    Augmentation(
        "zoom", "Zoom", "0.85 to 1.2",
        "Size matters for the heart and for nodules; apices and recesses may be cut off.",
        geometry=partial(_zoom, 0.85, 1.2),
    ),
    Augmentation(
        "stretch", "Stretch", "aspect ratio changed by up to a third",
        "Images exported as squares have lost their aspect ratio; the cardiothoracic ratio does not change.",
        geometry=partial(_stretch, 0.3),
    ),
    Augmentation(
        "random-crop", "Random crop", "80 to 100% of the side, anywhere",
        "The finding itself may be cut off although the label stays.",
        geometry=partial(_crop, 0.8),
    ),
    Augmentation(
        "wide-crop", "Wide crop", "60 to 100% of the area, anywhere",
        "The finding itself may be cut off although the label stays.",
        geometry=partial(_crop, 0.6**0.5),
    ),
    Augmentation(
        "wide-stretch", "Wide stretch", "aspect ratio changed by up to two thirds",
        "Images exported as squares may have any aspect ratio; the ratio of heart width to height loses its meaning.",
        geometry=partial(_stretch, 0.51),
    ),
    Augmentation(
        "brightness", "Brightness", "-15 to 15% of the range",
        "Exposure varies; very dark lungs may look like emphysema.",
        photometry=LazyFunction("core.data.pixel_augmentation:brightness"),
    ),
    Augmentation(
        "contrast", "Contrast", "0.75 to 1.25",
        "Windowing varies; faint opacities may vanish.",
        photometry=LazyFunction("core.data.pixel_augmentation:contrast"),
    ),
    Augmentation(
        "clahe-jitter", "CLAHE jitter", "blended with its locally equalized version by 0 to 100%",
        "Local equalization amplifies faint opacities and noise alike.",
        photometry=LazyFunction("core.data.pixel_augmentation:clahe"), volumes=False,
    ),
    Augmentation(
        "noise", "Gaussian noise", "standard deviation 0.03, in 30% of the images",
        "Resembles a lower dose; hides fine interstitial patterns.",
        photometry=LazyFunction("core.data.pixel_augmentation:noise"),
    ),
    Augmentation(
        "mixup", "MixUp", "two images blended, beta(0.4, 0.4)",
        "No patient looks like a blend of two; improves calibration rather than realism.",
        mixing=LazyFunction("core.data.pixel_augmentation:mixup"),
    ),
    Augmentation(
        "cutmix", "CutMix", "a box of another image, beta(1, 1)",
        "The pasted box may show no finding although its label counts.",
        mixing=LazyFunction("core.data.pixel_augmentation:cutmix"),
    ),
)  # fmt: skip


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
    """Augmentations applied together: geometry in one warp, then photometry in order, then mixing."""

    rows: tuple[Augmentation, ...]

    def apply(self, images: torch.Tensor, seeds: np.ndarray) -> torch.Tensor:
        """Augment a batch, without mixing; each image has its own seed.

        Args:
            images: (B, 1 or 3, S, S), or (B, 1, S, S, S) for volumes, in [0, 1].
            seeds: (B,) one seed per image.
        Returns:
            the same shape, in [0, 1].
        """
        from core.data.pixel_augmentation import warp

        if not self.rows:
            return images
        shape = images.shape
        flat = images.flatten(1, -3)  # (B, C or C * D, S, S)
        randoms = [np.random.default_rng(seed) for seed in seeds]
        if geometries := [row.geometry for row in self.rows if row.geometry]:
            poses = np.array([[geometry(random) for geometry in geometries] for random in randoms])  # (B, G, 5)
            flat = warp(flat, np.hstack([poses[..., :3].sum(axis=1), poses[..., 3:].prod(axis=1)]))
        for row in self.rows:
            if row.photometry:
                flat = row.photometry(flat, randoms)
        return flat.clamp(0, 1).reshape(shape)

    def mix(self, images: torch.Tensor, targets: torch.Tensor, random: np.random.Generator) -> Batch:
        """Mix the images of a batch with one another, and their targets alike, by one method chosen at random."""
        methods = [row.mixing for row in self.rows if row.mixing]
        return methods[random.integers(len(methods))](images, targets, random) if methods else (images, targets)

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed, so that an image may have more than one target class."""
        return any(row.mixing for row in self.rows)


def augmenter(name: str) -> Augmenter:
    """Return the augmenter of a preset, of one augmentation, or of several joined by `+` in any order.

    Raises:
        UnknownName: if there is no such augmentation.
        BadRequest: if an augmentation is named twice.
    """
    name = canonical_name(name)
    return Augmenter(tuple(AUGMENTATIONS[part] for part in PRESETS.get(name, name.split(JOINED))))


def canonical_name(name: str) -> str:
    """Return the canonical form of a name: a preset unchanged, other names in the order of the table.

    Raises:
        UnknownName: if there is no such augmentation.
        BadRequest: if an augmentation is named twice.
    """
    requested = [part for part in name.split(JOINED) if PRESETS.get(part) != ()]
    if len(requested) < 2:
        return requested[0] if requested else NONE
    names = [part for part_or_preset in requested for part in PRESETS.get(part_or_preset, (part_or_preset,))]
    if repeated := {part for part in names if names.count(part) > 1}:
        raise BadRequest(f"The augmentation {sorted(repeated)[0]} is named twice in {name!r}.")
    known = list(AUGMENTATIONS)
    return JOINED.join(sorted(names, key=lambda part: known.index(AUGMENTATIONS[part].name)))
