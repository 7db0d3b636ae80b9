"""Registry of ways to handle class imbalance: how often an epoch shows each class, and its weight in the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.data.augmentation import augmenter
from core.errors import BadRequest
from core.registry import Registry

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class EpochOrder:
    """Order of the images in one pass over a subset.

    Attributes:
        positions: (M,) positions in the subset.
        repeats: (M,) bool, whether an image was already shown in this epoch, and is now shown in an augmented view;
            None where every image is augmented alike.
    """

    positions: np.ndarray
    repeats: np.ndarray | None = None

    def views(self, views: int, random: np.random.Generator) -> np.ndarray:
        """Choose the view of each image: (M,) view numbers, where 0 is the plain view."""
        if self.repeats is None:
            return random.integers(0, views, len(self.positions))
        return np.where(self.repeats, random.integers(1, max(2, views), len(self.positions)), 0)

    def concatenate(self, other: EpochOrder) -> EpochOrder:
        """Append another pass."""
        positions = np.concatenate([self.positions, other.positions])
        both = self.repeats is not None and other.repeats is not None
        return EpochOrder(positions, np.concatenate([self.repeats, other.repeats]) if both else None)

    def part(self, selection: slice) -> EpochOrder:
        """Return some of the images, in the same order."""
        return EpochOrder(self.positions[selection], None if self.repeats is None else self.repeats[selection])


@dataclass(frozen=True)
class Imbalance:
    """A row of the registry.

    Attributes:
        name: key in the registry.
        title, meaning: texts for display.
        counts: (C,) images of each class -> (C,) images of each class in an epoch.
        uses_class_weights: whether the loss weights a class by its rarity.
        findings: whether it supports tasks of several findings.
        plain_first: whether images are first shown unchanged, and only their repeats are augmented.
    """

    name: str
    title: str
    meaning: str
    counts: Callable[[np.ndarray], np.ndarray] = lambda counts: counts
    uses_class_weights: bool = False
    findings: bool = False
    plain_first: bool = False

    def batches(self, labels: np.ndarray, size: int, random: np.random.Generator) -> Iterator[EpochOrder]:
        """Yield batches of exactly `size` images without end; a batch may begin in one epoch and end in the next."""
        order = self.draw_epoch(labels, random)
        while True:
            if len(order.positions) < size:
                order = order.concatenate(self.draw_epoch(labels, random))
            yield order.part(slice(size))
            order = order.part(slice(size, None))

    def draw_epoch(self, labels: np.ndarray, random: np.random.Generator) -> EpochOrder:
        """Draw the images of one epoch in random order."""
        if labels.ndim == 2:
            return EpochOrder(random.permutation(len(labels)))
        available, target = np.bincount(labels), self.class_counts(labels)
        if np.array_equal(target, available) and not self.plain_first:
            return EpochOrder(random.permutation(len(labels)))
        members = [_repeat_members(np.flatnonzero(labels == c), int(count), random) for c, count in enumerate(target)]
        positions = np.concatenate([positions for positions, _ in members])
        order = random.permutation(len(positions))
        repeats = np.concatenate([repeats for _, repeats in members])[order]
        return EpochOrder(positions[order], repeats if self.plain_first else None)

    def images_per_epoch(self, labels: np.ndarray) -> int:
        """Return the number of images in an epoch."""
        return len(labels) if labels.ndim == 2 else int(self.class_counts(labels).sum())

    def class_counts(self, labels: np.ndarray, classes: int = 0) -> np.ndarray:
        """Return (C,) images of each class, or with each finding, in an epoch."""
        if labels.ndim == 2:
            return (labels > 0.5).sum(axis=0)
        available = np.bincount(labels, minlength=classes)
        return np.where(available, self.counts(available), 0)

    def weights(self, labels: np.ndarray, classes: int) -> torch.Tensor | None:
        """Return (C,) class weights of the loss, or for findings weights of their positives; None for equal weights."""
        import torch

        if not self.uses_class_weights:
            return None
        if labels.ndim == 2:
            positive, negative = (labels > 0.5).sum(axis=0), (labels <= 0.5).sum(axis=0)
            return torch.from_numpy(np.clip(negative / np.maximum(positive, 1), 1e-2, 1e2)).float()
        available = np.bincount(labels, minlength=classes)
        return torch.from_numpy(len(labels) / (max(1, (available > 0).sum()) * np.maximum(available, 1))).float()


IMBALANCE: Registry[Imbalance] = Registry("way to handle imbalance")


def imbalance_for(name: str, labels: np.ndarray, augment: str) -> Imbalance:
    """Return a row by its name.

    Raises:
        UnknownName: if there is none of that name.
        BadRequest: if it does not support findings, or needs an augmentation and there is none.
    """
    row = IMBALANCE[name]
    if labels.ndim == 2 and not row.findings:
        raise BadRequest(
            f"{name} repeats or drops whole images, which changes all their findings at once. For findings choose "
            f"{' or '.join(other.name for other in IMBALANCE.values() if other.findings)}."
        )
    if row.plain_first and not any(
        augmentation.geometry or augmentation.photometry for augmentation in augmenter(augment).rows
    ):
        raise BadRequest(
            f"{name} repeats images in augmented views only, but --augment {augment} does not change images. Choose "
            "another augmentation."
        )
    return row


def _repeat_members(members: np.ndarray, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Repeat members up to `count`, equally often within one; return them and whether each is a repeat."""
    whole, remainder = divmod(count, max(1, len(members)))
    chosen = np.concatenate([np.tile(members, whole), random.permutation(members)[:remainder]])
    return chosen, np.arange(count) >= len(members)


IMBALANCE.add(
    Imbalance("none", "As it is", "Every image once per epoch.", findings=True),
    Imbalance(
        "class-weights", "Class weights", "Every image once per epoch; rarer classes have a higher weight in the loss.",
        uses_class_weights=True, findings=True,
    ),
    Imbalance(
        "oversample", "Oversampling", "Rarer classes are repeated until they are as frequent as the most common one.",
        counts=lambda counts: np.full_like(counts, counts.max()),
    ),
    Imbalance(
        "undersample", "Undersampling", "Every epoch draws as many images of each class as the rarest class has.",
        counts=lambda counts: np.full_like(counts, counts[counts > 0].min()),
    ),
    Imbalance(
        "to-majority", "To the majority, augmented",
        "Rarer classes get augmented copies until they match the most common one; the originals stay unchanged.",
        counts=lambda counts: np.full_like(counts, counts.max()), plain_first=True,
    ),
)  # fmt: skip
