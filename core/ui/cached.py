"""What the app keeps between reruns: the run store, predictors, estimates. Keys name content, never time."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from core.checkpoints import RunMeta, Store, open_store
from core.metrics import Estimate, Scores
from core.predictor import Predictor
from core.results import estimate, load_scores
from core.runtime import runs_folder
from core.serving import served_runs

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


@st.cache_resource(max_entries=6, show_spinner="Loading the model")
def _predictor(folder: str, hashes: tuple[Hashes, ...]) -> Predictor:
    return Predictor(Path(folder))


def scores(folder: Path, meta: RunMeta) -> Scores:
    """Test predictions of a run at its operating point."""
    return _scores(str(folder), meta, hashes_of([meta]))


@st.cache_data(max_entries=512, show_spinner=False)
def _scores(folder: str, _meta: RunMeta, hashes: tuple[Hashes, ...]) -> Scores:
    return load_scores(Path(folder), _meta)


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
