"""Who is in which part: the publisher's test set kept whole, missing parts carved by group, nested small subsets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from core.data.audit import Copies
from core.data.listing import TEST, TRAIN, VALIDATION
from core.errors import BadRequest, LeakFound
from core.storage import sha256_of

MIN_VALIDATION = 50
_TEST_SHARE = 5
_VALIDATION_SHARE = 10


@dataclass(frozen=True)
class Parts:
    """The split of a data set.

    Attributes:
        train, validation, test: index arrays, sorted; no group is in two of them.
        groups: (N,) group number of each image, copies of one picture united.
        notes: what was done that the publisher did not do, in sentences.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    groups: np.ndarray
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Subset:
    """The labelled images that a method may see.

    Attributes:
        indices: sorted indices into the data set.
        hash: SHA-256 over the ids, equal for equal subsets.
        short: labels of the classes that have fewer images than asked for.
    """

    indices: np.ndarray
    hash: str
    short: tuple[str, ...]


def unite_groups(groups: np.ndarray, copies: Copies) -> np.ndarray:
    """Group numbers in which images of one group, and copies of one picture, share a number."""
    _, number = np.unique(groups, return_inverse=True)
    count = int(number.max()) + 1
    edges = (np.ones(len(copies)), (number[copies.first], number[copies.second]))
    _, united = connected_components(coo_array(edges, shape=(count, count)), directed=False)
    return united[number]


def split(labels: np.ndarray, groups: np.ndarray, parts: np.ndarray, readable: np.ndarray, copies: Copies) -> Parts:
    """Completes the publisher's split and keeps copies from crossing it.

    Args:
        labels: (N,) class indices or (N, findings).
        groups: (N,) patients or lesions.
        parts: (N,) the publisher's parts, "" where unknown.
        readable: (N,) bool; unreadable images are in no part.
        copies: pairs of copies within the set.
    Returns:
        the parts. A training or validation image whose copy or patient is in a test set given by the publisher is
        dropped, and the notes say how many.
    Raises:
        LeakFound: if a group is on both sides all the same.
        BadRequest: if there are too few images or groups to carve a missing part.
    """
    groups = unite_groups(groups, copies)
    parts = np.where(readable, np.where(parts == "", TRAIN, parts), "unreadable").astype("<U10")
    strata = labels if labels.ndim == 1 else (np.nan_to_num(labels) > 0).any(axis=1).astype(int)
    notes = []
    classes = np.unique(strata)
    given = int((parts == VALIDATION).sum())
    validates = given and min((strata[parts == VALIDATION] == c).sum() for c in classes) >= MIN_VALIDATION
    if not validates:
        parts[parts == VALIDATION] = TRAIN
    if not readable.all():
        notes.append(f"{int((~readable).sum())} files could not be read and are left out.")
    if not (parts == TEST).any():
        notes.append("The publisher gives no test part; a fifth of the images was set apart by group.")
        parts[_carve(parts, strata, groups, _TEST_SHARE)] = TEST
    _drop_twins(parts, groups, TEST, notes)
    if validates:
        _drop_twins(parts, groups, VALIDATION, notes)
    else:
        came = f"The {given} validation images given are too few; they joined the training part. " if given else ""
        notes.append(f"{came}A tenth of the training part was set apart for validation, by group.")
        parts[_carve(parts, strata, groups, _VALIDATION_SHARE)] = VALIDATION
    indices = {part: np.flatnonzero(parts == part) for part in (TRAIN, VALIDATION, TEST)}
    check_disjoint(groups, indices)
    for part in (TRAIN, TEST):
        if len(absent := np.setdiff1d(classes, strata[indices[part]])):
            raise BadRequest(f"The {part} part has no readable image of class number {absent[0]}; add some.")
    return Parts(indices[TRAIN], indices[VALIDATION], indices[TEST], groups, tuple(notes))


def _drop_twins(parts: np.ndarray, groups: np.ndarray, kept: str, notes: list[str]) -> None:
    """Drops images outside a part (and not in the test part) whose copy or patient is in it."""
    crossing = np.isin(groups, groups[parts == kept]) & np.isin(parts, (TRAIN, VALIDATION)) & (parts != kept)
    if crossing.any():
        notes.append(
            f"{int(crossing.sum())} training images were dropped: a copy of them or an image of the same patient is in "
            f"the {kept} part."
        )
        parts[crossing] = "dropped"


def _carve(parts: np.ndarray, strata: np.ndarray, groups: np.ndarray, share: int) -> np.ndarray:
    pool = np.flatnonzero(parts == TRAIN)
    smallest = min(len(np.unique(groups[pool][strata[pool] == c])) for c in np.unique(strata))
    if smallest < share:
        raise BadRequest(
            f"A class has only {smallest} groups of images; at least {share} are needed to set a part aside."
        )
    folds = StratifiedGroupKFold(share, shuffle=True, random_state=0).split(pool, strata[pool], groups[pool])
    return pool[next(iter(folds))[1]]


def check_disjoint(groups: np.ndarray, indices: dict[str, np.ndarray]) -> None:
    """Raises LeakFound if a group is in two parts."""
    names = list(indices)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = np.intersect1d(groups[indices[first]], groups[indices[second]])
            if len(shared):
                raise LeakFound(
                    f"{len(shared)} groups are in both {first} and {second}; no run is made on such a split."
                )


def nested_subset(
    ids: np.ndarray, labels: np.ndarray, pool: np.ndarray, class_names: tuple[str, ...], size: int | None, seed: int
) -> Subset:
    """Draws `size` images a class; the subset of a smaller size lies inside that of a larger one of the same seed.

    Args:
        ids: (N,) names, by which the draw is ordered, so that it does not depend on the order of files.
        labels: (N,) class indices.
        pool: indices that may be drawn.
        class_names: names of the classes.
        size: images a class; None takes the whole pool.
        seed: of the draw.
    Raises:
        BadRequest: if size is below 1.
    """
    if size is not None and size < 1:
        raise BadRequest(f"Expected at least 1 image a class, but got {size}.")
    chosen, short = [], []
    for index, name in enumerate(class_names):
        members = pool[labels[pool] == index]
        members = members[np.argsort(ids[members])]
        order = np.random.default_rng([seed, index]).permutation(len(members))
        if size is not None and len(members) < size:
            short.append(name)
        chosen.append(members[order][:size])
    indices = np.sort(np.concatenate(chosen))
    return Subset(indices, sha256_of(sorted(str(name) for name in ids[indices])), tuple(short))
