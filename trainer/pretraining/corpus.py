"""The pretraining corpus: medical data sets without images or patients of the target data sets.

The rule is strict. Three kinds of images are excluded: all images of a target, of its relatives and of its external
test sets; copies of these images; and all other images of a patient of whom one of these sets holds a copy, in any
part. Patients held out for the acceptance test are excluded too, as are copies of their images in other data sets.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from core.data import DATASETS
from core.data.dataset import load_dataset, scan
from core.data.duplicates import Copies, find_copies
from core.data.image_cache import Bank, open_bank
from core.data.listing import Listing
from core.data.specs import DatasetSpec, family_of, how_to_get, is_present
from core.data.splits import merge_groups
from core.errors import DataUnavailable
from core.models.medical_encoders import relatives
from trainer.progress import progress_bar

_HELD_OUT = {"validation": 0.1, "test": 0.25}  # shares of the patients of an evaluated set, in this order


@dataclass(frozen=True)
class CorpusPart:
    """One data set of the corpus.

    Attributes:
        spec, listing: the data set.
        bank: its images at the pretraining size.
        groups: (N,) number of each image's patient; patients who share a copy of an image are merged.
        train, validation, test: index arrays; the last two are empty except for evaluated sets.
        copies: name of another data set -> images removed because they are copies of its images.
        patients: name of another data set -> further images removed, of patients of whom it holds a copy.
    """

    spec: DatasetSpec
    listing: Listing
    bank: Bank
    groups: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    copies: dict[str, int]
    patients: dict[str, int]


def guard_sets(targets: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the data sets whose images and patients must not be in a corpus.

    Args:
        targets: data sets that the encoder must never have seen.
        names: data sets of the corpus. An external test set among them is not returned: the encoder will not be
            evaluated on it.
    Returns:
        the targets, their relatives and their external test sets, as far as they are installed.
    Raises:
        DataUnavailable: if a target, or the data set that its images come from, is not installed, so that nothing can
            be compared with it; or if a data set of the corpus is a target or a relative of one.
    """
    excluded = set().union(*(relatives(target) for target in targets))
    if clash := excluded & set(names):
        raise DataUnavailable(
            f"{', '.join(sorted(clash))} cannot be in the corpus: the encoder is made for {', '.join(targets)}. "
            "Leave it out of --sets."
        )
    for target in targets:
        if (family := family_of(target)) in DATASETS and not is_present(DATASETS[family]):
            raise DataUnavailable(
                f"{family} is not on this machine, so that its copies cannot be found in the corpus. "
                f"{how_to_get(DATASETS[family])}."
            )
    external_names = {external.dataset for name in excluded for external in DATASETS[name].external} - set(names)
    return [name for name in sorted(excluded | external_names) if is_present(DATASETS[name])]


def build_corpus(targets: Sequence[str], names: Sequence[str], evaluated: Iterable[str], size: int) -> list[CorpusPart]:
    """Read, audit and clean the corpus.

    Args:
        targets: data sets that the encoder must never have seen.
        names: data sets to train on; all must be installed.
        evaluated: data sets among them from which patients are held out to evaluate the encoder.
        size: side in pixels.
    Raises:
        DataUnavailable: see `guard_sets`; or if a data set of the corpus is missing.
    """
    guards = {name: scan(DATASETS[name]) for name in guard_sets(targets, names)}
    parts: list[CorpusPart] = []
    # evaluated sets come first, as the others are compared with their held-out patients
    for name in sorted(names, key=lambda name: name not in set(evaluated)):
        # read, and merge the patients of copies
        spec = DATASETS[name]
        with progress_bar(f"{name}: reading") as show:
            listing, small = scan(spec, show)
            bank = open_bank(listing, size, spec.channels, show)
        groups = merge_groups(listing.groups, find_copies(small))
        keep = small.readable
        # exclude copies and patients of the guards, and copies of held-out patients of evaluated sets
        copied, patients = {}, {}
        for guard, (guard_listing, guard_bank) in guards.items():
            copies = find_copies(small, guard_bank)
            copied[guard] = _drop(keep, np.unique(copies.first))
            patients[guard] = _drop(
                keep, _images_of_guard_patients(spec, listing, groups, copies, guard, guard_listing)
            )
        for part in parts:
            copies = find_copies(small, scan(part.spec)[1])
            crossing = np.isin(copies.second, np.concatenate([part.validation, part.test]))
            copied[part.spec.name] = _drop(keep, np.unique(copies.first[crossing]))
        # hold out patients for the acceptance test
        held_out = _held_out(groups, listing.labels, keep) if name in evaluated else {}
        empty = np.array([], int)
        is_held_out = np.isin(groups, groups[np.concatenate([empty, *held_out.values()])])
        train = np.flatnonzero(keep & ~is_held_out)
        validation, test = (held_out.get(part, empty) for part in _HELD_OUT)
        parts.append(CorpusPart(spec, listing, bank, groups, train, validation, test, copied, patients))
    return sorted(parts, key=lambda part: list(names).index(part.spec.name))


def without_test_images(part: CorpusPart) -> CorpusPart:
    """Leave out the test images of the part's own data set, so that the choice of a recipe depends on none of them.

    The recipe also serves encoders that are later evaluated on this data set; their corpus leaves it out altogether.
    """
    test = load_dataset(part.spec).parts.test
    return replace(part, train=np.setdiff1d(part.train, test), validation=np.setdiff1d(part.validation, test))


def _drop(keep: np.ndarray, indices: np.ndarray) -> int:
    dropped = int(keep[indices].sum())
    keep[indices] = False
    return dropped


def _images_of_guard_patients(
    spec: DatasetSpec, listing: Listing, groups: np.ndarray, copies: Copies, guard: str, guard_listing: Listing
) -> np.ndarray:
    """Return indices of images of patients of whom a guard holds a copy.

    In the same archive, patients with the same patient number as in the guard are included.
    """
    known = np.isin(groups, groups[copies.first])
    if family_of(guard) == family_of(spec.name):
        known |= np.isin(groups, groups[np.isin(listing.groups, guard_listing.groups)])
    return np.flatnonzero(known)


def _held_out(groups: np.ndarray, labels: np.ndarray, keep: np.ndarray) -> dict[str, np.ndarray]:
    """Return the labeled images of held-out patients: validation and test."""
    labeled = labels >= 0 if labels.ndim == 1 else ~np.isnan(labels).all(axis=1)
    remaining, parts = np.flatnonzero(keep & labeled), {}
    for seed, (part, share) in enumerate(_HELD_OUT.items()):
        splitter = GroupShuffleSplit(1, test_size=share, random_state=seed)
        others, chosen = next(splitter.split(remaining, groups=groups[remaining]))
        parts[part] = remaining[chosen]
        remaining = remaining[others]
    return parts
