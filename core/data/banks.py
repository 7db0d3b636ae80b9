"""Image banks: a data set decoded once into a memory-mapped array of pixels, which every run then shares.

A bank is a cache. Its key is the listing's stamp with size and channels; deleting it costs only the time to decode
again. Unreadable files keep a row of zeros and are named in `errors`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.data.images import decode, to_array
from core.data.listing import Listing
from core.errors import UnreadableImage
from core.runtime import cache_folder
from core.storage import sha256_of, write_atomically

_VERSION = "1"
_BLOCK = 256
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Bank:
    """Decoded images.

    Attributes:
        images: (N, channels, size, size), uint8, memory-mapped and read-only.
        content: (N,) SHA-256 of each file's bytes.
        errors: index -> why the file could not be read.
    """

    images: np.ndarray
    content: tuple[str, ...]
    errors: dict[int, str]


def open_bank(listing: Listing, size: int, channels: int, progress: Progress | None = None) -> Bank:
    """Opens the bank of a listing, building it first where there is none.

    Args:
        listing: the images.
        size: side in pixels to which they are resized.
        channels: 1 or 3.
        progress: called with (images done, images in all) while building.
    """
    folder = cache_folder() / "banks" / sha256_of([_VERSION, listing.stamp, str(size), str(channels)])[:24]
    if not (folder / "facts.json").exists():
        _build(listing, size, channels, folder, progress)
    facts = json.loads((folder / "facts.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    return Bank(images, tuple(facts["content"]), {int(index): why for index, why in facts["errors"].items()})


def _build(listing: Listing, size: int, channels: int, folder: Path, progress: Progress | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial"))
    try:
        _fill(listing, size, channels, staging, progress)
        if not folder.exists():
            os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fill(listing: Listing, size: int, channels: int, folder: Path, progress: Progress | None) -> None:
    total = len(listing)
    content: list[str] = []
    errors: dict[int, str] = {}
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(total, channels, size, size)
    )

    def read(index: int) -> tuple[str, np.ndarray | str]:
        data = listing.read(index)
        try:
            return hashlib.sha256(data).hexdigest(), to_array(decode(data), size, channels)
        except UnreadableImage as error:
            return hashlib.sha256(data).hexdigest(), str(error)

    with ThreadPoolExecutor(max_workers=2) as pool:
        for start in range(0, total, _BLOCK):
            block = range(start, min(start + _BLOCK, total))
            for index, (digest, pixels) in zip(block, pool.map(read, block), strict=True):
                content.append(digest)
                if isinstance(pixels, str):
                    errors[index] = pixels
                else:
                    images[index] = pixels
            if progress:
                progress(block.stop, total)
    images.flush()
    facts = {"content": content, "errors": errors}
    write_atomically(folder / "facts.json", json.dumps(facts).encode())
