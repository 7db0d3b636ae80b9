"""Splits: the publisher's test set is kept whole, missing parts are split off by group, small subsets are nested."""

from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from core.data.duplicates import Copies
from core.data.listing import TEST, TRAIN, UNLABELED, VALIDATION
from core.errors import BadRequest, LeakFound
from core.files import sha256_of, write_atomically
from core.paths import cache_folder

MIN_VALIDATION = 50
DROPPED = "dropped"
TEST_SHARE = 5
_SHARES = {2: "half", 5: "a fifth"}
_VALIDATION_SHARE = 10


@dataclass(frozen=True)
class Parts:
    """The split of a data set.

    Attributes:
        train, validation, test: sorted index arrays; no group is in two of them.
        groups: (N,) group number of each image; copies of one image share a number.
        notes: changes to the publisher's split, in sentences.
        dropped: number of training and validation images left out because a copy or an image of the same patient is in
            a part that is kept whole.
        leaks: number of such images that were kept because leaks were allowed.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    groups: np.ndarray
    notes: tuple[str, ...]
    dropped: int = 0
    leaks: int = 0

    @property
    def by_name(self) -> dict[str, np.ndarray]:
        """Name -> indices of each part."""
        return {TRAIN: self.train, VALIDATION: self.validation, TEST: self.test}


@dataclass(frozen=True)
class Subset:
    """The labeled images that a method may use.

    Attributes:
        indices: sorted indices into the data set.
        hash: SHA-256 over the ids, equal for equal subsets.
        short: names of the classes that have fewer images than requested.
    """

    indices: np.ndarray
    hash: str
    short: tuple[str, ...]


def merge_groups(groups: np.ndarray, copies: Copies) -> np.ndarray:
    """Return group numbers in which images of one group, and copies of one image, share a number."""
    _, number = np.unique(groups, return_inverse=True)
    count = int(number.max()) + 1
    edges = (np.ones(len(copies)), (number[copies.first], number[copies.second]))
    _, united = connected_components(coo_array(edges, shape=(count, count)), directed=False)
    return united[number]


def redundant_copies(
    labels: np.ndarray, copies: Copies, parts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the images that can be left out so that no copies remain.

    Of the copies in several parts a test image stays, else a validation image; of those in one part, the first.

    Args:
        labels: (N,) class indices.
        copies: pairs of copies.
        parts: (N,) the publisher's parts, "" if unknown.
    Returns:
        positions of images that are copies of another image of their class; positions of those among them that are
        outside the test part and copies of a test image; and positions of all images with a copy in another class,
        because one of the labels must be wrong.
    """
    groups = merge_groups(np.arange(len(labels)), copies)
    classes = np.zeros((groups.max() + 1, labels.max() + 1), bool)
    classes[groups, labels] = True
    conflicting = (classes.sum(axis=1) > 1)[groups]
    order = np.lexsort((np.arange(len(labels)), parts != VALIDATION, parts != TEST))
    kept = order[np.unique(groups[order], return_index=True)[1]]  # of each group
    redundant = ~conflicting
    redundant[kept] = False
    twin = redundant & (parts != TEST) & (parts[kept] == TEST)[groups]
    return np.flatnonzero(redundant & ~twin), np.flatnonzero(twin), np.flatnonzero(conflicting)


def strata_of(labels: np.ndarray, groups: np.ndarray, least: int) -> np.ndarray:
    """Return the stratum of each image: its class, or its rarest finding.

    Args:
        labels: (N,) class indices, or (N, findings).
        groups: (N,) units that stay together.
        least: minimum number of groups for a finding to be its own stratum; rarer ones join the largest stratum.
    Returns:
        (N,) stratum numbers.
    """
    if labels.ndim == 1:
        return labels
    present = np.nan_to_num(labels) > 0.5
    strata = np.full(len(labels), present.shape[1])
    for finding in np.argsort(-present.sum(axis=0), kind="stable"):
        strata[present[:, finding]] = finding
    numbers, counts = np.unique(np.unique(np.stack([strata, groups]), axis=1)[0], return_counts=True)
    return np.where(np.isin(strata, numbers[counts < least]), numbers[counts.argmax()], strata)


def split(
    labels: np.ndarray,
    groups: np.ndarray,
    parts: np.ndarray,
    readable: np.ndarray,
    copies: Copies,
    allow_leaks: bool = False,
    test_share: int = TEST_SHARE,
) -> Parts:
    """Complete the publisher's split and remove patients and copies that cross it.

    Args:
        labels: (N,) class indices or (N, findings); images without a label are in no part.
        groups: (N,) patients or lesions.
        parts: (N,) the publisher's parts, "" if unknown.
        readable: (N,) bool; unreadable images are in no part.
        copies: pairs of copies within the data set.
        allow_leaks: keep, and count, images that have a copy or an image of the same patient in a part kept whole.
        test_share: n, where one in n groups becomes test data if the publisher gives no test part.
    Returns:
        the parts. A training or validation image whose copy or patient is in a part given by the publisher is dropped,
        and the notes say how many.
    Raises:
        LeakFound: if so many images cross the split that a class has no training image left, or if a group is still in
            two parts.
        BadRequest: if there are too few images or groups to split off a missing part.
    """
    # Unite copies into groups; leave out unreadable and unlabeled images.
    groups = merge_groups(groups, copies)
    labeled = labels != UNLABELED if labels.ndim == 1 else np.ones(len(labels), bool)
    parts = np.where(readable & labeled, np.where(parts == "", TRAIN, parts), "no part").astype("<U10")
    notes: list[str] = []
    # Count pairs of copies with different known labels.
    conflicting = ~((a := labels[copies.first]) == (b := labels[copies.second]))
    if labels.ndim == 1:
        conflicting &= labeled[copies.first] & labeled[copies.second]
    else:
        conflicting = (conflicting & ~np.isnan(a) & ~np.isnan(b)).any(axis=1)
    if conflicting.any():
        notes.append(f"{int(conflicting.sum())} pairs of copies bear different labels: one of each pair must be wrong.")
    # Keep the publisher's validation part only if it is large enough.
    given_count = int((parts == VALIDATION).sum())
    keeps_validation = _smallest_class(labels, parts == VALIDATION) >= MIN_VALIDATION
    if not keeps_validation:
        parts[parts == VALIDATION] = TRAIN
    if not readable.all():
        notes.append(f"{int((~readable).sum())} files could not be read and are left out.")
    if not labeled.all():
        notes.append(f"{int((~labeled).sum())} images have no label and are in no part.")
    # Split off a test part if the publisher gives none.
    if not (parts == TEST).any():
        share = _SHARES.get(test_share, f"one in {test_share}")
        notes.append(f"The publisher gives no test part; {share} of the images was set apart by group.")
        parts[_split_off(parts, labels, groups, test_share)] = TEST
    # Drop training and validation images that share a group with a part kept whole.
    before = parts.copy()
    crossing = _crossing(parts, groups, TEST)
    parts[crossing] = DROPPED
    if keeps_validation:
        parts[also_crossing := _crossing(parts, groups, VALIDATION)] = DROPPED
        crossing |= also_crossing
    if crossing.any():
        parts = before if allow_leaks else parts
        count, why = int(crossing.sum()), "a copy of them or an image of the same patient is in a part kept whole."
        notes.append(
            f"LEAKS ALLOWED: {count} training or validation images were kept although {why}"
            if allow_leaks
            else f"{count} training or validation images were dropped: {why}"
        )
    _check_left(labels, parts, crossing)
    # Split off a validation part if none is kept.
    if not keeps_validation:
        note = "A tenth of the training part was set apart for validation, by group."
        joined = f"The {given_count} validation images given are too few; they joined the training part."
        notes.append(f"{joined} {note}" if given_count else note)
        parts[_split_off(parts, labels, groups, _VALIDATION_SHARE)] = VALIDATION
    train, validation, test = (np.flatnonzero(parts == part) for part in (TRAIN, VALIDATION, TEST))
    dropped, leaks = (0, int(crossing.sum())) if allow_leaks else (int(crossing.sum()), 0)
    result = Parts(train, validation, test, groups, tuple(notes), dropped, leaks)
    if not allow_leaks:
        check_disjoint(groups, result.by_name)
    return result


def _smallest_class(labels: np.ndarray, part: np.ndarray) -> int:
    """Return the number of images of the rarest class in a part; for findings, of all images."""
    if labels.ndim == 2:
        return int(part.sum())
    return min(int((labels[part] == c).sum()) for c in np.unique(labels[labels != UNLABELED]))


def _check_left(labels: np.ndarray, parts: np.ndarray, crossing: np.ndarray) -> None:
    """Raise if a class has no training or test image left, or a finding lost all its training images as leaks."""
    for index in range(labels.max() + 1 if labels.ndim == 1 else labels.shape[1]):
        column = _has_class(labels, index)
        remaining = {part: bool((column & (parts == part)).any()) for part in (TRAIN, TEST)}
        if not remaining[TRAIN] and (column & crossing).any():
            raise LeakFound(
                f"Every training image of class number {index} has a copy or an image of the same patient in a part "
                "kept whole. Split the images again by patient, or add --allow-leaks to train on them anyway; the "
                "results will say so."
            )
        for part in (TRAIN, TEST) if labels.ndim == 1 and column.any() else ():
            if not remaining[part]:
                raise BadRequest(f"The {part} part has no readable image of class number {index}; add some.")


def _crossing(parts: np.ndarray, groups: np.ndarray, kept: str) -> np.ndarray:
    """Return, as (N,) bool, the training and validation images outside a part that share a group with it."""
    return np.isin(groups, groups[parts == kept]) & np.isin(parts, (TRAIN, VALIDATION)) & (parts != kept)


def _split_off(parts: np.ndarray, labels: np.ndarray, groups: np.ndarray, share: int) -> np.ndarray:
    """Select one in `share` training images, stratified by class and in whole groups.

    The selection is kept in the cache under its strata and groups.
    """
    pool = np.flatnonzero(parts == TRAIN)
    strata = np.zeros(len(parts), int)
    strata[pool] = strata_of(labels[pool], groups[pool], share)
    smallest = min(len(np.unique(groups[pool][strata[pool] == c])) for c in np.unique(strata[pool]))
    if smallest < share:
        raise BadRequest(
            f"A class has only {smallest} groups of images; at least {share} are needed to split off a part. Add "
            "images, or give every part of the split."
        )
    kept = np.zeros(0, int)
    path = _cache_path(strata[pool], groups[pool], share)
    with suppress(OSError, ValueError, EOFError):
        kept = np.load(path, allow_pickle=False)
    if not len(kept):
        from sklearn.model_selection import StratifiedGroupKFold  # visits the groups one by one: 5 s for 15,000

        folds = StratifiedGroupKFold(share, shuffle=True, random_state=0).split(pool, strata[pool], groups[pool])
        kept = next(iter(folds))[1]
        content = BytesIO()
        np.save(content, kept, allow_pickle=False)
        write_atomically(path, content.getvalue())
    return pool[kept]


def _cache_path(strata: np.ndarray, groups: np.ndarray, share: int) -> Path:
    rows = (np.ascontiguousarray(values, dtype=np.int64).tobytes() for values in (strata, groups))
    return cache_folder() / "splits" / f"{sha256_of([version('scikit-learn'), str(share), *rows])[:24]}.npy"


def halve(rows: np.ndarray, ids: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split images into two halves by group, stratified by class, in the same way on every machine.

    Args:
        rows: positions to split.
        ids: (N,) names, whose hashes determine the halves.
        labels: (N,) class indices or (N, findings).
        groups: (N,) units that stay together.
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
    """Raise LeakFound if a group is in two parts."""
    for first, second in combinations(indices, 2):
        if shared := len(np.intersect1d(groups[indices[first]], groups[indices[second]])):
            raise LeakFound(f"{shared} groups are in both {first} and {second}; no run is trained on such a split.")


def nested_subset(
    ids: np.ndarray, labels: np.ndarray, pool: np.ndarray, class_names: tuple[str, ...], size: int | None, seed: int
) -> Subset:
    """Sample `size` images per class; with the same seed, a smaller subset is contained in a larger one.

    For multilabel sets, sample `size` images with each finding and `size` that are known to have none. An image sampled
    for one finding may have others, so some findings get more than `size` images.

    Args:
        ids: (N,) names; images are sorted by name first, so that the sample does not depend on the order of files.
        labels: (N,) class indices, or (N, findings) of 0, 1 and NaN.
        pool: indices to sample from.
        class_names: names of the classes.
        size: images per class; None takes the whole pool.
        seed: random seed of the sample.
    Raises:
        BadRequest: if size is below 1.
    """
    if size is not None and size < 1:
        raise BadRequest(f"Expected at least 1 image per class, but got {size}.")
    if size is None:
        return Subset(np.sort(pool), sha256_of(sorted(str(name) for name in ids[pool])), ())
    chosen, short = [], []
    names = class_names if labels.ndim == 1 else (*class_names, "none of these")
    for index, name in enumerate(names):
        members = pool[_has_class(labels[pool], index)]
        members = members[np.argsort(ids[members])]
        order = np.random.default_rng([seed, index]).permutation(len(members))
        if len(members) < size:
            short.append(name)
        chosen.append(members[order][:size])
    indices = np.unique(np.concatenate(chosen))
    return Subset(indices, sha256_of(sorted(str(name) for name in ids[indices])), tuple(short))


def _has_class(labels: np.ndarray, index: int) -> np.ndarray:
    """Return, as (N,) bool, the images with a class or finding; index C selects those known to have none."""
    if labels.ndim == 1:
        return labels == index
    return labels[:, index] > 0.5 if index < labels.shape[1] else (labels == 0).all(axis=1)
