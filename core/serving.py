"""Which stored runs answer for a family, chosen by their own held-out predictions and never by the test set."""

from __future__ import annotations

from pathlib import Path

from core.checkpoints import RunMeta, Store, read_predictions
from core.metrics.calibration import negative_log_likelihood
from core.models import MODELS

SERVED_FAMILIES = ("scratch", "imagenet", "medical")


def candidates(store: Store, dataset: str, family: str) -> list[tuple[Path, RunMeta]]:
    """Runs of a family that keep weights, the largest training sets first."""
    found = [
        (folder, meta)
        for folder, meta in store.runs.items()
        if meta.dataset == dataset and meta.family == family and meta.has_weights and meta.model in MODELS
    ]
    return sorted(found, key=lambda row: (-_size(row[1]), row[1].run))


def served_runs(store: Store, dataset: str) -> dict[str, tuple[Path, RunMeta]]:
    """For each family the run that answers by default: of those with most labels, the best on held-out images."""
    chosen = {}
    for family in SERVED_FAMILIES:
        runs = candidates(store, dataset, family)
        if runs:
            most = [row for row in runs if _size(row[1]) == _size(runs[0][1])]
            chosen[family] = min(most, key=lambda row: held_out_loss(*row))
    return chosen


def held_out_loss(folder: Path, meta: RunMeta) -> float:
    """Mean negative log-likelihood on the images inside the subset that were held out or out-of-fold."""
    stored = read_predictions(folder, "validation")
    return negative_log_likelihood(stored.logits, stored.labels, meta.temperature)


def _size(meta: RunMeta) -> int:
    return meta.train_size if meta.train_size is not None else meta.images
