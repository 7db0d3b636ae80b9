"""The pretraining corpus: medical sets without the targets, whatever is made of their images, and their patients.

The rule is strict. Of a target, its relatives and its external test sets no image is learnt, no copy of an image, and
no other image of a patient of whom one of them holds a copy, in whichever part. Patients held out for the gate are not
learnt either, nor are copies of their images in other sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from core.data import DATASETS
from core.data.dataset import scan
from core.data.duplicates import Copies, find_copies
from core.data.image_cache import Bank, open_bank
from core.data.listing import Listing
from core.data.specs import DatasetSpec, family_of, how_to_get, is_present
from core.data.splits import unite_groups
from core.errors import DataUnavailable
from core.models.medical_encoders import relatives
from trainer.progress import bar

_HELD_OUT = {"validation": 0.1, "test": 0.25}  # of the patients of a set that judges, in this order


@dataclass(frozen=True)
class CorpusPart:
    """One set of the corpus.

    Attributes:
        spec, listing: the set.
        bank: its images at the pretraining size.
        groups: (N,) number of each image's patient, copies of one picture united.
        train, validation, test: index arrays; the last two are empty but for sets of the gate.
        copies: name of another set -> images removed because they are copies of its images.
        patients: name of another set -> further images removed, of patients of whom it holds a copy.
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


def guards_of(targets: Sequence[str], names: Iterable[str]) -> list[str]:
    """The sets whose images and patients must be out of a corpus.

    Args:
        targets: data sets that the encoder must never have seen.
        names: sets of the corpus. An external test set that is one of them is no guard: the encoder will not be judged
            on it.
    Returns:
        the targets, their relatives and their external test sets, as far as they are on this machine.
    Raises:
        DataUnavailable: if a target, or the set whose images it is made of, is not on this machine, so that nothing can
            be compared with it; or if a set of the corpus is a target or a relative of one.
    """
    apart = set().union(*(relatives(target) for target in targets))
    if clash := apart & set(names):
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
    elsewhere = {external.dataset for name in apart for external in DATASETS[name].external} - set(names)
    return [name for name in sorted(apart | elsewhere) if is_present(DATASETS[name])]


def gather(targets: Sequence[str], names: Sequence[str], gates: Iterable[str], size: int) -> list[CorpusPart]:
    """Reads, audits and cleans the corpus.

    Args:
        targets: data sets that the encoder must never have seen.
        names: sets to learn from; all must be on this machine.
        gates: those of them of which patients are held out for judging the encoder.
        size: side in pixels.
    Raises:
        DataUnavailable: see `guards_of`; or if a set of the corpus is missing.
    """
    guards = {name: scan(DATASETS[name]) for name in guards_of(targets, names)}
    parts: list[CorpusPart] = []
    for name in sorted(names, key=lambda one: one not in set(gates)):  # held-out patients are known before other sets
        spec = DATASETS[name]
        with bar(f"{name}: reading") as show:
            listing, small = scan(spec, show)
            bank = open_bank(listing, size, spec.channels, show)
        groups = unite_groups(listing.groups, find_copies(small))
        keep = np.ones(len(listing), bool)
        keep[list(small.errors)] = False
        copied, patients = {}, {}
        for guard, (theirs, guard_bank) in guards.items():
            copies = find_copies(small, guard_bank)
            copied[guard] = _drop(keep, np.unique(copies.first))
            patients[guard] = _drop(keep, _of_their_patients(spec, listing, groups, copies, guard, theirs))
        for part in parts:
            copies = find_copies(small, scan(part.spec)[1])
            crossing = np.isin(copies.second, np.concatenate([part.validation, part.test]))
            copied[part.spec.name] = _drop(keep, np.unique(copies.first[crossing]))
        held_out = _held_out(groups, listing.labels, keep) if name in gates else {}
        empty = np.array([], int)
        held = np.isin(groups, groups[np.concatenate([empty, *held_out.values()])])
        train = np.flatnonzero(keep & ~held)
        validation, test = (held_out.get(part, empty) for part in _HELD_OUT)
        parts.append(CorpusPart(spec, listing, bank, groups, train, validation, test, copied, patients))
    return sorted(parts, key=lambda part: list(names).index(part.spec.name))


def _drop(keep: np.ndarray, indices: np.ndarray) -> int:
    dropped = int(keep[indices].sum())
    keep[indices] = False
    return dropped


def _of_their_patients(
    spec: DatasetSpec, listing: Listing, groups: np.ndarray, copies: Copies, guard: str, theirs: Listing
) -> np.ndarray:
    """Indices of images of patients of whom a guard holds a copy; where both are of one archive, by number too."""
    known = np.isin(groups, groups[copies.first])
    if family_of(guard) == family_of(spec.name):
        known |= np.isin(groups, groups[np.isin(listing.groups, theirs.groups)])
    return np.flatnonzero(known)


def _held_out(groups: np.ndarray, labels: np.ndarray, keep: np.ndarray) -> dict[str, np.ndarray]:
    """Labelled images of held-out patients: validation and test."""
    labelled = labels >= 0 if labels.ndim == 1 else ~np.isnan(labels).all(axis=1)
    rest, found = np.flatnonzero(keep & labelled), {}
    for seed, (part, share) in enumerate(_HELD_OUT.items()):
        chooser = GroupShuffleSplit(1, test_size=share, random_state=seed)
        kept, out = next(chooser.split(rest, groups=groups[rest]))
        found[part] = rest[out]
        rest = rest[kept]
    return found
