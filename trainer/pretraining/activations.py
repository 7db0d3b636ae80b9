"""On-disk cache of a frozen trunk's activations, computed once per image and view, in half precision.

The files lie in the cache and can be deleted. An interrupted computation resumes from its last block.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.data.augmentation import augmenter
from core.data.transforms import normalize, to_unit
from core.files import locked, require_space, sha256_of, write_atomically
from core.models.classifier import channels_last
from core.paths import cache_folder
from trainer.pretraining.corpus import CorpusPart
from trainer.pretraining.starts import Start, Trunk
from trainer.progress import progress_bar

PLAIN = 0
# without the corruptions that the search applies to development images
AUGMENT = "zoom+stretch+rotation+shift+horizontal-flip+brightness"
_VERSION = 1
_BATCH, _BLOCK = 32, 512
_LARGEST = 6e4  # largest value in half precision


@dataclass(frozen=True)
class Activations:
    """Trunk outputs for one view of some images.

    Attributes:
        features: (N, ...) float16, memory-mapped activations at the cut.
        pooled: (N, P) float32, memory-mapped pooled stages before the cut.
    """

    features: np.ndarray
    pooled: np.ndarray

    def batch(self, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """Return the activations of some rows in single precision."""
        return channels_last(torch.from_numpy(np.ascontiguousarray(self.features[rows])).to(device).float())


def activations(
    start: Start, cut: int, trunk: Trunk, part: CorpusPart, rows: np.ndarray, view: int, device: torch.device
) -> Activations:
    """Open the activations of some images of a data set; missing ones are computed first.

    Args:
        start: the starting network.
        cut: block after which the network is split.
        trunk: its trunk.
        part: the data set.
        rows: indices of images of the data set.
        view: 0 for the plain image; every other number is an augmented view, identical wherever it is computed.
        device: device on which the trunk runs.
    """
    augment = "" if view == PLAIN else AUGMENT
    key = [str(_VERSION), start.weights.sha256, str(cut), str(start.image), augment, str(view)]
    key += [part.spec.name, part.listing.stamp, *part.listing.ids[rows]]
    folder = cache_folder() / "activations" / sha256_of(key)[:24]
    with locked(folder):  # another process may need the same activations
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
    augment = augmenter(AUGMENT).apply
    arrays: list[np.memmap] = []
    with progress_bar(f"{part.spec.name}: activations of view {view}") as show, torch.inference_mode():
        for first in range(done, len(rows), _BATCH):
            batch = rows[first : first + _BATCH]
            images = to_unit(part.bank.images[batch], device)
            if view != PLAIN:
                seeds = [int(sha256_of([str(view), str(part.listing.ids[row])])[:15], 16) for row in batch]
                images = augment(images, np.array(seeds))
            outputs = [output.cpu().numpy() for output in trunk(normalize(images, start.image))]
            outputs[0] = outputs[0].clip(-_LARGEST, _LARGEST).astype(np.float16)
            if not arrays:
                arrays = [
                    _open_memmap(folder / name, len(rows), output, done)
                    for name, output in zip(("features.npy", "pooled.npy"), outputs, strict=True)
                ]
            for array, output in zip(arrays, outputs, strict=True):
                array[first : first + len(batch)] = output
            stop = first + len(batch)
            if stop % _BLOCK == 0 or stop == len(rows):
                for array in arrays:
                    array.flush()
                write_atomically(folder / "done", str(stop).encode())
            show(stop, len(rows))


def _open_memmap(path: Path, count: int, example: np.ndarray, done: int) -> np.memmap:
    shape = (count, *example.shape[1:])
    require_space(path.parent, (count - done) * example[0].nbytes)
    return np.lib.format.open_memmap(path, "r+" if done else "w+", dtype=example.dtype, shape=shape)
