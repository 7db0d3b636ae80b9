"""Image banks: a data set decoded once into a memory-mapped array of pixels that all runs share.

A bank is a cache, keyed by the listing's stamp and the preparation of its images; deleting it costs only the time to
decode again. It is built block by block, and a build resumes where a killed process stopped. Unreadable files keep a
row of zeros and are listed in `errors`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.data.listing import Listing
from core.data.preprocessing import PLAIN, Preparation
from core.errors import UnreadableImage
from core.files import locked, require_space, sha256_of, write_atomically
from core.paths import cache_folder

_VERSION = "2"
_BLOCK = 256
_BANKS, _FACTS, _IMAGES, _DONE = "banks", "facts.json", "images.npy", "done.jsonl"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Bank:
    """Decoded images.

    Attributes:
        images: (N, channels, size, size), for volumes (N, channels, size, size, size), uint8, memory-mapped and
            read-only.
        content: (N,) SHA-256 of each file's bytes, or of its pixels if the publisher ships arrays.
        errors: index -> why the file could not be read.
    """

    images: np.ndarray
    content: tuple[str, ...]
    errors: dict[int, str]

    @property
    def readable(self) -> np.ndarray:
        """(N,) bool, the images that could be read."""
        return ~np.isin(np.arange(len(self.images)), list(self.errors))

    @property
    def files(self) -> tuple[Path, Path]:
        """Its files; the last one is written last."""
        assert isinstance(self.images, np.memmap)
        folder = Path(str(self.images.filename)).parent
        return folder / _IMAGES, folder / _FACTS

    def __reduce__(self) -> tuple[Callable[[str], Bank], tuple[str]]:
        """Send a bank to another process by name; it is opened there, from that process's cache."""
        return _open, (self.files[0].parent.name,)


def open_bank(
    listing: Listing, size: int, channels: int, progress: Progress | None = None, preparation: Preparation = PLAIN
) -> Bank:
    """Open the bank of a listing; build it first if it does not exist.

    Args:
        listing: the images.
        size: side in pixels to which they are resized.
        channels: 1 or 3.
        progress: called with (images done, total images) while building.
        preparation: preprocessing of the images.
    """
    folder = bank_folder(listing, size, channels, preparation)
    if not (folder / _FACTS).exists():
        with locked(folder):
            if not (folder / _FACTS).exists():
                _build(listing, size, channels, preparation, folder, progress)
    return _open(folder.name)


def _open(name: str) -> Bank:
    folder = cache_folder() / _BANKS / name
    facts = json.loads((folder / _FACTS).read_text())
    images = np.load(folder / _IMAGES, mmap_mode="r", allow_pickle=False)
    return Bank(images, tuple(facts["content"]), {int(index): reason for index, reason in facts["errors"].items()})


def bank_folder(listing: Listing, size: int, channels: int, preparation: Preparation = PLAIN) -> Path:
    """Return the folder of a listing's bank, whether built or not."""
    key = [_VERSION, listing.stamp, str(size), str(channels), str(listing.dims)]
    return cache_folder() / _BANKS / sha256_of([*key, *filter(None, [preparation.stamp])])[:24]


def is_built(listing: Listing, size: int, channels: int) -> bool:
    """Whether the bank exists, so that opening it reads no image file."""
    return (bank_folder(listing, size, channels) / _FACTS).exists()


def delete_banks_of(digests: Collection[str]) -> None:
    """Delete the banks, finished or not, whose images all have one of these SHA-256 hashes."""
    for folder in (cache_folder() / _BANKS).glob("*/"):
        with suppress(OSError, ValueError, KeyError):
            if (folder / _FACTS).exists():
                content = set(json.loads((folder / _FACTS).read_text())["content"])
            else:
                lines = (folder / _DONE).read_text().splitlines()
                content = {digest for line in lines for digest, _ in json.loads(line)}
            if content and content <= set(digests):
                shutil.rmtree(folder, ignore_errors=True)


def _build(
    listing: Listing, size: int, channels: int, preparation: Preparation, folder: Path, progress: Progress | None
) -> None:
    # Resume an interrupted build: rewrite its log to the complete blocks.
    staging = folder.with_name(f".{folder.name}.unfinished")
    staging.mkdir(exist_ok=True)
    shape = (len(listing), channels, *[size] * listing.dims)
    rows = list(_rows_done(staging, shape))
    complete = [json.dumps(rows[start : start + _BLOCK]) + "\n" for start in range(0, len(rows), _BLOCK)]
    write_atomically(staging / _DONE, "".join(complete).encode())
    require_space(staging, (len(listing) - len(rows)) * math.prod(shape[1:]))
    mode = "r+" if rows else "w+"
    images = np.lib.format.open_memmap(staging / _IMAGES, mode=mode, dtype=np.uint8, shape=shape)
    # Decode block by block; the log gets a block only after its pixels are written.
    with ThreadPoolExecutor(max_workers=2) as pool, (staging / _DONE).open("a") as done:
        for start in range(len(rows), len(listing), _BLOCK):
            block = range(start, min(start + _BLOCK, len(listing)))
            decoded = list(pool.map(lambda index: _read(listing, index, size, channels, preparation), block))
            for index, (_, pixels) in zip(block, decoded, strict=True):
                if isinstance(pixels, np.ndarray):
                    images[index] = pixels
            images.flush()
            finished = [(digest, pixels if isinstance(pixels, str) else None) for digest, pixels in decoded]
            done.write(json.dumps(finished) + "\n")
            done.flush()
            rows += finished
            if progress:
                progress(block.stop, len(listing))
    del images  # some systems cannot rename a folder while a file in it is mapped
    # Publish the finished bank by renaming its folder.
    facts = {
        "content": [digest for digest, _ in rows],
        "errors": {index: why for index, (_, why) in enumerate(rows) if why is not None},
    }
    (staging / _DONE).unlink()
    write_atomically(staging / _FACTS, json.dumps(facts).encode())
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(staging, folder)


def _rows_done(staging: Path, shape: tuple[int, ...]) -> Iterator[tuple[str, str | None]]:
    """Yield the rows (digest, error or None) that an interrupted build finished, in whole blocks."""
    with suppress(OSError, ValueError):
        if np.load(staging / _IMAGES, mmap_mode="r", allow_pickle=False).shape == shape:
            for line in (staging / _DONE).read_text().splitlines():
                yield from [(digest, reason) for digest, reason in json.loads(line)]


def _read(
    listing: Listing, index: int, size: int, channels: int, preparation: Preparation
) -> tuple[str, np.ndarray | str]:
    try:
        data = listing.read(index)
    except OSError as error:
        return "", f"The file cannot be opened ({type(error).__name__})."
    digest = hashlib.sha256(data.tobytes() if isinstance(data, np.ndarray) else data).hexdigest()
    try:
        return digest, preparation.pixels(data, listing.dims, size, channels)
    except UnreadableImage as error:
        return digest, str(error)
