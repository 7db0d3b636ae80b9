"""Listing of a data set: one row per image, as a loader returns it, before any pixel is decoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from core.data.images import MAX_BYTES
from core.errors import DataUnavailable
from core.files import sha256_of

TRAIN, VALIDATION, TEST = "train", "validation", "test"
UNLABELED = -1  # class index of an image without a label, which is used for pretraining only


@dataclass(frozen=True)
class Listing:
    """The images of a data set as its publisher ships them.

    Attributes:
        ids: (N,) unique names, equal on all machines (paths relative to the data set's folder).
        labels: (N,) class indices, `UNLABELED` if there is none; or (N, findings) of 0, 1 and NaN (unknown) for
            multilabel sets.
        groups: (N,) patient or lesion, as text; a group must stay in one part of a split.
        parts: (N,) `train`, `validation`, `test`, or "" if the publisher gives no part.
        read: function of index i: the bytes of the image file or, if the publisher ships arrays, the pixels: (H, W),
            (H, W, 3), or (D, H, W) for volumes, uint8.
        stamp: hash that changes when any file does; cheap to compute, not portable between machines.
        dims: 2 for images, 3 for volumes.
        class_names: names of the classes, if the folder defines them.
    """

    ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    parts: np.ndarray
    read: Callable[[int], bytes | np.ndarray]
    stamp: str
    class_names: tuple[str, ...] = ()
    dims: Literal[2, 3] = 2

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: np.ndarray) -> Listing:
        """Return the listing of some of the images."""
        return replace(
            self,
            ids=self.ids[rows],
            labels=self.labels[rows],
            groups=self.groups[rows],
            parts=self.parts[rows],
            read=lambda index: self.read(int(rows[index])),
            stamp=sha256_of([self.stamp, *self.ids[rows]]),
        )


def stamp_of_files(root: Path, ids: np.ndarray) -> str:
    """Return a listing's `stamp`, computed from file names, sizes and modification times."""
    rows = [str(root.resolve())]
    for name in ids:
        status = os.stat(f"{root}{os.sep}{name}")  # a Path for each file takes four times as long
        rows.append(f"{name}|{status.st_size}|{status.st_mtime_ns}")
    return sha256_of(rows)


def listing_of_files(
    root: Path, rows: Sequence[tuple[str, object, str, str]], class_names: tuple[str, ...] = (), table: str = ""
) -> Listing:
    """Return the listing of files below a folder.

    Args:
        root: the folder.
        rows: (id, label, group, part) of each file.
        class_names: names of the classes, if the folder defines them.
        table: name of the table from which the rows come, for the error message.
    Raises:
        DataUnavailable: if there is no file.
    """
    if not rows:
        raise DataUnavailable(f"None of the images in {table} is in {root.name}.")
    ids = np.array([row[0] for row in rows], dtype=str)
    return Listing(
        ids=ids,
        labels=np.array([row[1] for row in rows]),
        groups=np.array([row[2] for row in rows], dtype=str),
        parts=np.array([row[3] for row in rows], dtype=str),
        read=lambda index: _read(root / str(ids[index])),
        stamp=stamp_of_files(root, ids),
        class_names=class_names,
    )


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)  # enough for the decoder to see that a file is too large
