"""A run's metrics on drawn test images, kept on disk by content: the predictions, the operating point, a version.

The same images are drawn for every run on a test set, so intervals of any set of runs, and differences between them,
follow from these without measuring again. The files can be deleted; they are made again.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from core.files import canonical_json, sha256_of, sha256_of_file, write_atomically
from core.metrics import METRICS
from core.metrics.bootstrap import DRAWS, draw_weights, measure_drawn, with_once
from core.metrics.grouped_bootstrap import GroupDraws, draw_groups, measure_groups, takes
from core.paths import cache_folder
from core.runs import PREDICTIONS_FILE, RunMeta
from core.runs.scores import Judged, judged, judged_shared

VERSION = 1  # raised when a metric, the resampling or a fitted threshold changes


@dataclass(frozen=True)
class DrawnRun:
    """A run's metrics on its test images as they are, and on each draw of them.

    Attributes:
        values: metric -> (B + 1,), first on the images as they are.
        images: hash over the images, their labels and groups; equal for runs that can be subtracted.
        n, groups: test images, and patients or lesions.
    """

    values: Mapping[str, np.ndarray]
    images: str
    n: int
    groups: int


def drawn_run(folder: Path, meta: RunMeta, finding: int | None = None) -> DrawnRun:
    """Measures a run on drawn test images, or reads what was measured before.

    Args:
        folder: where it lies.
        meta: its record.
        finding: the one finding to judge, on the images of known label, or the one class against the rest; None for
            the task as it is.
    Raises:
        CorruptRun: if its predictions cannot be read.
    """
    return _kept(_key(folder, meta, finding), lambda: judged((folder, meta), target=finding))


def drawn_shared(folder: Path, meta: RunMeta, external: str, elsewhere: bool, view: str = "") -> DrawnRun:
    """Measure a run on resampled images of the classes that it shares with an external test set, or read the result.

    Args:
        folder: where it lies.
        meta: its record.
        external: name of the external set, on which the run was evaluated.
        elsewhere: whether on the external images, or on the run's own test images.
        view: of the external images only those of this projection; all where it is "".
    Raises:
        CorruptRun: if its predictions cannot be read.
    """
    labels = meta.external[external].labels
    if not elsewhere and labels == meta.labels:
        return drawn_run(folder, meta)
    key = sha256_of([_key(folder, meta, None), external if elsewhere else "own", view, *labels])
    return _kept(key, lambda: judged_shared((folder, meta), external, elsewhere, view))


def _kept(key: str, load: Callable[[], Judged]) -> DrawnRun:
    """Return what is in the cache, or measure and keep it."""
    place = _place(key)
    stored = _read(place)
    if stored is None:
        stored = _measured(load())
        buffer = io.BytesIO()
        found = np.stack([stored.values[name] for name in METRICS])
        np.savez(buffer, found=found, images=np.array(stored.images), counts=np.array([stored.n, stored.groups]))
        write_atomically(place, buffer.getvalue())
    return stored


def is_measured(folder: Path, meta: RunMeta, finding: int | None = None) -> bool:
    """Whether `drawn_run` would read what was measured before. Arguments as there."""
    return _place(_key(folder, meta, finding)).is_file()


def _place(key: str) -> Path:
    return cache_folder() / "draws" / f"{key}.npz"


def _key(folder: Path, meta: RunMeta, finding: int | None) -> str:
    stated = [meta.positive, meta.threshold, meta.thresholds, meta.temperature, meta.task, finding, DRAWS]
    predictions = meta.hashes.get(PREDICTIONS_FILE) or sha256_of_file(folder / PREDICTIONS_FILE)
    return sha256_of([str(VERSION), np.__version__, predictions, canonical_json(stated), *METRICS])


def _read(place: Path) -> DrawnRun | None:
    try:
        with np.load(place, allow_pickle=False) as file:
            found, images, counts = file["found"], str(file["images"]), file["counts"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    if found.shape != (len(METRICS), DRAWS + 1):
        return None
    return DrawnRun(dict(zip(METRICS, found, strict=True)), images, int(counts[0]), int(counts[1]))


def _measured(found: Judged) -> DrawnRun:
    labels, groups = found.scores.labels, found.groups
    images = sha256_of([*found.ids.tolist(), *groups.tolist(), np.ascontiguousarray(labels).tobytes()])
    count = len(np.unique(groups))
    values = measure_groups(found.scores, groups_for(labels, groups)) if takes(found.scores, count) else {}
    if rest := [name for name in METRICS if name not in values]:
        values |= measure_drawn(found.scores, weights_for(labels, groups), rest)
    return DrawnRun(values, images, len(found.ids), count)


def groups_for(labels: np.ndarray, groups: np.ndarray) -> GroupDraws:
    """Drawn groups of a test set, first each once; drawn once for equal labels and groups.

    Args:
        labels: (N,), class indices, or (N, C) findings.
        groups: (N,), patients or lesions.
    """
    return _groups(labels.tobytes(), str(labels.dtype), labels.shape, tuple(groups.tolist()))


def weights_for(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(B + 1, N) the same as weights of the images, many times as large."""
    return _weights(labels.tobytes(), str(labels.dtype), labels.shape, tuple(groups.tolist()))


@lru_cache(maxsize=8)
def _groups(labels: bytes, kind: str, shape: tuple[int, ...], groups: tuple[str, ...]) -> GroupDraws:
    drawn = draw_groups(np.frombuffer(labels, kind).reshape(shape), np.array(groups))
    drawn.counts.setflags(write=False)
    return drawn


@lru_cache(maxsize=2)
def _weights(labels: bytes, kind: str, shape: tuple[int, ...], groups: tuple[str, ...]) -> np.ndarray:
    weights = with_once(draw_weights(np.frombuffer(labels, kind).reshape(shape), np.array(groups)))
    weights.setflags(write=False)
    return weights
