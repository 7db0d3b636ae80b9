"""On-disk cache of a frozen encoder's embeddings, computed once per image and view for all runs of a sweep."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from core.data.augmentation import augmenter
from core.data.image_cache import Progress
from core.data.transforms import normalize, to_unit
from core.errors import BadRequest
from core.files import locked, publish, require_space, sha256_of, staging_folder
from core.models.classifier import Classifier, average_pool
from core.models.onnx_engine import embedder
from core.paths import embeddings_folder
from core.types import Images, ImageSpec

_BATCH = 32
_VERSION = "2"  # increment when an augmentation changes but keeps its name


@dataclass(frozen=True)
class EmbeddedView:
    """Embeddings of some images in one view, to be sent to the cache of another machine.

    Attributes:
        name: path of the view's folder in the cache; its first part is the data set's name.
        total: number of images of the data set.
        rows: (n,) positions of the images.
        values: (n, D) float32.
    """

    name: str
    total: int
    rows: np.ndarray
    values: np.ndarray

    def store(self) -> None:
        """Write the embeddings into this machine's cache."""
        values, done = _open(embeddings_folder() / self.name, self.total, lambda: self.values.shape[1])
        if not done[self.rows].all():
            values[self.rows] = self.values
            values.flush()
            done[self.rows] = True
            done.flush()


class EmbeddingCache:
    """Memory-mapped embeddings of one model's encoder on one data set.

    Row i, view 0 is the plain image. View v > 0 is augmented with a seed that depends on i and v only, not on what was
    computed before. The parts of a joined encoder are cached separately and shared with models of one part.

    Args:
        model: the classifier whose encoder and pooling are used.
        image: the encoder's input specification.
        dataset: name of the data set, under which its embeddings are stored and deleted.
        fingerprint: hash of the data set.
        rows: number of images in the data set.
        augment: name of the augmentation of the views.
        device: device on which the encoder runs.
        pixels: preprocessing steps already applied to the images.
    Raises:
        BadRequest: if the augmentation mixes images.
    """

    def __init__(
        self,
        model: Classifier,
        image: ImageSpec,
        dataset: str,
        fingerprint: str,
        rows: int,
        augment: str,
        device: torch.device,
        pixels: str = "",
    ) -> None:
        if augmenter(augment).mixes:
            raise BadRequest(
                f"--augment {augment} mixes images anew at every step, but embeddings of a frozen encoder are computed "
                "once. Choose an augmentation that does not mix images."
            )
        self._encoders = [
            _EncoderCache(part, image, dataset, fingerprint, rows, augment, device, pixels) for part in model.separate
        ]

    def get(self, images: Images, rows: np.ndarray, views: int, progress: Progress | None = None) -> np.ndarray:
        """Return embeddings of images in their plain and augmented views.

        Args:
            images: (n, C, S, S) or (n, C, S, S, S) uint8: any array that can be indexed by position.
            rows: (n,) positions of the images in the data set.
            views: number of augmented views.
            progress: called with (done, total) if embeddings have to be computed.
        Returns:
            (n, 1 + views, D) float32.
        """
        blocks = []
        for encoder in self._encoders:
            by_view = [view.values for view in encoder.views(images, rows, views, progress)]
            blocks.append(np.stack(by_view + [by_view[0]] * (1 + views - len(by_view)), axis=1))
        return np.concatenate(blocks, axis=2)

    def views(
        self, images: Images, rows: np.ndarray, views: int, progress: Progress | None = None
    ) -> list[EmbeddedView]:
        """Return the plain view and the augmented ones that differ from it; the arguments are those of `get`."""
        return [view for encoder in self._encoders for view in encoder.views(images, rows, views, progress)]


class _EncoderCache:
    """Memory-mapped embeddings of one encoder; the arguments are those of `EmbeddingCache`."""

    def __init__(
        self,
        model: Classifier,
        image: ImageSpec,
        dataset: str,
        fingerprint: str,
        rows: int,
        augment: str,
        device: torch.device,
        pixels: str,
    ) -> None:
        self._model, self._image, self._augmenter, self._device = model, image, augmenter(augment), device
        self._dataset, self._rows = dataset, rows
        pool = "" if repr(model.head.pool) == repr(average_pool()) else repr(model.head.pool)
        weights = state_hash(model.encoder)
        self._embed = embedder(model, sha256_of([weights, pool]), device)
        key = [_VERSION, weights, fingerprint, str(image), pixels, *filter(None, [pool])]
        self._plain, self._augmented = (sha256_of(parts)[:24] for parts in (key, [*key, augment]))

    def views(self, images: Images, rows: np.ndarray, views: int, progress: Progress | None) -> list[EmbeddedView]:
        """Return the plain view and the augmented ones that differ from it."""
        distinct = views if self._augmenter.rows else 0
        return [
            EmbeddedView(self._name(view), self._rows, rows, self._view(view, images, rows, distinct, progress))
            for view in range(1 + distinct)
        ]

    def _name(self, view: int) -> str:
        return f"{self._dataset}/{self._augmented if view else self._plain}-view{view}"

    def _view(self, view: int, images: Images, rows: np.ndarray, views: int, progress: Progress | None) -> np.ndarray:
        values, done = _open(embeddings_folder() / self._name(view), self._rows, self._width)
        if not done[rows].all():
            with locked(embeddings_folder() / self._name(view)):  # another process may need the same embeddings
                missing = np.flatnonzero(~done[rows])
                require_space(embeddings_folder(), len(missing) * values[0].nbytes)
                for start in range(0, len(missing), _BATCH):
                    batch = missing[start : start + _BATCH]
                    values[rows[batch]] = self._compute(images[batch], rows[batch], view)
                    if progress:
                        total = (1 + views) * len(missing)
                        progress(view * len(missing) + start + len(batch), total)
                values.flush()
                done[rows[missing]] = True
                done.flush()
        return np.array(values[rows])

    def _width(self) -> int:
        with torch.no_grad():
            sample = torch.zeros(1, *self._image.shape, device=self._device)
            return self._model.eval().to(self._device).embed(sample).shape[1]

    def _compute(self, pixels: np.ndarray, rows: np.ndarray, view: int) -> np.ndarray:
        images = to_unit(pixels, self._device)
        if view:
            seeds = rows.astype(np.int64) * 1000 + view
            images = self._augmenter.apply(images, seeds)
        return self._embed(normalize(images, self._image))


def state_hash(module: nn.Module) -> str:
    """Return the SHA-256 over a module's tensors and their names."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _open(folder: Path, rows: int, width: Callable[[], int]) -> tuple[np.memmap, np.memmap]:
    """Open the values of a view and which of them are done; both are created if there are none."""
    if not folder.exists():
        with staging_folder(folder) as staging:
            if not folder.exists():  # another process may have been faster
                _create(staging / "values.npy", (rows, width()), np.float32)
                _create(staging / "done.npy", (rows,), np.bool_)
                publish(staging, folder)
    return np.load(folder / "values.npy", mmap_mode="r+"), np.load(folder / "done.npy", mmap_mode="r+")


def _create(path: Path, shape: tuple[int, ...], kind: type) -> None:
    np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape).flush()
