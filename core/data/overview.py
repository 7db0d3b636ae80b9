"""What can be said about a data set before anything is trained: counts, licence, how its images look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from core.data.images import decode
from core.data.listing import UNLABELLED, Listing
from core.data.specs import DatasetSpec, class_titles, labels_of
from core.data.volumes import flattened
from core.errors import UnreadableImage

NONE_OF_THEM, NO_LABEL = "none of these", "no label"
SAMPLED = 200


@dataclass(frozen=True)
class Looks:
    """A drawn image.

    Attributes:
        id: its name.
        label: its class, or its findings joined by commas.
        image: decoded, grey or RGB; of a volume its three middle slices side by side.
        bytes: size of the file, or of the array where the publisher ships arrays.
    """

    id: str
    label: str
    image: Image.Image
    bytes: int


def class_counts(labels: np.ndarray, names: tuple[str, ...]) -> dict[str, int]:
    """Images of each class and, where there are any, without a label; or with each finding and with none known of."""
    if labels.ndim == 1:
        known = labels[labels != UNLABELLED]
        counts = dict(zip(names, np.bincount(known, minlength=len(names)).tolist(), strict=True))
        return counts | ({NO_LABEL: len(labels) - len(known)} if len(known) < len(labels) else {})
    shown = labels > 0.5
    return {**dict(zip(names, shown.sum(axis=0).tolist(), strict=True)), NONE_OF_THEM: int((~shown.any(axis=1)).sum())}


def unknown_counts(labels: np.ndarray, names: tuple[str, ...]) -> dict[str, int]:
    """Images whose label is unknown, by finding; nothing where all are known."""
    if labels.ndim == 1 or not np.isnan(labels).any():
        return {}
    return dict(zip(names, np.isnan(labels).sum(axis=0).tolist(), strict=True))


def co_occurrence(labels: np.ndarray) -> np.ndarray:
    """(N, C) findings -> (C, C) images that show both; on the diagonal those that show the one."""
    shown = (labels > 0.5).astype(int)
    return shown.T @ shown


def words_for(label: np.ndarray, names: tuple[str, ...]) -> str:
    """One image's class, or its findings, in words."""
    if label.ndim == 0:
        return NO_LABEL if label == UNLABELLED else names[int(label)]
    return ", ".join(name for name, value in zip(names, label, strict=True) if value > 0.5) or NONE_OF_THEM


def members_of(labels: np.ndarray, index: int) -> np.ndarray:
    """Positions of the images of a class, or with a finding."""
    return np.flatnonzero(labels == index if labels.ndim == 1 else labels[:, index] > 0.5)


def look(spec: DatasetSpec, listing: Listing, index: int) -> Looks | None:
    """One image decoded, or None where it cannot be read."""
    try:
        data = flattened(listing).read(index)
        image = Image.fromarray(data) if isinstance(data, np.ndarray) else decode(data)
    except (UnreadableImage, OSError):
        return None
    size = data.nbytes if isinstance(data, np.ndarray) else len(data)
    words = words_for(np.asarray(listing.labels[index]), class_titles(spec.name, labels_of(spec, listing)))
    return Looks(str(listing.ids[index]), words, image, size)


def draw_images(spec: DatasetSpec, listing: Listing, positions: np.ndarray, count: int, seed: int) -> list[Looks]:
    """Some of the images at some positions, drawn by a seed; what cannot be read is passed over."""
    order = np.random.default_rng(seed).permutation(positions)[:count]
    return [found for index in order if (found := look(spec, listing, int(index)))]


def image_facts(spec: DatasetSpec, listing: Listing, seed: int = 0) -> list[dict[str, Any]]:
    """Width, height, colour and file size of up to 200 images drawn from the set; of volumes their three slices'."""
    return [
        {
            "Image": one.id,
            "Class": one.label,
            "Width": one.image.width,
            "Height": one.image.height,
            "Colour": "colour" if one.image.mode == "RGB" and not _is_grey(one.image) else "grey",
            "Mean brightness": round(float(np.asarray(one.image.convert("L")).mean()), 1),
            "kB": round(one.bytes / 1024, 1),
        }
        for one in draw_images(spec, listing, np.arange(len(listing)), SAMPLED, seed)
    ]


def _is_grey(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
