"""The run store. A run is a folder `<store>/<dataset>/<run>/` that is either complete or absent.

It contains `run.json` (settings, data and results), `predictions.npz` (out-of-fold or hold-out, test, and, if any,
calibration and external test sets), `history.jsonl` (training curves) and optionally `weights.safetensors`. A run is
written to a staging folder and moved into place in one step; its lock keeps two processes from writing it at the same
time. Files that it names by hash are checked when read. Pickles are never read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.errors import BadRequest, CorruptRun, UnknownName
from core.files import cached_sha256_of_file, publish, sha256_of_file, staging_folder, write_atomically
from core.paths import runs_folder
from core.runs.predictions import (
    Predictions,
    external_names,
    pack,
    read_predictions,
    stored_parts,
    with_missing_metrics,
)
from core.runs.record import PREDICTIONS_FILE, WEIGHTS_FILE, ExternalRecord, RunMeta, from_record
from core.types import EvaluatedPart

if TYPE_CHECKING:
    import torch

RUN_FILE, HISTORY_FILE = "run.json", "history.jsonl"


class Run(NamedTuple):
    """A stored run: its folder and its record, whose `digest` identifies it in caches."""

    folder: Path
    meta: RunMeta


@dataclass(frozen=True)
class Store:
    """Content of a run store.

    Attributes:
        runs: the valid runs, by folder.
        problems: folder name -> why the run is left out: it is damaged, or its training failed.
        failed: the runs whose training failed, by folder.
    """

    runs: dict[Path, RunMeta]
    problems: dict[str, str]
    failed: dict[Path, RunMeta] = field(default_factory=dict)

    def metas(self, dataset: str | None = None) -> list[RunMeta]:
        """Return the valid runs of one data set or all; of runs that repeat the same experiment, the latest."""
        chosen = (meta for meta in self.runs.values() if dataset in (None, meta.dataset))
        latest = {meta.cell: meta for meta in sorted(chosen, key=lambda meta: meta.made)}
        return sorted(latest.values(), key=lambda meta: (meta.dataset, meta.run))

    @cached_property
    def by_experiment(self) -> dict[tuple[object, ...], list[Run]]:
        """The valid runs that differ only in their seed, by `cell` without the seed."""
        groups: dict[tuple[object, ...], list[Run]] = {}
        for folder, meta in self.runs.items():
            groups.setdefault(meta.cell[:-1], []).append(Run(folder, meta))
        return groups

    def folder_of(self, run: str) -> Path | None:
        """Return the folder of a valid run."""
        return next((folder for folder, meta in self.runs.items() if meta.run == run), None)


def save_run(
    meta: RunMeta,
    validation: Predictions,
    test: Predictions,
    history: list[dict[str, Any]],
    weights: dict[str, torch.Tensor] | None,
    store: Path | None = None,
    calibration: Predictions | None = None,
    external: Mapping[str, Predictions] | None = None,
) -> tuple[Path, RunMeta]:
    """Write a complete run; an existing run is left unchanged.

    Args:
        meta: the record, without hashes.
        validation: out-of-fold or hold-out predictions inside the subset.
        test: predictions on the test set.
        history: rows of the training curves.
        weights: tensors to store in half precision; None stores none.
        store: the run store; the default one if None.
        calibration: predictions on images used only for conformal calibration; None if there are none.
        external: predictions on external test sets, by name; None if there are none.
    Returns:
        the run's folder and its record as stored, with hashes.
    """
    parts: dict[EvaluatedPart, Predictions] = {"validation": validation, "test": test}
    if calibration is not None:
        parts["calibration"] = calibration
    folder = (store or runs_folder()) / meta.dataset / meta.run
    with staging_folder(folder) as staging:
        write_atomically(staging / PREDICTIONS_FILE, pack(parts, external or {}))
        write_atomically(staging / HISTORY_FILE, "".join(json.dumps(row) + "\n" for row in history).encode())
        if weights is not None:
            from safetensors.torch import save

            half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in weights.items()}
            write_atomically(staging / WEIGHTS_FILE, save(half))
        meta = replace(meta, hashes={path.name: sha256_of_file(path) for path in sorted(staging.iterdir())})
        _write_record(staging, asdict(meta))
        return folder, _publish_or_keep(staging, folder, meta)


def add_external(
    folder: Path,
    records: Mapping[str, ExternalRecord],
    predictions: Mapping[str, Predictions],
    notes: Sequence[str] = (),
) -> None:
    """Add external test sets to a stored run, or replace them; its name and all other figures are unchanged.

    Args:
        folder: the run's folder.
        records: name of the external set -> result of the run on it, or why it was not evaluated.
        predictions: predictions on the sets on which it was evaluated.
        notes: notes to add to those of the run.
    Raises:
        CorruptRun: if the run cannot be read.
    """
    with staging_folder(folder) as staging:
        meta = read_run(folder)
        parts = {part: read_predictions(folder, part) for part in stored_parts(folder)}
        names = [name for name in external_names(folder) if name not in records]
        kept = {name: read_predictions(folder, "external", name) for name in names}
        content = json.loads((folder / RUN_FILE).read_text()) | {
            "external": {name: asdict(record) for name, record in {**meta.external, **records}.items()},
            "notes": list(dict.fromkeys([*meta.notes, *notes])),
        }
        shutil.copytree(folder, staging, dirs_exist_ok=True)
        write_atomically(staging / PREDICTIONS_FILE, pack(parts, {**kept, **predictions}))
        content["hashes"][PREDICTIONS_FILE] = sha256_of_file(staging / PREDICTIONS_FILE)
        _write_record(staging, content)
        publish(staging, folder)


def pack_run(folder: Path) -> dict[str, bytes]:
    """Return the files of a run, to store it on another machine with `put_run`."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def put_run(dataset: str, run: str, files: Mapping[str, bytes], replace: bool = False) -> Run:
    """Store the files of a run that was trained or changed on another machine.

    Args:
        dataset: its data set.
        run: its name.
        files: file name -> content; checked as the files of any stored run.
        replace: whether they replace an existing valid run.
    Raises:
        CorruptRun: if the files are not those of a valid run of this name.
    """
    folder = runs_folder() / dataset / run
    with staging_folder(folder) as staging:
        arrived = staging / dataset / run
        for name in files.keys() & {RUN_FILE, PREDICTIONS_FILE, HISTORY_FILE, WEIGHTS_FILE}:
            write_atomically(arrived / name, files[name])
        meta = read_run(arrived)
        if not replace:
            return Run(folder, _publish_or_keep(arrived, folder, meta))
        publish(arrived, folder)
        return Run(folder, meta)


def _write_record(folder: Path, content: dict[str, Any]) -> None:
    write_atomically(folder / RUN_FILE, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def _publish_or_keep(staging: Path, folder: Path, meta: RunMeta) -> RunMeta:
    """Publish a run unless a valid one is already stored; return the record of the one that is stored then."""
    try:
        return read_run(folder)
    except CorruptRun:
        publish(staging, folder)
        return meta


def read_run(folder: Path) -> RunMeta:
    """Read and check a run; metrics added since it was stored are computed from its predictions.

    Raises:
        CorruptRun: if `run.json` is missing, damaged or of another format, or a file it names is missing or changed.
    """
    try:
        stat = (folder / RUN_FILE).stat()
        meta = _record_once(folder, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        for name, digest in meta.hashes.items():
            path = folder / name
            if path.is_symlink() or not path.is_file() or cached_sha256_of_file(path) != digest:
                raise CorruptRun(f"{name} is missing or does not match its hash in {RUN_FILE}")
    except OSError as error:
        raise CorruptRun(f"{Path(error.filename or RUN_FILE).name} cannot be read") from None
    except ValueError as error:
        raise CorruptRun(f"{RUN_FILE} is damaged: {error}") from None
    return with_missing_metrics(meta, folder)


@lru_cache(maxsize=2**15)  # reading a store again after a change costs little
def _record_once(folder: Path, inode: int, size: int, modified_ns: int) -> RunMeta:
    return from_record(json.loads((folder / RUN_FILE).read_text()), folder)


def open_store(store: Path | None = None) -> Store:
    """Read every run; damaged and failed ones are reported and left out."""
    runs: dict[Path, RunMeta] = {}
    failed: dict[Path, RunMeta] = {}
    problems = {}
    for folder in _run_folders(store or runs_folder()):
        name = f"{folder.parent.name}/{folder.name}"
        try:
            meta = read_run(folder)
        except CorruptRun as error:
            problems[name] = str(error)
            continue
        (failed if meta.failed else runs)[folder] = meta
        if meta.failed:
            problems[name] = f"its training failed: {meta.failed}"
    return Store(runs, problems, failed)


def _run_folders(store: Path) -> Iterator[Path]:
    if not store.is_dir():
        return
    for dataset in sorted(path for path in store.iterdir() if path.is_dir() and path.name != "encoders"):
        for folder in sorted(path for path in dataset.iterdir() if path.is_dir() and not path.is_symlink()):
            if not folder.name.startswith("."):
                yield folder


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a run, in single precision.

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


def remaining_loss(folder: Path) -> float:
    """Return a network's loss on its own training images as a share of the loss of guessing; NaN if not recorded.

    Guessing gives every image the shares of the classes. A network that fits its training images leaves less than half.

    Raises:
        CorruptRun: if the training curves are damaged.
    """
    history = read_history(folder)
    return float(history[-1]["fit_loss"] / history[-1]["guess_loss"]) if history and "fit_loss" in history[-1] else nan


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Read a run's training curves, one row per epoch; empty if the strategy stores none.

    Raises:
        CorruptRun: if the file is damaged.
    """
    try:
        lines = (folder / HISTORY_FILE).read_text().splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise CorruptRun(f"{folder.name}/{HISTORY_FILE} cannot be read ({error})") from None
    if not all(isinstance(row, dict) for row in rows):
        raise CorruptRun(f"{folder.name}/{HISTORY_FILE} cannot be read (a row is not an object)")
    return rows


def find_run(name: str, with_weights: bool = False) -> Run:
    """Return a stored run by its name.

    Raises:
        BadRequest: if its training failed.
        CorruptRun: if it is damaged, or lacks the weights that are needed.
        UnknownName: if there is none.
    """
    store = open_store()
    folder = store.folder_of(name)
    if folder is None:
        if failed := next((meta for meta in store.failed.values() if meta.run == name), None):
            raise BadRequest(f"The training of the run {name} failed: {failed.failed}")
        for folder_name, why in store.problems.items():
            if folder_name.endswith(f"/{name}"):
                raise CorruptRun(f"The run {name} is damaged: {why}.")
        raise UnknownName(f"There is no run named {name!r} in the store; see python -m trainer results.")
    run = Run(folder, store.runs[folder])
    if with_weights and not run.meta.has_weights:
        raise CorruptRun(f"The run {name} has no saved weights. Remove its folder {folder} and train it again.")
    return run
