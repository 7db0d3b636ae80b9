"""Activations of a start's frozen trunk, computed once an image and view and kept on disk in half precision.

They lie below the cache and can be deleted. A killed computation goes on from its last block.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.data.augmentation import augmenter
from core.data.transforms import normalise, to_unit
from core.files import sha256_of, write_atomically
from core.paths import cache_folder
from trainer.pretraining.corpus import CorpusPart
from trainer.pretraining.starts import Start, Trunk
from trainer.progress import bar

PLAIN = 0
AUGMENT = "zoom+stretch+rotation+shift+horizontal-flip+brightness"  # none that spoils the development images
_VERSION = 1
_BATCH, _BLOCK = 32, 512
_LARGEST = 6e4  # of half precision


@dataclass(frozen=True)
class Activations:
    """One view of some images behind the trunk.

    Attributes:
        features: (N, ...) float16, memory-mapped: the activations at the cut.
        pooled: (N, P) float32, memory-mapped: the pooled stages before it.
    """

    features: np.ndarray
    pooled: np.ndarray

    def batch(self, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """The activations of some rows, in single precision."""
        found = torch.from_numpy(np.ascontiguousarray(self.features[rows])).to(device).float()
        return found.contiguous(memory_format=torch.channels_last) if found.ndim == 4 else found


def activations(
    start: Start, cut: int, trunk: Trunk, part: CorpusPart, rows: np.ndarray, view: int, device: torch.device
) -> Activations:
    """Opens the activations of some images of a set, computing first what is not there.

    Args:
        start: whose trunk it is.
        cut: where it is cut.
        trunk: the trunk itself.
        part: the set.
        rows: indices of images of the set.
        view: 0 for the image as it is; each other number is an augmented view, the same wherever it is computed.
        device: where the trunk runs.
    """
    augment = "" if view == PLAIN else AUGMENT
    key = [str(_VERSION), start.weights.sha256, str(cut), str(start.image), augment, str(view)]
    key += [part.spec.name, part.listing.stamp, *part.listing.ids[rows]]
    folder = cache_folder() / "activations" / sha256_of(key)[:24]
    done = int((folder / "done").read_text()) if (folder / "done").exists() else 0
    if done < len(rows):
        _compute(folder, done, trunk, part, rows, view, start, device)
    return Activations(*(np.load(folder / name, mmap_mode="r") for name in ("features.npy", "pooled.npy")))


def _compute(
    folder: Path,
    done: int,
    trunk: Trunk,
    part: CorpusPart,
    rows: np.ndarray,
    view: int,
    start: Start,
    device: torch.device,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    change = augmenter(AUGMENT).apply
    stored: list[np.memmap] = []
    with bar(f"{part.spec.name}: activations of view {view}") as show, torch.inference_mode():
        for at in range(done, len(rows), _BATCH):
            some = rows[at : at + _BATCH]
            images = to_unit(part.bank.images[some], device)
            if view != PLAIN:
                images = change(images, np.array([_seed_of(view, str(part.listing.ids[row])) for row in some]))
            found = [one.cpu().numpy() for one in trunk(normalise(images, start.image))]
            found[0] = found[0].clip(-_LARGEST, _LARGEST).astype(np.float16)
            if not stored:
                stored = [
                    _opened(folder / name, len(rows), one, done)
                    for name, one in zip(("features.npy", "pooled.npy"), found, strict=True)
                ]
            for array, one in zip(stored, found, strict=True):
                array[at : at + len(some)] = one
            until = at + len(some)
            if until % _BLOCK == 0 or until == len(rows):
                for array in stored:
                    array.flush()
                write_atomically(folder / "done", str(until).encode())
            show(until, len(rows))


def _opened(path: Path, count: int, example: np.ndarray, done: int) -> np.memmap:
    shape = (count, *example.shape[1:])
    return np.lib.format.open_memmap(path, "r+" if done else "w+", dtype=example.dtype, shape=shape)


def _seed_of(view: int, name: str) -> int:
    return int(sha256_of([str(view), name])[:15], 16)
