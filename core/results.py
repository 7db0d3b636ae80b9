"""Stored predictions as scores, and runs brought together by series, for tables and pages alike."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.checkpoints import Predictions, RunMeta, read_predictions
from core.errors import BadRequest
from core.metrics import Estimate, Scores, bootstrap, bootstrap_difference
from core.metrics.calibration import probabilities_of
from core.models import FAMILY_TITLES, MODELS


class Series(NamedTuple):
    """Runs that differ in size and seed only: a line of the learning curves."""

    model: str
    strategy: str
    variant: str = ""


def scores_of(meta: RunMeta, predictions: Predictions) -> Scores:
    """A run's predictions at its operating point."""
    probabilities = probabilities_of(predictions.logits, meta.temperature, meta.multilabel)
    return Scores(probabilities, predictions.labels, meta.positive, meta.threshold, meta.thresholds)


def load_scores(folder: Path, meta: RunMeta) -> Scores:
    """Test predictions of a run at its operating point.

    Raises:
        CorruptRun: if they cannot be read.
    """
    return scores_of(meta, read_predictions(folder))


def estimate(
    runs: list[tuple[Path, RunMeta]], names: tuple[str, ...] | None = None, finding: int | None = None
) -> dict[str, Estimate]:
    """The mean of several runs with 95% intervals over the test images, patients drawn whole.

    Args:
        runs: folders and records of runs on the same test images.
        names: metrics; all by default.
        finding: the one finding to judge, on the images of known label; all by default.
    Raises:
        BadRequest: if the runs were not judged on the same images.
        CorruptRun: if predictions cannot be read.
    """
    stored = [read_predictions(folder) for folder, _ in runs]
    if any(not np.array_equal(one.ids, stored[0].ids) for one in stored):
        raise BadRequest("These runs were judged on different test images and have no common mean.")
    scores, groups = [load_scores(folder, meta) for folder, meta in runs], stored[0].groups
    if finding is not None:
        groups = groups[scores[0].known(finding)]
        scores = [one.known_finding(finding) for one in scores]
    return bootstrap(scores, groups, names)


def difference(
    runs: list[tuple[Path, RunMeta]], others: list[tuple[Path, RunMeta]], names: tuple[str, ...]
) -> dict[str, Estimate]:
    """The mean of some runs minus the mean of others, with 95% intervals over the test images they share.

    Raises:
        BadRequest: if the runs were not judged on the same images.
        CorruptRun: if predictions cannot be read.
    """
    stored = [read_predictions(folder) for folder, _ in (*runs, *others)]
    if any(not np.array_equal(one.ids, stored[0].ids) for one in stored):
        raise BadRequest("These runs were judged on different test images and cannot be compared.")
    scores = [scores_of(meta, one) for (_, meta), one in zip((*runs, *others), stored, strict=True)]
    return bootstrap_difference(scores[: len(runs)], scores[len(runs) :], stored[0].groups, names)


def by_series(metas: list[RunMeta]) -> dict[Series, list[RunMeta]]:
    """Runs by series, by family and then as registered; models that no longer exist are left out."""
    families: list[str] = list(FAMILY_TITLES)
    rows = list(MODELS)

    def place(meta: RunMeta) -> tuple[object, ...]:
        model = meta.model
        row = rows.index(model) if model in rows else len(rows)  # weights given by path have no row
        return (families.index(meta.family), row, model, meta.strategy, meta.variant, meta.per_class, meta.seed)

    known = sorted((meta for meta in metas if meta.model in MODELS), key=place)
    found: dict[Series, list[RunMeta]] = {}
    for meta in known:
        found.setdefault(Series(meta.model, meta.strategy, meta.variant), []).append(meta)
    return found
