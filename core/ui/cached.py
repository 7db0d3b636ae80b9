"""What the app keeps between reruns: the run store, predictors, estimates. Keys name content, never time."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from core.checkpoints import RUN_FILE, RunMeta, Store, open_store, read_predictions
from core.data import DATASETS
from core.metrics import Estimate, Scores, bootstrap
from core.metrics.calibration import probabilities_of
from core.predictor import Predictor
from core.runtime import runs_folder


def store() -> Store:
    """The run store as it is now; read again only when a run came, went or changed."""
    root = runs_folder()
    seen = tuple(sorted((str(path), path.stat().st_mtime_ns) for path in root.glob(f"*/*/{RUN_FILE}")))
    names = tuple(sorted(str(path) for path in root.glob("*/*") if path.is_dir()))
    return _store(str(root), seen, names)


@st.cache_resource(max_entries=2, show_spinner="Reading the run store")
def _store(root: str, seen: tuple[tuple[str, int], ...], names: tuple[str, ...]) -> Store:
    return open_store(Path(root))


def predictor(folder: Path, meta: RunMeta) -> Predictor:
    """A run ready to answer, shared by all visitors."""
    return _predictor(str(folder), meta.dataset, tuple(sorted(meta.hashes.items())))


@st.cache_resource(max_entries=6, show_spinner="Loading the model")
def _predictor(folder: str, dataset: str, hashes: tuple[tuple[str, str], ...]) -> Predictor:
    return Predictor(Path(folder), DATASETS[dataset])


def scores(folder: Path, meta: RunMeta) -> Scores:
    """Test predictions of a run at its operating point."""
    stored = read_predictions(folder)
    return Scores(probabilities_of(stored.logits, meta.temperature), stored.labels, meta.positive, meta.threshold)


def estimates(folders: list[Path], metas: list[RunMeta]) -> dict[str, Estimate]:
    """The mean of several runs with 95% intervals over the test images, patients drawn whole."""
    hashes = tuple(tuple(sorted(meta.hashes.items())) for meta in metas)
    return _estimates(tuple(str(folder) for folder in folders), metas, hashes)


@st.cache_data(max_entries=256, show_spinner="Computing intervals")
def _estimates(
    folders: tuple[str, ...], _metas: list[RunMeta], hashes: tuple[tuple[tuple[str, str], ...], ...]
) -> dict[str, Estimate]:
    runs = [scores(Path(folder), meta) for folder, meta in zip(folders, _metas, strict=True)]
    return bootstrap(runs, read_predictions(Path(folders[0])).groups)
