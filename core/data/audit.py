"""Finds copies of images between and within data sets: the same file, or the same picture resized or re-encoded.

Two pictures are compared by the correlation of their fine structure: both at 64 x 64 grey, minus their local mean, so
that what all chest radiographs share (a bright frame around dark lungs) does not count. On the real sets used in
development different patients stay below 0.85 and re-encoded copies above 0.88; `THRESHOLD` lies between.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import uniform_filter

from core.data.banks import Bank, Progress
from core.runtime import cache_folder
from core.storage import sha256_of, write_atomically

SIZE = 64
THRESHOLD = 0.86
_MARGIN = 4
_BLOCK = 1024
_VERSION = "1"


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


def fine_structure(images: np.ndarray) -> np.ndarray:
    """Unit vectors whose dot product is the correlation of fine structure.

    Args:
        images: (N, 1, 64, 64), uint8.
    Returns:
        (N, 3136), float32; all zero for an image without any structure.
    """
    pixels = np.asarray(images[:, 0], dtype=np.float32)
    detail = pixels - uniform_filter(pixels, size=(0, 9, 9), mode="mirror")
    detail = detail[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].reshape(len(pixels), -1)
    detail -= detail.mean(axis=1, keepdims=True)
    length = np.linalg.norm(detail, axis=1, keepdims=True)
    return np.divide(detail, length, out=np.zeros_like(detail), where=length > 1e-3)


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
    ours, theirs = fine_structure(first.images), fine_structure(other.images)
    rows: list[np.ndarray] = []
    for start in range(0, len(ours), _BLOCK):
        similarity = ours[start : start + _BLOCK] @ theirs.T
        if second is None:
            similarity[np.tril_indices(len(similarity), start, len(theirs))] = -1
        i, j = np.nonzero(similarity > THRESHOLD)
        rows.append(np.stack([i + start, j, np.clip(similarity[i, j], -1, 1)], axis=1))
        if progress:
            progress(min(start + _BLOCK, len(ours)), len(ours))
    rows.append(_identical_files(first, second))
    pairs = np.concatenate(rows)
    _, keep = np.unique(pairs[:, :2], axis=0, return_index=True)
    pairs = pairs[keep]
    copies = Copies(pairs[:, 0].astype(int), pairs[:, 1].astype(int), pairs[:, 2])
    write_atomically(
        path,
        json.dumps({name: getattr(copies, name).tolist() for name in ("first", "second", "similarity")}).encode(),
    )
    return copies


def _identical_files(first: Bank, second: Bank | None) -> np.ndarray:
    other = second or first
    where: dict[str, list[int]] = {}
    for index, digest in enumerate(other.content):
        where.setdefault(digest, []).append(index)
    pairs = [
        (i, j, 1.0)
        for i, digest in enumerate(first.content)
        for j in where.get(digest, ())
        if second is not None or i < j
    ]
    return np.array(pairs, dtype=float).reshape(-1, 3)


def _cache_path(first: Bank, second: Bank | None) -> Path:
    parts = [_VERSION, str(THRESHOLD), *first.content, "against", *(second.content if second else ())]
    return cache_folder() / "audits" / f"{sha256_of(parts)[:24]}.json"
