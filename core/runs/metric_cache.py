"""Disk cache of a run's metrics on resampled test images.

The key covers the predictions, the operating point and a version. All runs on a test set share the same
resamples, so intervals of any set of runs, and differences between them, follow from cached values without measuring
again. The files can be deleted and are then computed again.
"""

import io
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from core.files import canonical_json, sha256_of, sha256_of_file, write_atomically
from core.metrics import METRICS
from core.metrics.bootstrap import RESAMPLES, measure_resamples
from core.metrics.grouped_bootstrap import GroupResamples, measure_groups, resample_groups, supports
from core.paths import cache_folder
from core.runs import Run
from core.runs.record import PREDICTIONS_FILE
from core.runs.scores import PartScores, load_part, load_shared_classes

VERSION = 2  # increase it when a metric, the resampling or a fitted threshold changes


@dataclass(frozen=True)
class ResampledRun:
    """Metrics of a run on its original test images and on each resample.

    Attributes:
        values: metric -> (B + 1,), the value on the original images first.
        images: hash of the images, their labels and groups; equal for runs that can be subtracted.
        n, groups: number of test images, and of patients or lesions.
    """

    values: Mapping[str, np.ndarray]
    images: str
    n: int
    groups: int


def resampled_run(run: Run, finding: int | None = None) -> ResampledRun:
    """Measure a run on resampled test images, or read the cached result.

    Args:
        run: the run.
        finding: the finding to evaluate, on the images with known label, or the class to evaluate against the rest;
            None for the task as it is.
    Raises:
        CorruptRun: if its predictions cannot be read.
    """
    return _cached(key_of(run, finding), lambda: load_part(run, target=finding))


def resampled_shared(run: Run, name: str, external: bool, view: str = "") -> ResampledRun:
    """Measure a run on resampled images of the classes shared with an external test set, or read the cached result.

    Args:
        run: the run.
        name: name of the external set, on which the run was evaluated.
        external: True for the external images, False for the run's internal test images.
        view: projection to which the external images are restricted; "" for all.
    Raises:
        CorruptRun: if its predictions cannot be read.
    """
    labels = run.meta.external[name].labels
    if not external and labels == run.meta.labels:
        return resampled_run(run)
    key = sha256_of([key_of(run, None), name if external else "own", view, *labels])
    return _cached(key, lambda: load_shared_classes(run, name, external, view))


def _cached(key: str, load: Callable[[], PartScores]) -> ResampledRun:
    """Return the cached result, or measure and cache it."""
    path = _path(key)
    result = _read(path)
    if result is None:
        result = _measure(load())
        buffer = io.BytesIO()
        values = np.stack([result.values[name] for name in METRICS])
        np.savez(buffer, found=values, images=np.array(result.images), counts=np.array([result.n, result.groups]))
        with suppress(OSError):  # without a disk to write to, it is measured again next time
            write_atomically(path, buffer.getvalue())
    return result


def is_cached(run: Run, finding: int | None = None) -> bool:
    """Return whether `resampled_run`, given the same arguments, would read a cached result."""
    return _path(key_of(run, finding)).is_file()


def _path(key: str) -> Path:
    return cache_folder() / "draws" / f"{key}.npz"


def key_of(run: Run, finding: int | None) -> str:
    """Return the key of a run's metrics: its predictions, its operating point, the finding, and the resampling."""
    folder, meta = run
    settings = [meta.positive, meta.threshold, meta.thresholds, meta.temperature, meta.task, finding, RESAMPLES]
    predictions = meta.hashes.get(PREDICTIONS_FILE) or sha256_of_file(folder / PREDICTIONS_FILE)
    return sha256_of([str(VERSION), np.__version__, predictions, canonical_json(settings), *METRICS])


def _read(path: Path) -> ResampledRun | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            values, images, counts = file["found"], str(file["images"]), file["counts"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    if values.shape != (len(METRICS), RESAMPLES + 1):
        return None
    return ResampledRun(dict(zip(METRICS, values, strict=True)), images, int(counts[0]), int(counts[1]))


def _measure(predictions: PartScores) -> ResampledRun:
    labels, groups = predictions.scores.labels, predictions.groups
    images = sha256_of([*predictions.ids.tolist(), *groups.tolist(), np.ascontiguousarray(labels).tobytes()])
    count = len(np.unique(groups))
    values = (
        measure_groups(predictions.scores, groups_for(labels, groups)) if supports(predictions.scores, count) else {}
    )
    if unmeasured := [name for name in METRICS if name not in values]:
        values |= measure_resamples(predictions.scores, weights_for(labels, groups), unmeasured)
    return ResampledRun(values, images, len(predictions.ids), count)


def groups_for(labels: np.ndarray, groups: np.ndarray) -> GroupResamples:
    """Return resampled groups of a test set, computed once for equal labels and groups.

    Args:
        labels: (N,), class indices, or (N, C) findings.
        groups: (N,), patients or lesions.
    """
    return _groups(labels.tobytes(), str(labels.dtype), labels.shape, tuple(groups.tolist()))


def weights_for(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the same resamples as (B + 1, N) image weights, which need far more memory than `groups_for`."""
    return _weights(labels.tobytes(), str(labels.dtype), labels.shape, tuple(groups.tolist()))


@lru_cache(maxsize=8)
def _groups(labels: bytes, kind: str, shape: tuple[int, ...], groups: tuple[str, ...]) -> GroupResamples:
    resamples = resample_groups(np.frombuffer(labels, kind).reshape(shape), np.array(groups))
    resamples.counts.setflags(write=False)
    return resamples


@lru_cache(maxsize=2)
def _weights(labels: bytes, kind: str, shape: tuple[int, ...], groups: tuple[str, ...]) -> np.ndarray:
    weights = _groups(labels, kind, shape, groups).weights().astype(float)
    weights.setflags(write=False)
    return weights
