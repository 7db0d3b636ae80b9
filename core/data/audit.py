"""Finds copies of images between and within data sets: the same file, or the same picture resized, re-encoded or
slightly cropped.

Files are compared by their hash; pictures in two steps. A perceptual fingerprint (the picture at 32 x 32, band-passed)
names the pairs that look alike at all. What decides is the correlation of their fine structure at 64 x 64: minus the
local mean, so that what all chest radiographs share (a bright frame around dark lungs) does not count. Where that is
low, the pair is registered first (scale and shift along each axis), which undoes a crop of up to 3% a side.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.data.banks import Bank, Progress
from core.data.likeness import fine_structure, fingerprint, similarity_registered
from core.runtime import cache_folder
from core.storage import sha256_of, write_atomically

THRESHOLD, REGISTERED_THRESHOLD = 0.86, 0.90  # registration raises chance likeness, so it must convince more
ALIKE = 0.90  # correlation of fingerprints from which a pair is looked at
_NEIGHBOURS, _WORTH = 64, 16  # pairs compared, and registered, for each image at most: those most alike
_MANY = 32  # equal files beyond which each is paired with the first only
_BLOCK, _PAIRS = 1024, 2048
_VERSION = "2"


@dataclass(frozen=True)
class Copies:
    """Pairs of copies.

    Attributes:
        first, second: (P,) indices into the first and the second bank.
        similarity: (P,) correlation of the fine structure in [-1, 1]; 1 for identical files.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


def find_copies(first: Bank, second: Bank | None = None, progress: Progress | None = None) -> Copies:
    """Compares every image of one bank with every image of another, or with every other image of the same.

    Args:
        first: a bank of grey 64 px images.
        second: another; None compares the first with itself, each pair once.
        progress: called with (images done, images in all).
    """
    path = _cache_path(first, second)
    if path.exists():
        stored = json.loads(path.read_text())
        return Copies(
            np.array(stored["first"], int), np.array(stored["second"], int), np.array(stored["similarity"], float)
        )
    other = second or first
    prints = fingerprint(first.images)
    other_prints = prints if second is None else fingerprint(second.images)
    fine = _fine_structures(first.images)
    other_fine = fine if second is None else _fine_structures(second.images)
    rows = [_identical_files(first, second)]
    for i, j, worth in _alike(prints, other_prints, second is None, progress):
        found = np.einsum("pd,pd->p", fine[i], other_fine[j], dtype=np.float32)
        copies = found > THRESHOLD
        unclear = worth & ~copies
        a, b = i[unclear], j[unclear]
        found[unclear] = similarity_registered(first.images[a], other.images[b], prints[a], other_prints[b])
        copies |= found > REGISTERED_THRESHOLD
        rows.append(np.stack([i, j, np.clip(found, -1, 1)], axis=1)[copies])
    pairs = np.concatenate(rows)
    _, keep = np.unique(pairs[:, :2], axis=0, return_index=True)
    pairs = pairs[keep]
    result = Copies(pairs[:, 0].astype(int), pairs[:, 1].astype(int), pairs[:, 2])
    write_atomically(
        path,
        json.dumps({name: getattr(result, name).tolist() for name in ("first", "second", "similarity")}).encode(),
    )
    return result


def _alike(
    ours: np.ndarray, theirs: np.ndarray, same: bool, progress: Progress | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs whose fingerprints are alike, some thousands at a time, and whether they are worth registering.

    Within one bank each pair comes once.
    """
    ours, theirs = ours.reshape(len(ours), -1), theirs.reshape(len(theirs), -1)
    for start in range(0, len(ours), _BLOCK):
        since = start if same else 0
        likeness = ours[start : start + _BLOCK] @ theirs[since:].T
        if same:
            likeness[np.tri(*likeness.shape, dtype=np.bool_)] = -1
        i, j = np.nonzero(likeness > _least(likeness, _NEIGHBOURS)[:, None])
        worth = likeness[i, j] > _least(likeness, _WORTH)[i]
        for first in range(0, len(i), _PAIRS):
            some = slice(first, first + _PAIRS)
            yield i[some] + start, j[some] + since, worth[some]
        if progress:
            progress(min(start + _BLOCK, len(ours)), len(ours))


def _least(likeness: np.ndarray, most: int) -> np.ndarray:
    """For each row the value above which at most so many entries lie, `ALIKE` at least."""
    least = np.full(len(likeness), ALIKE, np.float32)
    crowded = (likeness > ALIKE).sum(axis=1) > most
    if crowded.any():
        least[crowded] = -np.partition(-likeness[crowded], most, axis=1)[:, most]
    return least


def _fine_structures(images: np.ndarray) -> np.ndarray:
    """Those of a whole bank, in half precision and made in blocks, so that large sets fit into memory."""
    blocks = [fine_structure(images[at : at + _BLOCK]).astype(np.float16) for at in range(0, len(images), _BLOCK)]
    return np.concatenate(blocks)


def _identical_files(first: Bank, second: Bank | None) -> np.ndarray:
    other = second or first
    where: dict[str, list[int]] = {}
    for index, digest in enumerate(other.content):
        if index not in other.errors:
            where.setdefault(digest, []).append(index)
    pairs: list[tuple[int, int, float]] = []
    for i, digest in enumerate(first.content):
        if i in first.errors:
            continue
        same = where.get(digest, [])
        if len(same) > _MANY:  # linked through the first of them
            same = same[:1]
        elif second is None:
            same = [j for j in same if j > i]
        pairs += [(i, j, 1.0) for j in same if second is not None or i != j]
    return np.array(pairs, dtype=float).reshape(-1, 3)


def _cache_path(first: Bank, second: Bank | None) -> Path:
    parts = [
        _VERSION,
        str(THRESHOLD),
        str(REGISTERED_THRESHOLD),
        str(ALIKE),
        *first.content,
        "against",
        *(second.content if second else ()),
    ]
    return cache_folder() / "audits" / f"{sha256_of(parts)[:24]}.json"
