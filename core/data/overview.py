"""Overview of a data set before anything is trained: counts of classes and properties of its images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from core.data.images import decode
from core.data.listing import UNLABELED, Listing
from core.data.specs import DatasetSpec, class_titles, labels_of
from core.data.volumes import as_slice_images
from core.errors import UnreadableImage

NONE_OF_THEM, NO_LABEL = "none of these", "no label"
SAMPLE_SIZE = 200


@dataclass(frozen=True)
class ImageSample:
    """An image for display.

    Attributes:
        id: its name.
        label: its class, or its findings joined by commas.
        image: decoded image, gray or RGB; for a volume its three middle slices side by side.
        bytes: size of the file, or of the array if the publisher ships arrays.
    """

    id: str
    label: str
    image: Image.Image
    bytes: int


def class_counts(labels: np.ndarray, names: tuple[str, ...]) -> dict[str, int]:
    """Count the images of each class and those without a label; or with each finding and with no known finding."""
    if labels.ndim == 1:
        known = labels[labels != UNLABELED]
        counts = dict(zip(names, np.bincount(known, minlength=len(names)).tolist(), strict=True))
        return counts | ({NO_LABEL: len(labels) - len(known)} if len(known) < len(labels) else {})
    positive = labels > 0.5
    return {
        **dict(zip(names, positive.sum(axis=0).tolist(), strict=True)),
        NONE_OF_THEM: int((~positive.any(axis=1)).sum()),
    }


def part_counts(parts: np.ndarray) -> dict[str, int]:
    """Count the images of each part of a split."""
    names, counts = np.unique(parts, return_counts=True)
    return dict(zip((name or "not split" for name in names.tolist()), counts.tolist(), strict=True))


def unknown_counts(labels: np.ndarray, names: tuple[str, ...]) -> dict[str, int]:
    """Count the images with an unknown label, by finding; empty if all labels are known."""
    if labels.ndim == 1 or not np.isnan(labels).any():
        return {}
    return dict(zip(names, np.isnan(labels).sum(axis=0).tolist(), strict=True))


def co_occurrence(labels: np.ndarray) -> np.ndarray:
    """Count co-occurring findings: (N, C) labels -> (C, C) images with both; the diagonal has images with one."""
    positive = (labels > 0.5).astype(int)
    return positive.T @ positive


def label_text(label: np.ndarray, names: tuple[str, ...]) -> str:
    """Return one image's class, or its findings, as text."""
    if label.ndim == 0:
        return NO_LABEL if label == UNLABELED else names[int(label)]
    return ", ".join(name for name, value in zip(names, label, strict=True) if value > 0.5) or NONE_OF_THEM


def positions_of(labels: np.ndarray, index: int) -> np.ndarray:
    """Return the positions of the images of a class, or with a finding."""
    return np.flatnonzero(labels == index if labels.ndim == 1 else labels[:, index] > 0.5)


def read_sample(spec: DatasetSpec, listing: Listing, index: int) -> ImageSample | None:
    """Decode one image for display; None if it cannot be read."""
    try:
        data = as_slice_images(listing).read(index)
        image = Image.fromarray(data) if isinstance(data, np.ndarray) else decode(data)
    except (UnreadableImage, OSError):
        return None
    size = data.nbytes if isinstance(data, np.ndarray) else len(data)
    words = label_text(np.asarray(listing.labels[index]), class_titles(spec.name, labels_of(spec, listing)))
    return ImageSample(str(listing.ids[index]), words, image, size)


def sample_images(
    spec: DatasetSpec, listing: Listing, positions: np.ndarray, count: int, seed: int
) -> list[ImageSample]:
    """Return up to `count` images sampled at random from some positions; unreadable ones are skipped."""
    order = np.random.default_rng(seed).permutation(positions)[:count]
    return [image for index in order if (image := read_sample(spec, listing, int(index)))]


def image_facts(spec: DatasetSpec, listing: Listing) -> list[dict[str, Any]]:
    """Return width, height, color and file size of up to 200 sampled images; for volumes of their three slices."""
    return [
        {
            "Image": shown.id,
            "Class": shown.label,
            "Width": shown.image.width,
            "Height": shown.image.height,
            "Color": "color" if shown.image.mode == "RGB" and np.ptp(np.asarray(shown.image), axis=2).any() else "gray",
            "Mean brightness": round(float(np.asarray(shown.image.convert("L")).mean()), 1),
            "kB": round(shown.bytes / 1024, 1),
        }
        for shown in sample_images(spec, listing, np.arange(len(listing)), SAMPLE_SIZE, seed=0)
    ]
