"""Who is in which part: the publisher's test set kept whole, missing parts carved by group, nested small subsets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from core.data.duplicates import Copies
from core.data.listing import TEST, TRAIN, UNLABELLED, VALIDATION
from core.errors import BadRequest, LeakFound
from core.files import sha256_of

MIN_VALIDATION = 50
DROPPED = "dropped"
TEST_SHARE = 5
_SHARES = {2: "half", 5: "a fifth"}
_VALIDATION_SHARE = 10


@dataclass(frozen=True)
class Parts:
    """The split of a data set.

    Attributes:
        train, validation, test: index arrays, sorted; no group is in two of them.
        groups: (N,) group number of each image, copies of one picture united.
        notes: what was done that the publisher did not do, in sentences.
        dropped: training and validation images left out, because a copy or the same patient is in a part kept whole.
        leaks: training and validation images that stay in spite of that, because leaks were allowed.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    groups: np.ndarray
    notes: tuple[str, ...]
    dropped: int = 0
    leaks: int = 0


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


def strata_of(labels: np.ndarray, groups: np.ndarray, least: int) -> np.ndarray:
    """What is kept balanced when images are dealt out: the class; of findings the rarest that an image has.

    Args:
        labels: (N,) class indices, or (N, findings).
        groups: (N,) what stays together.
        least: groups of images a finding needs to be a stratum of its own; rarer ones are dealt out together.
    Returns:
        (N,) numbers.
    """
    if labels.ndim == 1:
        return labels
    present = np.nan_to_num(labels) > 0.5
    strata = np.full(len(labels), present.shape[1])
    for finding in np.argsort(-present.sum(axis=0), kind="stable"):
        strata[present[:, finding]] = finding
    found, counts = np.unique(np.unique(np.stack([strata, groups]), axis=1)[0], return_counts=True)
    return np.where(np.isin(strata, found[counts < least]), found[counts.argmax()], strata)


def split(
    labels: np.ndarray,
    groups: np.ndarray,
    parts: np.ndarray,
    readable: np.ndarray,
    copies: Copies,
    allow_leaks: bool = False,
    test_share: int = TEST_SHARE,
) -> Parts:
    """Completes the publisher's split and keeps copies from crossing it.

    Args:
        labels: (N,) class indices or (N, findings); images without a label are in no part.
        groups: (N,) patients or lesions.
        parts: (N,) the publisher's parts, "" where unknown.
        readable: (N,) bool; unreadable images are in no part.
        copies: pairs of copies within the set.
        allow_leaks: leave images that have a copy or the same patient in a part kept whole where the publisher put
            them, and count them.
        test_share: one in how many groups is set apart where the publisher gives no test part.
    Returns:
        the parts. A training or validation image whose copy or patient is in a part given by the publisher is dropped,
        and the notes say how many.
    Raises:
        LeakFound: if the publisher's parts share so many patients or copies that a class has nothing left to learn
            from, or if a group is on both sides all the same.
        BadRequest: if there are too few images or groups to carve a missing part.
    """
    groups = unite_groups(groups, copies)
    labelled = labels != UNLABELLED if labels.ndim == 1 else np.ones(len(labels), bool)
    parts = np.where(readable & labelled, np.where(parts == "", TRAIN, parts), "no part").astype("<U10")
    notes: list[str] = []
    at_odds = ~((a := labels[copies.first]) == (b := labels[copies.second]))
    if labels.ndim == 1:
        at_odds &= labelled[copies.first] & labelled[copies.second]
    else:
        at_odds = (at_odds & ~np.isnan(a) & ~np.isnan(b)).any(axis=1)
    if at_odds.any():
        notes.append(f"{int(at_odds.sum())} pairs of copies bear different labels: one of each pair must be wrong.")
    given = int((parts == VALIDATION).sum())
    validates = _fewest(labels, parts == VALIDATION) >= MIN_VALIDATION
    if not validates:
        parts[parts == VALIDATION] = TRAIN
    if not readable.all():
        notes.append(f"{int((~readable).sum())} files could not be read and are left out.")
    if not labelled.all():
        notes.append(f"{int((~labelled).sum())} images have no label and are in no part.")
    if not (parts == TEST).any():
        share = _SHARES.get(test_share, f"one in {test_share}")
        notes.append(f"The publisher gives no test part; {share} of the images was set apart by group.")
        parts[_carve(parts, labels, groups, test_share)] = TEST
    before = parts.copy()
    crossing = _crossing(parts, groups, TEST)
    parts[crossing] = DROPPED
    if validates:
        parts[twins := _crossing(parts, groups, VALIDATION)] = DROPPED
        crossing |= twins
    if crossing.any():
        parts = before if allow_leaks else parts
        notes.append(_said(int(crossing.sum()), allow_leaks))
    _check_left(labels, parts, crossing)
    if not validates:
        came = f"The {given} validation images given are too few; they joined the training part. " if given else ""
        notes.append(f"{came}A tenth of the training part was set apart for validation, by group.")
        parts[_carve(parts, labels, groups, _VALIDATION_SHARE)] = VALIDATION
    indices = {part: np.flatnonzero(parts == part) for part in (TRAIN, VALIDATION, TEST)}
    if not allow_leaks:
        check_disjoint(groups, indices)
    count = int(crossing.sum())
    return Parts(
        indices[TRAIN],
        indices[VALIDATION],
        indices[TEST],
        groups,
        tuple(notes),
        dropped=0 if allow_leaks else count,
        leaks=count if allow_leaks else 0,
    )


def _fewest(labels: np.ndarray, part: np.ndarray) -> int:
    """Images of the rarest class in a part; of findings, images in all."""
    if labels.ndim == 2:
        return int(part.sum())
    return min(int((labels[part] == c).sum()) for c in np.unique(labels[labels != UNLABELLED]))


def _check_left(labels: np.ndarray, parts: np.ndarray, crossing: np.ndarray) -> None:
    """Raises where a class has no image to train or test on, or a finding lost all that show it because they cross."""
    if labels.ndim == 1:
        shown = (labels[:, None] == np.arange(labels.max() + 1)).astype(float)
    else:
        shown = np.nan_to_num(labels)
    for index, column in enumerate((shown > 0.5).T):
        left = {part: bool((column & (parts == part)).any()) for part in (TRAIN, TEST)}
        if not left[TRAIN] and (column & crossing).any():
            raise LeakFound(
                f"Every training image of class number {index} has a copy or an image of the same patient in a part "
                "kept whole. Divide the images anew by patient, or add --allow-leaks to train on them all the same; "
                "the results will say so."
            )
        for part in (TRAIN, TEST) if labels.ndim == 1 and column.any() else ():
            if not left[part]:
                raise BadRequest(f"The {part} part has no readable image of class number {index}; add some.")


def _crossing(parts: np.ndarray, groups: np.ndarray, kept: str) -> np.ndarray:
    """(N,) bool: training and validation images outside a part whose copy or patient is in it."""
    return np.isin(groups, groups[parts == kept]) & np.isin(parts, (TRAIN, VALIDATION)) & (parts != kept)


def _said(count: int, allowed: bool) -> str:
    why = "a copy of them or an image of the same patient is in a part kept whole."
    if allowed:
        return f"LEAKS ALLOWED: {count} training or validation images were kept although {why}"
    return f"{count} training or validation images were dropped: {why}"


def _carve(parts: np.ndarray, labels: np.ndarray, groups: np.ndarray, share: int) -> np.ndarray:
    """A share of the training images, whole groups, each class by its share."""
    pool = np.flatnonzero(parts == TRAIN)
    strata = np.zeros(len(parts), int)
    strata[pool] = strata_of(labels[pool], groups[pool], share)
    smallest = min(len(np.unique(groups[pool][strata[pool] == c])) for c in np.unique(strata[pool]))
    if smallest < share:
        raise BadRequest(
            f"A class has only {smallest} groups of images; at least {share} are needed to set a part aside."
        )
    folds = StratifiedGroupKFold(share, shuffle=True, random_state=0).split(pool, strata[pool], groups[pool])
    return pool[next(iter(folds))[1]]


def halve(rows: np.ndarray, ids: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide images into two halves by group, each class by its share, the same way on every machine.

    Args:
        rows: positions to divide.
        ids: (N,) names, by whose hash groups are dealt out.
        labels: (N,) class indices or (N, findings).
        groups: (N,) what stays together.
    Returns:
        sorted positions of the two halves.
    """
    first_name: dict[int, str] = {}
    strata: dict[int, int] = {}
    for row, stratum in zip(rows, strata_of(labels[rows], groups[rows], 2), strict=True):
        group = int(groups[row])
        first_name[group] = min(first_name.get(group, str(ids[row])), str(ids[row]))
        strata[group] = min(strata.get(group, int(stratum)), int(stratum))
    order = sorted(strata, key=lambda group: (strata[group], sha256_of([first_name[group]])))
    first = np.isin(groups[rows], order[::2])
    return np.sort(rows[first]), np.sort(rows[~first])


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

    Of findings it draws `size` images that show each, and `size` that are known to show none. An image drawn for one
    finding may show another too, so that some findings have more.

    Args:
        ids: (N,) names, by which the draw is ordered, so that it does not depend on the order of files.
        labels: (N,) class indices, or (N, findings) of 0, 1 and NaN.
        pool: indices that may be drawn.
        class_names: names of the classes.
        size: images a class; None takes the whole pool.
        seed: of the draw.
    Raises:
        BadRequest: if size is below 1.
    """
    if size is not None and size < 1:
        raise BadRequest(f"Expected at least 1 image a class, but got {size}.")
    if size is None:
        return Subset(np.sort(pool), sha256_of(sorted(str(name) for name in ids[pool])), ())
    chosen, short = [], []
    names = class_names if labels.ndim == 1 else (*class_names, "none of these")
    for index, name in enumerate(names):
        members = pool[_shows(labels[pool], index)]
        members = members[np.argsort(ids[members])]
        order = np.random.default_rng([seed, index]).permutation(len(members))
        if len(members) < size:
            short.append(name)
        chosen.append(members[order][:size])
    indices = np.unique(np.concatenate(chosen))
    return Subset(indices, sha256_of(sorted(str(name) for name in ids[indices])), tuple(short))


def _shows(labels: np.ndarray, index: int) -> np.ndarray:
    """(N,) bool: the images of a class or finding; after the last finding those known to show none."""
    if labels.ndim == 1:
        return labels == index
    return labels[:, index] > 0.5 if index < labels.shape[1] else (labels == 0).all(axis=1)
