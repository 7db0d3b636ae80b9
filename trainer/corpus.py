"""The pretraining corpus: every medical set on this machine but the target and its relatives, copies taken out.

A copy of a target image is removed wherever the audit finds one. Not learnt from are other images of patients by whose
copies the target judges (validation and test), images of patients held out for judging the encoder, and copies of
those in other sets. Judged is on the first set of the corpus: NIH, or another where NIH is the target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from core.data import DATASETS
from core.data.audit import Copies, find_copies
from core.data.banks import Bank, open_bank
from core.data.dataset import load_dataset, scan
from core.data.listing import Listing
from core.data.specs import DatasetSpec, family_of, how_to_get, is_present
from core.data.splits import unite_groups
from core.errors import DataUnavailable
from core.models.own_encoders import relatives
from trainer.progress import bar

_HELD_OUT = {"validation": 0.1, "test": 0.2}


@dataclass(frozen=True)
class CorpusPart:
    """One set of the corpus.

    Attributes:
        spec, listing: the set.
        bank: its images at the pretraining size.
        train, validation, test: index arrays; validation and test are empty but for the judging set.
        removed: name of the other set -> images removed because they are copies of its images: of any image of the
            target, of held-out patients of the judging set, and, in sets left out of the corpus, of any image learnt.
        people: name of the target or a relative -> further images not learnt from, of patients by a copy of whose
            images it validates or tests.
    """

    spec: DatasetSpec
    listing: Listing
    bank: Bank
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    removed: dict[str, int]
    people: dict[str, int]


def gather(target: str, names: tuple[str, ...], left_out: tuple[str, ...], size: int) -> list[CorpusPart]:
    """Reads, audits and cleans the corpus, and the sets left out of it on which transfer is judged.

    Args:
        target: the data set that the encoder must never have seen; "" for none.
        names: sets to learn from, the judging set first; all must be on this machine.
        left_out: sets that are not learnt from; images with a copy in the corpus are removed from them.
        size: side in pixels.
    Raises:
        DataUnavailable: if a named set is missing, or is the target or its relative; or if the target, or the set
            whose images it is made of, is missing, so that nothing can be compared with it.
    """
    kept_apart = relatives(target) if target else set()
    if clash := kept_apart & {*names, *left_out}:
        raise DataUnavailable(f"{', '.join(sorted(clash))} cannot be in the corpus: the target is {target}.")
    guards = {name: scan(DATASETS[name])[1] for name in sorted(kept_apart) if is_present(DATASETS[name])}
    if (family := family_of(target)) in DATASETS and family not in guards:
        raise DataUnavailable(
            f"{family} is not on this machine, so that its copies cannot be found in the corpus. "
            f"{how_to_get(DATASETS[family])}."
        )
    parts: list[CorpusPart] = []
    for name in (*names, *left_out):
        spec = DATASETS[name]
        with bar(f"{name}: reading") as show:
            listing, small = scan(spec, show)
            bank = open_bank(listing, size, spec.channels, show)
        keep = np.ones(len(listing), bool)
        keep[list(small.errors)] = False
        found = {guard: find_copies(small, guard_bank) for guard, guard_bank in guards.items()}
        removed = {guard: _drop(keep, np.unique(copies.first)) for guard, copies in found.items()}
        if name == names[0]:
            held_out = {part: rows[keep[rows]] for part, rows in _held_out(listing, small).items()}
        else:
            held_out = {part: np.array([], int) for part in _HELD_OUT}
            for part in parts[: len(names)]:
                copies = find_copies(small, scan(part.spec)[1])
                held_from_it = np.concatenate([part.validation, part.test])
                forbidden = held_from_it if name in names else np.concatenate([held_from_it, part.train])
                crossing = np.isin(copies.second, forbidden)
                removed[part.spec.name] = _drop(keep, np.unique(copies.first[crossing]))
        held = np.concatenate(list(held_out.values()))
        train, people = np.setdiff1d(np.flatnonzero(keep), held), {}
        if name in names:
            for guard, copies in found.items():
                before = len(train)
                train = train[~_of_people_judged(listing, copies, guard)[train]]
                people[guard] = before - len(train)
        parts.append(CorpusPart(spec, listing, bank, train, held_out["validation"], held_out["test"], removed, people))
    return parts


def _drop(keep: np.ndarray, indices: np.ndarray) -> int:
    dropped = int(keep[indices].sum())
    keep[indices] = False
    return dropped


def _of_people_judged(listing: Listing, copies: Copies, guard: str) -> np.ndarray:
    """(N,) bool, the images of people of whom the guard has a copy in its validation or test part."""
    others = np.isin(listing.groups, listing.groups[copies.first])
    if others.sum() == len(np.unique(copies.first)):  # nobody has another image: its split need not be known
        return others
    parts = load_dataset(DATASETS[guard], allow_leaks=True).parts
    judged = np.isin(copies.second, np.concatenate([parts.validation, parts.test]))
    return np.isin(listing.groups, listing.groups[copies.first[judged]])


def _held_out(listing: Listing, small: Bank) -> dict[str, np.ndarray]:
    groups = unite_groups(listing.groups, find_copies(small))
    rest = np.arange(len(listing))
    found = {}
    for seed, (part, share) in enumerate(_HELD_OUT.items()):
        chooser = GroupShuffleSplit(1, test_size=share, random_state=seed)
        keep, out = next(chooser.split(rest, groups=groups[rest]))
        found[part] = rest[out]
        rest = rest[keep]
    return found
