"""What the app keeps between reruns: the run store, predictors, estimates, data sets. Keys name content, never time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import streamlit as st

from core.cases.seeds import Lookup, lookup
from core.checkpoints import RunMeta, Store, open_store
from core.data.audit import Copies, find_copies
from core.data.dataset import Dataset, load_dataset, scan
from core.data.listing import Listing
from core.data.own import own_images
from core.data.sources import Source, copies_by_source
from core.data.specs import DatasetSpec, find_dataset, find_folder, list_images
from core.gate import FILE as GATE_FILE
from core.gate import Gatekeeper, open_gate
from core.jobs.catalogue import Catalogue, ask_trainer
from core.metrics import Estimate, SeriesEstimate
from core.models import MODELS
from core.models.architecture import Architecture, architecture
from core.predictor import Predictor
from core.results import Run, estimate, summarize
from core.runtime import runs_folder
from core.serving import served_runs
from core.storage import sha256_of
from core.ui.waiting import bar


def store() -> Store:
    """The run store as it is now; read again only when a file of a run came, went or changed."""
    root = runs_folder()
    return _store(str(root), _stamp(root))


@st.cache_resource(max_entries=2, show_spinner="Reading the run store")
def _store(root: str, stamp: str) -> Store:
    return open_store(Path(root))


def store_and_served() -> tuple[Store, dict[str, dict[str, Run]]]:
    """The same, and for each data set that any run can answer for the run that does so by default, by family."""
    root = runs_folder()
    now = str(root), _stamp(root)
    return _store(*now), _served(*now)


@st.cache_resource(max_entries=2, show_spinner=False)
def _served(root: str, stamp: str) -> dict[str, dict[str, Run]]:
    found = _store(root, stamp)
    names = {meta.dataset: None for meta in found.metas()}
    return {name: runs for name in names if (runs := served_runs(found, name))}


def _stamp(root: Path) -> str:
    """One text for all files of runs and when each changed. Made anew at every rerun, so it must be quick."""
    seen = []
    for folder in _visible(root):
        for run in _visible(folder.path):
            for file in _visible(run.path):
                with suppress(FileNotFoundError):
                    seen.append(f"{file.path}|{file.stat().st_mtime_ns}")
    return sha256_of(sorted(seen))


def _visible(folder: str | Path) -> list[os.DirEntry[str]]:
    """What a folder holds, hidden things aside; nothing for a file, or a run that is just being put in its place."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def key_of(runs: Sequence[Run]) -> str:
    """What names runs and everything their records say; the hashes of their files alone miss the threshold."""
    return sha256_of(part for folder, meta in runs for part in (str(folder), repr(meta)))


def predictor(folder: Path, meta: RunMeta) -> Predictor:
    """A run ready to answer, shared by all visitors."""
    return _predictor(key_of([(folder, meta)]), folder)


@st.cache_resource(max_entries=18, show_spinner="Loading the model")
def _predictor(key: str, _folder: Path) -> Predictor:
    return Predictor(_folder)


def gatekeeper(dataset: str, metas: Iterable[RunMeta]) -> Gatekeeper | None:
    """The input gate of a data set, for the runs that answer, shared by all visitors; None where none was made.

    Raises:
        CorruptRun: if it is damaged, or was made from other images than these runs.
        WeightsUnavailable: if its encoder cannot be had here.
    """
    path = runs_folder() / dataset / GATE_FILE
    try:
        status = path.stat()
    except OSError:
        return None
    return _gatekeeper(
        str(path.parent), status.st_size, status.st_mtime_ns, tuple(sorted({meta.fingerprint for meta in metas}))
    )  # fmt: skip


@st.cache_resource(max_entries=4, show_spinner="Loading the input gate")
def _gatekeeper(folder: str, size: int, changed: int, fingerprints: tuple[str, ...]) -> Gatekeeper | None:
    return open_gate(Path(folder), fingerprints)


def seed_lookup(run: Run, others: Sequence[Run], target: int) -> Lookup:
    """Test answers of a run about one class, beside those of its other seeds."""
    runs = [run, *others]
    return _seed_lookup(key_of(runs), runs, target)


@st.cache_data(max_entries=64, show_spinner=False)
def _seed_lookup(key: str, _runs: list[Run], target: int) -> Lookup:
    return lookup(_runs[0], _runs[1:], target)


def estimates(runs: Sequence[Run], finding: int | None = None) -> dict[str, Estimate]:
    """The mean of several runs with 95% intervals over the test images, patients drawn whole; of one finding or all."""
    return _estimates(key_of(runs), runs, finding)


@st.cache_data(max_entries=256, show_spinner="Computing intervals")
def _estimates(key: str, _runs: Sequence[Run], finding: int | None) -> dict[str, Estimate]:
    return estimate(_runs, finding=finding)


def summaries(runs: Sequence[Run], finding: int | None = None) -> dict[str, SeriesEstimate]:
    """A series' metrics with intervals over test patients, seeds, and both; of one finding or all."""
    return _summaries(key_of(runs), runs, finding)


@st.cache_data(max_entries=256, show_spinner="Computing intervals")
def _summaries(key: str, _runs: Sequence[Run], finding: int | None) -> dict[str, SeriesEstimate]:
    return summarize(_runs, finding=finding)


@st.cache_data(max_entries=32, show_spinner="Reading the network's shape")
def shape(model: str, classes: int) -> Architecture:
    """The shape of a model with a head for some number of classes."""
    return architecture(MODELS[model], classes)


def listing(name: str) -> Listing:
    """A data set's listing; its folder is read again when the files directly in it change, or after `forget_data`."""
    folder = find_folder(find_dataset(name)) or Path()
    changed = max((path.stat().st_mtime_ns for path in (folder, *folder.iterdir())), default=0) if folder.name else 0
    return _listing(name, str(folder), changed)


@st.cache_resource(max_entries=4, show_spinner="Reading the data set's folder")
def _listing(name: str, folder: str, changed: int) -> Listing:
    return list_images(find_dataset(name))


def own(path: Path) -> DatasetSpec:
    """Own images as a row; read again when the folder, or the table, changes."""
    return _own(str(path), path.stat().st_mtime_ns)


@st.cache_resource(max_entries=8, show_spinner="Reading your images")
def _own(path: str, changed: int) -> DatasetSpec:
    return own_images(Path(path))


@st.cache_resource(show_spinner="Asking the trainer what it can do")
def catalogue() -> Catalogue:
    """All that can be chosen of a training."""
    return ask_trainer()


@st.cache_resource(max_entries=4, show_spinner=False)
def positions(name: str, stamp: str) -> dict[str, int]:
    """Where each image lies in a data set's listing, by its name; the stamp is the listing's."""
    return {one: place for place, one in enumerate(listing(name).ids.tolist())}


@st.cache_resource(max_entries=2, show_spinner=False)
def dataset(name: str, stamp: str) -> Dataset:
    """A data set read, audited and divided, with a bar where that takes long; the stamp is its listing's."""
    spec = find_dataset(name)
    with bar(f"{spec.title}: reading") as progress:
        return load_dataset(spec, progress)


@st.cache_data(max_entries=4, show_spinner=False)
def copies(name: str, stamp: str) -> Copies:
    """Pairs of copies within a data set; the audit itself keeps what it found."""
    return find_copies(scan(find_dataset(name))[1])


@st.cache_data(max_entries=8, show_spinner=False)
def sources(name: str, stamp: str) -> list[Source]:
    """The copies that a data set shares with others, with bars while they are looked for."""
    return copies_by_source(find_dataset(name), bar)


def forget_data() -> None:
    """Reads data sets anew from now on."""
    for kept in (_listing, positions, dataset, copies, sources):
        kept.clear()
