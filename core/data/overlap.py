"""Sources of a compilation: copies that a data set shares with other data sets, class by class."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from core.data.dataset import scan
from core.data.duplicates import find_copies
from core.data.image_cache import Bank, Progress
from core.data.overview import class_counts, part_counts
from core.data.specs import DATASETS, DatasetSpec, family_of, is_present, labels_of

StepProgress = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Source:
    """Copies that a data set shares with another one.

    Attributes:
        other: name of the other set.
        images: number of images with a copy in the other set.
        of: total number of images.
        by_class: class or finding -> images with a copy in the other set.
        by_part: part of the other set -> its images with a copy in this set.
    """

    other: str
    images: int
    of: int
    by_class: dict[str, int]
    by_part: dict[str, int]


def comparable(spec: DatasetSpec) -> list[DatasetSpec]:
    """Return the real data sets on this machine with the same kind of images but not derived from the same images.

    The modality of the user's own images is unknown, so they are compared with all sets.
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


def copies_by_source(spec: DatasetSpec, watch: StepProgress) -> list[Source]:
    """Compare a data set with every comparable one.

    Args:
        spec: the data set.
        watch: description of a step -> a context manager that yields its progress function.
    """
    with watch(f"{spec.name}: reading") as progress:
        listing, bank = scan(spec, progress)
    labels = labels_of(spec, listing)
    sources = []
    for other in comparable(spec):
        with watch(f"{other.name}: reading") as progress:
            other_listing, other_bank = scan(other, progress)
        with watch(f"comparing with {other.name}") as progress:
            own_copies, other_copies = _shared(spec.name, bank, other.name, other_bank, progress)
        sources.append(
            Source(
                other=other.name,
                images=len(own_copies),
                of=len(listing),
                by_class=class_counts(listing.labels[own_copies], labels),
                by_part=part_counts(other_listing.parts[other_copies]),
            )
        )
    return sources


def _shared(name: str, bank: Bank, other: str, other_bank: Bank, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of each set that have a copy in the other.

    The sets are compared in alphabetical order, so that both orders of the arguments give the same result.
    """
    if name > other:
        other_copies, own_copies = _shared(other, other_bank, name, bank, progress)
        return own_copies, other_copies
    copies = find_copies(bank, other_bank, progress)
    return np.unique(copies.first), np.unique(copies.second)
