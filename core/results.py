"""Stored predictions as scores, and runs brought together by series, for tables and pages alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.checkpoints import RunMeta, read_predictions
from core.errors import BadRequest
from core.metrics import Estimate, Scores, bootstrap
from core.metrics.calibration import probabilities_of
from core.models import FAMILY_TITLES, MODELS

Series = tuple[str, str]


def load_scores(folder: Path, meta: RunMeta) -> Scores:
    """Test predictions of a run at its operating point.

    Raises:
        CorruptRun: if they cannot be read.
    """
    stored = read_predictions(folder)
    return Scores(probabilities_of(stored.logits, meta.temperature), stored.labels, meta.positive, meta.threshold)


def estimate(runs: list[tuple[Path, RunMeta]], names: tuple[str, ...] | None = None) -> dict[str, Estimate]:
    """The mean of several runs with 95% intervals over the test images, patients drawn whole.

    Raises:
        BadRequest: if the runs were not judged on the same images.
        CorruptRun: if predictions cannot be read.
    """
    stored = [read_predictions(folder) for folder, _ in runs]
    if any(not np.array_equal(one.ids, stored[0].ids) for one in stored):
        raise BadRequest("These runs were judged on different test images and have no common mean.")
    return bootstrap([load_scores(folder, meta) for folder, meta in runs], stored[0].groups, names)


def by_series(metas: list[RunMeta]) -> dict[Series, list[RunMeta]]:
    """Runs by (model, strategy), by family and then as registered; models that no longer exist are left out."""
    families = list(FAMILY_TITLES)
    order = sorted(MODELS, key=lambda name: families.index(MODELS[name].family))
    known = sorted(
        (meta for meta in metas if meta.model in MODELS),
        key=lambda meta: (order.index(meta.model), meta.strategy, meta.per_class, meta.seed),
    )
    found: dict[Series, list[RunMeta]] = {}
    for meta in known:
        found.setdefault((meta.model, meta.strategy), []).append(meta)
    return found
