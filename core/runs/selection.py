"""Default runs of each family, selected by their held-out predictions and never by the test set."""

import math
from collections.abc import Collection

from core.errors import CorruptRun
from core.metrics.calibration import negative_log_likelihood
from core.models import FAMILY_LETTERS, MODELS
from core.runs import Run, RunMeta, Store, read_predictions

SERVED_FAMILIES = ("scratch", "imagenet", "medical")  # the first family of each column


def candidates(store: Store, dataset: str, family: str) -> list[Run]:
    """Return the runs of a column that have weights: the comparison proper first, then the largest training sets.

    A column holds the families of one letter: ImageNet and generic transfer are both B. Uploaded images are
    two-dimensional, so runs on volumes are left out.
    """
    current = {meta.run for meta in store.metas(dataset)}
    runs = [
        Run(folder, meta)
        for folder, meta in store.runs.items()
        if meta.run in current
        and FAMILY_LETTERS[meta.family] == FAMILY_LETTERS[family]
        and meta.has_weights
        and meta.model in MODELS
        and MODELS[meta.model].image.dims == 2
    ]
    return sorted(runs, key=lambda run: (*_rank(run.meta), run.meta.run))


def default_runs(store: Store, dataset: str, preferred: Collection[tuple[str, str, str]] = ()) -> dict[str, Run]:
    """Return the default run of each column: among those of one size, the best on held-out images.

    Columns are compared side by side, so the size is the largest that the comparison proper of every column has. A
    column without it, or all columns if they have no size in common, take their own largest.

    Args:
        store: the run store.
        dataset: name of the data set.
        preferred: model, strategy and variant of series; a column that has runs of one chooses among these.
    """
    columns = {}
    for family in SERVED_FAMILIES:
        runs = candidates(store, dataset, family)
        named = [run for run in runs if (run.meta.model, run.meta.strategy, run.meta.series_variant) in preferred]
        if named or runs:
            columns[family] = named or runs
    sizes = [{run.meta.per_class for run in runs if not _departs(run.meta)} for runs in columns.values()]
    common = max(set.intersection(*filter(None, sizes)), default=None) if any(sizes) else None
    chosen = {}
    for family, runs in columns.items():
        pool = [run for run in runs if run.meta.per_class == common and not _departs(run.meta)] or runs
        best = [run for run in pool if _rank(run.meta) == _rank(pool[0].meta)]
        chosen[family] = min(best, key=held_out_loss)
    return chosen


def _rank(meta: RunMeta) -> tuple[bool, float, int]:
    """Return the sort key of a run, best first: the comparison proper, most labels, the current protocol."""
    return _departs(meta), -meta.per_class, -meta.protocol


def _departs(meta: RunMeta) -> bool:
    """Return whether a run is outside the comparison proper: other settings, leaks, or meta-trained on other tasks."""
    return bool(meta.variant or meta.leaks or "meta_learnt_from" in meta.config)


def held_out_loss(run: Run) -> float:
    """Return the mean negative log-likelihood on the held-out images of the subset; infinite if there are none."""
    try:
        stored = read_predictions(run.folder, "validation")
    except CorruptRun:
        return math.inf
    if not len(stored.labels):
        return math.inf
    return negative_log_likelihood(stored.logits, stored.labels, run.meta.temperature)
