"""The pretraining corpus: every medical set on this machine but the target and its relatives, copies taken out.

A copy of a target image is removed wherever the audit finds one. So are images of NIH patients held out for judging
the encoder, and copies of those in other sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from core.data import DATASETS
from core.data.audit import find_copies
from core.data.banks import Bank, open_bank
from core.data.dataset import scan
from core.data.listing import Listing
from core.data.specs import DatasetSpec, is_present
from core.data.splits import unite_groups
from core.errors import DataUnavailable
from core.models.own_encoders import relatives
from trainer.progress import bar

JUDGE = "nih-chestxray14"
_HELD_OUT = {"validation": 0.1, "test": 0.2}


@dataclass(frozen=True)
class CorpusPart:
    """One set of the corpus.

    Attributes:
        spec, listing: the set.
        bank: its images at the pretraining size.
        train, validation, test: index arrays; validation and test are empty but for the judging set.
        removed: name of the other set -> images removed because it holds a copy of them.
    """

    spec: DatasetSpec
    listing: Listing
    bank: Bank
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    removed: dict[str, int]


def gather(target: str, names: tuple[str, ...], size: int) -> list[CorpusPart]:
    """Reads, audits and cleans the corpus.

    Args:
        target: the data set that the encoder must never have seen; "" for none.
        names: sets to take, the judging set first; all must be on this machine.
        size: side in pixels.
    Raises:
        DataUnavailable: if a named set is missing, or is the target or its relative.
    """
    kept_apart = relatives(target) if target else set()
    if clash := kept_apart & set(names):
        raise DataUnavailable(f"{', '.join(sorted(clash))} cannot be in the corpus: the target is {target}.")
    guards = {name: scan(DATASETS[name])[1] for name in sorted(kept_apart) if is_present(DATASETS[name])}
    parts: list[CorpusPart] = []
    for name in names:
        spec = DATASETS[name]
        with bar(f"{name}: reading") as show:
            listing, small = scan(spec, show)
            bank = open_bank(listing, size, spec.channels, show)
        keep = np.ones(len(listing), bool)
        keep[list(small.errors)] = False
        removed = {}
        for guard, guard_bank in guards.items():
            removed[guard] = _drop(keep, np.unique(find_copies(small, guard_bank).first))
        if name == JUDGE:
            held_out = _held_out(listing, small)
        else:
            held_out = {part: np.array([], int) for part in _HELD_OUT}
            judged = next((part for part in parts if part.spec.name == JUDGE), None)
            if judged is not None:
                copies = find_copies(small, scan(judged.spec)[1])
                crossing = np.isin(copies.second, np.concatenate([judged.validation, judged.test]))
                removed[f"{JUDGE}, held-out patients"] = _drop(keep, np.unique(copies.first[crossing]))
        held = np.concatenate(list(held_out.values()))
        train = np.setdiff1d(np.flatnonzero(keep), held)
        parts.append(CorpusPart(spec, listing, bank, train, held_out["validation"], held_out["test"], removed))
    return parts


def _drop(keep: np.ndarray, indices: np.ndarray) -> int:
    dropped = int(keep[indices].sum())
    keep[indices] = False
    return dropped


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
