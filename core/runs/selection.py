"""Which stored runs answer for a family, chosen by their own held-out predictions and never by the test set."""

from __future__ import annotations

import math
from pathlib import Path

from core.errors import CorruptRun
from core.metrics.calibration import negative_log_likelihood
from core.models import FAMILY_LETTERS, MODELS
from core.runs import RunMeta, Store, read_predictions

SERVED_FAMILIES = ("scratch", "imagenet", "medical")  # the first of each column


def candidates(store: Store, dataset: str, family: str) -> list[tuple[Path, RunMeta]]:
    """Runs of a column that keep weights: those of the comparison proper first, then the largest training sets.

    A column holds the families of one letter: ImageNet and generic transfer are both B. What is asked about is a
    picture, so runs on volumes are not among them.
    """
    current = {meta.run for meta in store.metas(dataset)}
    found = [
        (folder, meta)
        for folder, meta in store.runs.items()
        if meta.run in current
        and FAMILY_LETTERS[meta.family] == FAMILY_LETTERS[family]
        and meta.has_weights
        and _takes_pictures(meta)
    ]
    return sorted(found, key=lambda row: (*_rank(row[1]), row[1].run))


def served_runs(store: Store, dataset: str) -> dict[str, tuple[Path, RunMeta]]:
    """For each column the run that answers by default: of those with most labels, the best on held-out images."""
    chosen = {}
    for family in SERVED_FAMILIES:
        runs = candidates(store, dataset, family)
        if runs:
            most = [row for row in runs if _rank(row[1]) == _rank(runs[0][1])]
            chosen[family] = min(most, key=lambda row: held_out_loss(*row))
    return chosen


def _takes_pictures(meta: RunMeta) -> bool:
    return meta.model in MODELS and MODELS[meta.model].image.dims == 2


def _rank(meta: RunMeta) -> tuple[bool, float, int]:
    """Order of preference, lowest first: the comparison proper, most labels, the current protocol."""
    return _departs(meta), -meta.per_class, -meta.protocol


def _departs(meta: RunMeta) -> bool:
    """Whether a run is none of the comparison proper: of other settings, on leaks, or from a start of other tasks."""
    return bool(meta.variant or meta.leaks or "meta_learnt_from" in meta.config)


def held_out_loss(folder: Path, meta: RunMeta) -> float:
    """Mean negative log-likelihood on the held-out images of the subset; infinite if there are none."""
    try:
        stored = read_predictions(folder, "validation")
    except CorruptRun:
        return math.inf
    if not len(stored.labels):
        return math.inf
    return negative_log_likelihood(stored.logits, stored.labels, meta.temperature)
