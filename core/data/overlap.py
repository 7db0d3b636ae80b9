"""Which other data sets' images a set holds copies of, class by class: what a compilation is made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from core.data.dataset import scan
from core.data.duplicates import find_copies
from core.data.image_cache import Bank, Progress
from core.data.overview import class_counts
from core.data.specs import DATASETS, DatasetSpec, family_of, is_present, labels_of

Watch = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Source:
    """Copies that a set shares with another.

    Attributes:
        other: name of the other set.
        images: images of the set that have a copy there.
        of: images of the set in all.
        by_class: class or finding -> images with a copy there.
        by_part: part of the other set -> its images that have a copy here.
    """

    other: str
    images: int
    of: int
    by_class: dict[str, int]
    by_part: dict[str, int]


def comparable(spec: DatasetSpec) -> list[DatasetSpec]:
    """The real sets of the same kind of image on this machine that are not made from the same images.

    Nobody says of what kind own images are: they are compared with all.
    """
    return [
        other
        for other in DATASETS.values()
        if (spec.path is not None or other.modality == spec.modality)
        and not other.synthetic
        and family_of(other.name) != family_of(spec.name)
        and other.derived_from is None
        and is_present(other)
    ]


def copies_by_source(spec: DatasetSpec, watch: Watch) -> list[Source]:
    """Compares a set with every comparable one.

    Args:
        spec: the set.
        watch: what is being done, in words -> a context that gives a progress function.
    """
    with watch(f"{spec.name}: reading") as progress:
        listing, bank = scan(spec, progress)
    labels = labels_of(spec, listing)
    found = []
    for other in comparable(spec):
        with watch(f"{other.name}: reading") as progress:
            others, other_bank = scan(other, progress)
        with watch(f"comparing with {other.name}") as progress:
            here, there = _shared(spec.name, bank, other.name, other_bank, progress)
        parts, counts = np.unique(others.parts[there], return_counts=True)
        found.append(
            Source(
                other=other.name,
                images=len(here),
                of=len(listing),
                by_class=class_counts(listing.labels[here], labels),
                by_part={part or "not split": int(n) for part, n in zip(parts.tolist(), counts, strict=True)},
            )
        )
    return found


def _shared(name: str, bank: Bank, other: str, other_bank: Bank, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Images of either set with a copy in the other. The audit goes one way only, so that both sets tell the same."""
    if name > other:
        there, here = _shared(other, other_bank, name, bank, progress)
        return here, there
    copies = find_copies(bank, other_bank, progress)
    return np.unique(copies.first), np.unique(copies.second)
