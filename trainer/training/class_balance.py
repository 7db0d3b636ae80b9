"""The table of ways to meet class imbalance: what an epoch shows of each class, and what each class weighs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from core.data.augmentation import augmenter
from core.errors import BadRequest
from core.registry import Registry


@dataclass(frozen=True)
class Epoch:
    """What one pass shows, in order.

    Attributes:
        positions: (M,) positions in the subset.
        repeats: (M,) bool: shown a second time or more, and therefore only in an augmented view; None where every image
            is augmented alike.
    """

    positions: np.ndarray
    repeats: np.ndarray | None = None

    def take(self, count: int, refill: Callable[[], Epoch]) -> tuple[Epoch, Epoch]:
        """The next `count` images, and what is left; another epoch is begun where this one is too short."""
        order = self if len(self.positions) >= count else self._then(refill())
        return order._slice(slice(count)), order._slice(slice(count, None))

    def views(self, views: int, random: np.random.Generator) -> np.ndarray:
        """(M,) which of an image's views is shown; 0 is the plain one."""
        if self.repeats is None:
            return random.integers(0, views, len(self.positions))
        return np.where(self.repeats, random.integers(1, max(2, views), len(self.positions)), 0)

    def _then(self, other: Epoch) -> Epoch:
        positions = np.concatenate([self.positions, other.positions])
        both = self.repeats is not None and other.repeats is not None
        return Epoch(positions, np.concatenate([self.repeats, other.repeats]) if both else None)

    def _slice(self, which: slice) -> Epoch:
        return Epoch(self.positions[which], None if self.repeats is None else self.repeats[which])


@dataclass(frozen=True)
class Imbalance:
    """A row of the table.

    Attributes:
        name: key in the registry.
        title, meaning: for people.
        counts: (C,) images of each class -> (C,) how many of each an epoch shows.
        weighs: whether the loss weighs a class by how rare it is.
        findings: whether it takes tasks of several findings.
        plain_first: whether images are shown as they are and only their repeats augmented.
    """

    name: str
    title: str
    meaning: str
    counts: Callable[[np.ndarray], np.ndarray] = lambda counts: counts
    weighs: bool = False
    findings: bool = False
    plain_first: bool = False

    def epoch(self, labels: np.ndarray, random: np.random.Generator) -> Epoch:
        """Draws the images of one epoch in random order."""
        if labels.ndim == 2:
            return Epoch(random.permutation(len(labels)))
        here, wanted = np.bincount(labels), self.shown(labels)
        if np.array_equal(wanted, here) and not self.plain_first:
            return Epoch(random.permutation(len(labels)))
        drawn = [_rounds(np.flatnonzero(labels == c), int(count), random) for c, count in enumerate(wanted)]
        positions = np.concatenate([positions for positions, _ in drawn])
        order = random.permutation(len(positions))
        repeats = np.concatenate([repeats for _, repeats in drawn])[order]
        return Epoch(positions[order], repeats if self.plain_first else None)

    def shown(self, labels: np.ndarray, classes: int = 0) -> np.ndarray:
        """(C,) images of each class, or with each finding, that an epoch shows."""
        if labels.ndim == 2:
            return (labels > 0.5).sum(axis=0)
        here = np.bincount(labels, minlength=classes)
        return np.where(here, self.counts(here), 0)

    def weights(self, labels: np.ndarray, classes: int) -> torch.Tensor | None:
        """(C,) weights of the classes in the loss; of findings those of their positives. None weighs all alike."""
        if not self.weighs:
            return None
        if labels.ndim == 2:
            positive, negative = (labels > 0.5).sum(axis=0), (labels <= 0.5).sum(axis=0)
            return torch.from_numpy(np.clip(negative / np.maximum(positive, 1), 1e-2, 1e2)).float()
        here = np.bincount(labels, minlength=classes)
        return torch.from_numpy(len(labels) / (max(1, (here > 0).sum()) * np.maximum(here, 1))).float()


IMBALANCE: Registry[Imbalance] = Registry("way to meet imbalance")


def imbalance_for(name: str, labels: np.ndarray, augment: str) -> Imbalance:
    """The row of a name, where it goes with the labels.

    Raises:
        UnknownName: if there is none.
        BadRequest: if it does not go with findings, or augments and no augmentation is named.
    """
    row = IMBALANCE[name]
    if labels.ndim == 2 and not row.findings:
        raise BadRequest(
            f"{name} repeats or drops whole images, which changes every finding they show. For several findings choose "
            f"{' or '.join(other.name for other in IMBALANCE.values() if other.findings)}."
        )
    if row.plain_first and not any(one.geometry or one.photometry for one in augmenter(augment).rows):
        raise BadRequest(f"{name} shows images again in augmented views only; name an augmentation that changes them.")
    return row


def _rounds(members: np.ndarray, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` of the members: each as often as any other, up to one time; and which of them are repeats."""
    whole, rest = divmod(count, max(1, len(members)))
    drawn = np.concatenate([np.tile(members, whole), random.permutation(members)[:rest]])
    return drawn, np.arange(count) >= len(members)


for _row in (
    Imbalance("none", "As it is", "Every image once an epoch.", findings=True),
    Imbalance(
        "class-weights", "Class weights", "Every image once an epoch; the loss of a class weighs by how rare it is.",
        weighs=True, findings=True,
    ),
    Imbalance(
        "oversample", "Oversampling", "Rarer classes are shown again until each is shown as often as the commonest.",
        counts=lambda counts: np.full_like(counts, counts.max()),
    ),
    Imbalance(
        "undersample", "Undersampling", "Of commoner classes an epoch shows as many as of the rarest, drawn anew.",
        counts=lambda counts: np.full_like(counts, counts[counts > 0].min()),
    ),
    Imbalance(
        "to-majority", "To the majority, augmented",
        "Rarer classes are filled up to the commonest with augmented views; the images themselves stay as they are.",
        counts=lambda counts: np.full_like(counts, counts.max()), plain_first=True,
    ),
):  # fmt: skip
    IMBALANCE.add(_row)
