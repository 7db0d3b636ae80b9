"""What the app keeps between reruns: the run store, predictors, estimates, data sets. Keys name content, never time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from core.cases.seeds import Lookup, lookup
from core.checkpoints import RunMeta, Store, open_store
from core.data.audit import Copies, find_copies
from core.data.dataset import Dataset, load_dataset, scan
from core.data.listing import Listing
from core.data.sources import Source, copies_by_source
from core.data.specs import find_dataset, find_folder, list_images
from core.evidence import conformal
from core.gate import FILE as GATE_FILE
from core.gate import Gatekeeper, read_gate
from core.metrics import Estimate, Scores
from core.metrics.conformal import Conformal, Coverage
from core.predictor import Predictor
from core.results import Run, estimate, load_scores
from core.runtime import runs_folder
from core.serving import served_runs
from core.ui.waiting import bar

Hashes = tuple[tuple[str, str], ...]


def store() -> Store:
    """The run store as it is now; read again only when a file of a run came, went or changed."""
    root = runs_folder()
    seen = []
    for path in root.glob("*/*/*"):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            try:
                seen.append((str(path), path.stat().st_mtime_ns))
            except FileNotFoundError:  # a run that is just being put in its place
                continue
    return _store(str(root), tuple(sorted(seen)))


@st.cache_resource(max_entries=2, show_spinner="Reading the run store")
def _store(root: str, seen: tuple[tuple[str, int], ...]) -> Store:
    return open_store(Path(root))


@st.cache_data(max_entries=16, show_spinner=False)
def served(_store: Store, dataset: str, runs: tuple[str, ...]) -> dict[str, tuple[Path, RunMeta]]:
    """The run that answers by default, by family."""
    return served_runs(_store, dataset)


def hashes_of(metas: list[RunMeta]) -> tuple[Hashes, ...]:
    """What names the content of runs."""
    return tuple(tuple(sorted(meta.hashes.items())) for meta in metas)


def predictor(folder: Path, meta: RunMeta) -> Predictor:
    """A run ready to answer, shared by all visitors."""
    return _predictor(str(folder), hashes_of([meta]))


@st.cache_resource(max_entries=18, show_spinner="Loading the model")
def _predictor(folder: str, hashes: tuple[Hashes, ...]) -> Predictor:
    return Predictor(Path(folder))


def gatekeeper(dataset: str) -> Gatekeeper | None:
    """The input gate of a data set's runs, shared by all visitors; None where none was made.

    Raises:
        CorruptRun: if it is damaged.
        WeightsUnavailable: if its encoder cannot be had here.
    """
    path = runs_folder() / dataset / GATE_FILE
    try:
        status = path.stat()
    except OSError:
        return None
    return _gatekeeper(str(path.parent), status.st_size, status.st_mtime_ns)


@st.cache_resource(max_entries=4, show_spinner="Loading the input gate")
def _gatekeeper(folder: str, size: int, changed: int) -> Gatekeeper | None:
    gate = read_gate(Path(folder))
    return Gatekeeper(gate) if gate else None


def scores(folder: Path, meta: RunMeta) -> Scores:
    """Test predictions of a run at its operating point."""
    return _scores(str(folder), meta, hashes_of([meta]))


@st.cache_data(max_entries=512, show_spinner=False)
def _scores(folder: str, _meta: RunMeta, hashes: tuple[Hashes, ...]) -> Scores:
    return load_scores(Path(folder), _meta)


def seed_lookup(run: Run, others: Sequence[Run], target: int) -> Lookup:
    """Test answers of a run about one class, beside those of its other seeds."""
    return _seed_lookup([run, *others], hashes_of([meta for _, meta in (run, *others)]), target)


@st.cache_data(max_entries=64, show_spinner=False)
def _seed_lookup(_runs: list[Run], hashes: tuple[Hashes, ...], target: int) -> Lookup:
    return lookup(_runs[0], _runs[1:], target)


def conformal_of(run: Run, level: float, target: int | None) -> tuple[Conformal, Coverage]:
    """Conformal sets of a run and what they do on its test images.

    Raises:
        BadRequest: if they cannot be had, with the reason.
    """
    return _conformal_of(run, hashes_of([run[1]]), level, target)


@st.cache_data(max_entries=64, show_spinner=False)
def _conformal_of(
    _run: Run, hashes: tuple[Hashes, ...], level: float, target: int | None
) -> tuple[Conformal, Coverage]:
    return conformal(_run, level, target)


def estimates(runs: list[tuple[Path, RunMeta]], finding: int | None = None) -> dict[str, Estimate]:
    """The mean of several runs with 95% intervals over the test images, patients drawn whole; of one finding or all."""
    folders, metas = tuple(str(folder) for folder, _ in runs), [meta for _, meta in runs]
    return _estimates(folders, metas, hashes_of(metas), finding)


@st.cache_data(max_entries=256, show_spinner="Computing intervals")
def _estimates(
    folders: tuple[str, ...], _metas: list[RunMeta], hashes: tuple[Hashes, ...], finding: int | None
) -> dict[str, Estimate]:
    runs = [(Path(folder), meta) for folder, meta in zip(folders, _metas, strict=True)]
    return estimate(runs, finding=finding)


def listing(name: str) -> Listing:
    """A data set's listing; its folder is read again when the files directly in it change, or after `forget_data`."""
    folder = find_folder(find_dataset(name)) or Path()
    changed = max((path.stat().st_mtime_ns for path in (folder, *folder.iterdir())), default=0) if folder.name else 0
    return _listing(name, str(folder), changed)


@st.cache_resource(max_entries=4, show_spinner="Reading the data set's folder")
def _listing(name: str, folder: str, changed: int) -> Listing:
    return list_images(find_dataset(name))


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
    for kept in (_listing, dataset, copies, sources):
        kept.clear()
