"""The run store. A run is a folder `<store>/<dataset>/<run>/` that is complete or not there at all.

`run.json` (what was asked, on what, and what came out), `predictions.npz` (out-of-fold or hold-out, and test),
`history.jsonl` (training curves) and, where kept, `weights.safetensors`. A run is written beside its place and moved
there in one step; what it names by hash is checked when read; no pickle is ever read.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import CorruptRun
from core.runtime import runs_folder
from core.storage import sha256_of_file, write_atomically

if TYPE_CHECKING:
    import torch

RUN_FILE, PREDICTIONS_FILE, HISTORY_FILE, WEIGHTS_FILE = (
    "run.json", "predictions.npz", "history.jsonl", "weights.safetensors",
)  # fmt: skip
FORMAT = 1


@dataclass(frozen=True)
class RunMeta:
    """Everything about a run but its arrays.

    Attributes:
        run: folder name, made of what determines the run and a hash of it.
        dataset, dataset_title, labels, positive, channels, synthetic: the task.
        model, family, strategy, train_size, seed: the cell of the comparison; train_size None is the full training set.
        images: labelled images seen in all.
        short: classes that have fewer than train_size images.
        config: the settings of the training.
        subset_hash, split_hash, fingerprint: of the images.
        notes: what was done to the split.
        size, mean, std: what the encoder expects.
        encoder: where the starting weights come from: kind, ref, sha256, licence, source.
        selection: images by which threshold, temperature and stopping were chosen, in words.
        threshold: probability of the positive class from which the decision is positive (binary tasks).
        temperature: divides the logits before the softmax.
        metrics, metrics_at_half: on the test set at the threshold, and at 0.5.
        seconds: wall time of the training.
        versions: of the libraries.
        hashes: file name -> SHA-256.
    """

    run: str
    dataset: str
    dataset_title: str
    labels: tuple[str, ...]
    positive: int | None
    channels: int
    synthetic: bool
    model: str
    family: str
    strategy: str
    train_size: int | None
    seed: int
    images: int
    short: tuple[str, ...]
    config: dict[str, Any]
    subset_hash: str
    split_hash: str
    fingerprint: str
    notes: tuple[str, ...]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    encoder: dict[str, str]
    selection: str
    threshold: float
    temperature: float
    metrics: dict[str, float]
    metrics_at_half: dict[str, float]
    seconds: float
    versions: dict[str, str]
    hashes: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def has_weights(self) -> bool:
        """Whether the run can answer for new images."""
        return WEIGHTS_FILE in self.hashes


@dataclass(frozen=True)
class Predictions:
    """Stored answers of a run on one part.

    Attributes:
        ids: (N,) names of the images.
        groups: (N,) patients or lesions.
        labels: (N,) class indices.
        logits: (N, C), float32.
    """

    ids: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class Store:
    """What a run store holds.

    Attributes:
        runs: the sound runs, with their folders.
        problems: folder name -> why the run is left out.
    """

    runs: dict[Path, RunMeta]
    problems: dict[str, str]

    def metas(self, dataset: str | None = None) -> list[RunMeta]:
        """The sound runs, of one data set or all."""
        return [meta for meta in self.runs.values() if dataset in (None, meta.dataset)]

    def folder_of(self, run: str) -> Path | None:
        """Where a run lies."""
        return next((folder for folder, meta in self.runs.items() if meta.run == run), None)


def save_run(
    meta: RunMeta,
    validation: Predictions,
    test: Predictions,
    history: list[dict[str, Any]],
    weights: dict[str, torch.Tensor] | None,
    store: Path | None = None,
) -> Path:
    """Writes a run as a whole; a run already there stays as it is.

    Args:
        meta: without hashes.
        validation: out-of-fold or hold-out predictions inside the subset.
        test: predictions on the test set.
        history: rows of the training curves.
        weights: tensors to keep, stored in half precision; None keeps none.
        store: the run store; the default one if None.
    Returns:
        the run's folder.
    """
    folder = (store or runs_folder()) / meta.dataset / meta.run
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{meta.run}.", suffix=".partial"))
    try:
        write_atomically(staging / PREDICTIONS_FILE, _pack({"validation": validation, "test": test}))
        write_atomically(staging / HISTORY_FILE, "".join(json.dumps(row) + "\n" for row in history).encode())
        if weights is not None:
            from safetensors.torch import save

            half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in weights.items()}
            write_atomically(staging / WEIGHTS_FILE, save(half))
        hashes = {path.name: sha256_of_file(path) for path in sorted(staging.iterdir())}
        record = {**asdict(meta), "hashes": hashes}
        write_atomically(staging / RUN_FILE, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
        staging.chmod(0o755)
        if not folder.exists():
            os.replace(staging, folder)
        return folder
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _pack(parts: dict[str, Predictions]) -> bytes:
    arrays = {}
    for part, predictions in parts.items():
        arrays[f"{part}_ids"] = np.char.encode(predictions.ids.astype(str), "utf-8")
        arrays[f"{part}_groups"] = np.char.encode(predictions.groups.astype(str), "utf-8")
        arrays[f"{part}_labels"] = predictions.labels.astype(np.int16)
        arrays[f"{part}_logits"] = predictions.logits.astype(np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_run(folder: Path) -> RunMeta:
    """Reads and checks a run.

    Raises:
        CorruptRun: if `run.json` is missing, damaged or of another format, or a file it names is missing or changed.
    """
    try:
        record = json.loads((folder / RUN_FILE).read_text())
        if record.get("format") != FORMAT:
            raise CorruptRun(f"is of format {record.get('format')}; this program reads format {FORMAT}")
        known = {row.name for row in fields(RunMeta)}
        values = {key: tuple(v) if isinstance(v, list) else v for key, v in record.items() if key in known}
        meta = RunMeta(**values)
        for name, digest in meta.hashes.items():
            if Path(name).name != name or _digest(folder / name) != digest:
                raise CorruptRun(f"{name} is not the file that {RUN_FILE} names")
    except OSError as error:
        raise CorruptRun(f"{Path(error.filename or RUN_FILE).name} cannot be read") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptRun(f"{RUN_FILE} is damaged ({error})") from None
    if meta.run != folder.name:
        raise CorruptRun(f"the folder was renamed; it holds the run {meta.run}")
    return meta


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_once(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest_once(path: str, size: int, changed: int) -> str:
    return sha256_of_file(Path(path))


def open_store(store: Path | None = None) -> Store:
    """Reads every run; damaged ones are named and left out."""
    runs, problems = {}, {}
    for folder in _run_folders(store or runs_folder()):
        try:
            runs[folder] = read_run(folder)
        except CorruptRun as error:
            problems[f"{folder.parent.name}/{folder.name}"] = str(error)
    return Store(runs, problems)


def _run_folders(store: Path) -> Iterator[Path]:
    if not store.is_dir():
        return
    for dataset in sorted(path for path in store.iterdir() if path.is_dir() and path.name != "encoders"):
        for folder in sorted(path for path in dataset.iterdir() if path.is_dir() and not path.is_symlink()):
            if not folder.name.startswith("."):
                yield folder


def read_predictions(folder: Path, part: str = "test") -> Predictions:
    """The stored predictions of a run on `test` or `validation`.

    Raises:
        CorruptRun: if the file is missing or damaged.
    """
    try:
        with np.load(folder / PREDICTIONS_FILE, allow_pickle=False) as file:
            return Predictions(
                ids=np.char.decode(file[f"{part}_ids"], "utf-8"),
                groups=np.char.decode(file[f"{part}_groups"], "utf-8"),
                labels=file[f"{part}_labels"].astype(int),
                logits=file[f"{part}_logits"].astype(float),
            )
    except (OSError, ValueError, KeyError) as error:
        raise CorruptRun(f"{folder.name}/{PREDICTIONS_FILE} cannot be read ({error})") from None


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors a run keeps, in single precision.

    Raises:
        CorruptRun: if the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise CorruptRun(f"{folder.name}/{WEIGHTS_FILE} cannot be read ({error})") from None
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
