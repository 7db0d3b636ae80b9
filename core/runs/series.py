"""Stored runs grouped by series, and their estimates, for tables and pages.

Runs are combined only if they were evaluated on the same images of the same split; see `check_comparable`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from core.errors import BadRequest
from core.metrics import METRICS, Estimate, Scores, SeriesEstimate
from core.metrics.bootstrap import interval, with_seeds
from core.metrics.measures import Average, support, unit_weights
from core.models import FAMILY_TITLES, MODELS
from core.runs import OLD_RECIPE, Run, RunMeta, Store
from core.runs.metric_cache import ResampledRun, is_cached, resampled_run
from core.runs.stored_results import pack, result_key, stored_result, unpack

REPORTED = ("precision", "sensitivity", "specificity", "f1", "auroc", "auprc")  # of each class


class Series(NamedTuple):
    """Runs that differ in size and seed only: one line of the learning curves."""

    model: str
    strategy: str
    variant: str = ""

    @property
    def is_old(self) -> bool:
        """Whether its runs were made before the protocol."""
        return self.variant.endswith(OLD_RECIPE)

    @property
    def default(self) -> Series:
        """The series of the same model, strategy and recipe with that strategy's own settings."""
        return self._replace(variant=OLD_RECIPE if self.is_old else "")


def comparison_proper(series: Iterable[Series]) -> list[Series]:
    """Select the series with their strategy's own settings; old recipes only if no current one replaces them."""
    keys = list(series)
    defaults = [key for key in keys if key == key.default]
    return [key for key in defaults if not key.is_old or key._replace(variant="") not in defaults]


def check_comparable(runs: Iterable[Run]) -> None:
    """Raise unless all runs share one test set.

    Raises:
        BadRequest: if they are of different data sets, of other images (fingerprint), or of different splits.
    """
    metas = [meta for _, meta in runs]
    for kind, values in (
        ("data sets", {meta.dataset for meta in metas}),
        ("images (their fingerprints differ)", {meta.fingerprint for meta in metas}),
        ("splits (their split hashes differ)", {meta.split_hash for meta in metas}),
    ):
        if len(values) > 1:
            named = ", ".join(sorted(value[:12] for value in values))
            raise BadRequest(
                f"These runs come from different {kind}: {named}. They cannot be compared; train the missing ones on "
                "the current images."
            )


def resampled_runs(runs: Sequence[Run], finding: int | None = None) -> list[ResampledRun]:
    """Return the metrics of comparable runs on common resamples of their test images.

    Args:
        runs: the runs.
        finding: the finding, or class against the rest, to evaluate; None for the task as it is.
    Raises:
        BadRequest: if there is no run, or they were not evaluated on the same images.
        CorruptRun: if predictions cannot be read.
    """
    if not runs:
        raise BadRequest("Expected at least one run.")
    check_comparable(runs)
    resampled = [resampled_run(run, finding) for run in runs]
    if len({run.images for run in resampled}) > 1:
        raise BadRequest("These runs were evaluated on different test images and cannot be compared.")
    return resampled


def estimate(
    runs: Sequence[Run], names: Sequence[str] | None = None, finding: int | None = None
) -> dict[str, Estimate]:
    """Return the mean of several runs with 95% intervals over test patients, seeds held fixed.

    Args:
        runs: runs on the same test images.
        names: metrics; all by default.
        finding: the finding, or class against the rest, to evaluate; None for the task as it is.
    Raises:
        BadRequest: if the runs were not evaluated on the same images.
        CorruptRun: if predictions cannot be read.
    """
    if summaries := _stored(runs, finding):
        return {name: summaries[name].patients for name in names or METRICS}
    return mean_estimates(resampled_runs(runs, finding), names or tuple(METRICS))


def mean_estimates(runs: Sequence[ResampledRun], names: Iterable[str]) -> dict[str, Estimate]:
    """Return the mean of runs on common resamples of their test images, with 95% intervals over test patients."""
    return {
        name: interval(np.mean([run.values[name] for run in runs], axis=0), runs[0].n, METRICS[name]) for name in names
    }


def summarize(
    runs: Sequence[Run], names: Sequence[str] | None = None, finding: int | None = None
) -> dict[str, SeriesEstimate]:
    """Return each metric of a series at one size: the mean with its intervals over test patients, seeds, and both.

    Args:
        runs: runs on the same test images, one per seed.
        names: metrics; all by default.
        finding: the finding, or class against the rest, to evaluate; None for the task as it is.
    Raises:
        BadRequest: if the runs were not evaluated on the same images.
        CorruptRun: if predictions cannot be read.
    """
    if summaries := _stored(runs, finding):
        return {name: summaries[name] for name in names or METRICS}
    resampled = resampled_runs(runs, finding)
    return {
        name: with_seeds(patients, [float(run.values[name][0]) for run in resampled], METRICS[name])
        for name, patients in mean_estimates(resampled, names or tuple(METRICS)).items()
    }


def _stored(runs: Sequence[Run], finding: int | None) -> dict[str, SeriesEstimate]:
    """Return the intervals that are stored for exactly these runs; empty if there are none."""
    check_comparable(runs)
    record = stored_result("intervals", runs, finding) or {}
    return {
        name: with_seeds(unpack(Estimate, row["patients"]), row["seeds"], METRICS[name]) for name, row in record.items()
    }


def has_intervals(runs: Sequence[Run], finding: int | None = None) -> bool:
    """Return whether `summarize` needs no resampling: the intervals are stored, or every run is cached."""
    stored = stored_result("intervals", runs, finding) is not None
    return stored or all(is_cached(run, finding) for run in runs)


def intervals_to_store(runs: Sequence[Run]) -> dict[str, Any]:
    """Compute the intervals of a series at one size for `stored_results`, by key.

    Raises:
        BadRequest: if the runs were not evaluated on the same images.
        CorruptRun: if predictions cannot be read.
    """
    resampled = resampled_runs(runs)
    seeds = {name: tuple(float(run.values[name][0]) for run in resampled) for name in METRICS}
    estimates = mean_estimates(resampled, METRICS)
    rows = {name: {"patients": pack(estimates[name]), "seeds": seeds[name]} for name in METRICS}
    return {result_key(runs, None): rows}


def by_series(metas: Sequence[RunMeta]) -> dict[Series, list[RunMeta]]:
    """Group runs by series, ordered by family and registration; models that no longer exist are left out."""
    families: list[str] = list(FAMILY_TITLES)
    rows = {model: row for row, model in enumerate(MODELS)}
    groups: dict[Series, list[RunMeta]] = {}
    for meta in sorted(metas, key=lambda meta: (meta.per_class, meta.seed)):
        if meta.model in MODELS:
            groups.setdefault(Series(meta.model, meta.strategy, meta.series_variant), []).append(meta)

    def order(series: Series) -> tuple[int, int, Series]:
        return families.index(groups[series][0].family), rows.get(series.model, len(rows)), series  # a path has no row

    return {series: groups[series] for series in sorted(groups, key=order)}


def runs_by_series(store: Store, metas: Sequence[RunMeta]) -> dict[Series, list[Run]]:
    """Group runs as `by_series` does, each with its folder in the store."""
    folders = {meta.run: folder for folder, meta in store.runs.items()}
    return {key: [Run(folders[meta.run], meta) for meta in group] for key, group in by_series(metas).items()}


def class_report(scores: Scores, labels: Sequence[str]) -> list[dict[str, float | str]]:
    """Return the classification report of one run: a row per class or finding against the rest, then their averages.

    Findings that cannot be evaluated are left out.

    Args:
        scores: its predictions at its operating point; each finding is evaluated on the images with known label.
        labels: names of the classes or findings.
    """
    weights = unit_weights(scores)
    counts = support(scores, weights)[:, 0]
    columns = {name: METRICS[name].by_class(scores, weights)[:, 0] for name in REPORTED}
    rows: list[dict[str, float | str]] = [
        {"class": label, "images": int(counts[k]), **{name: float(values[k]) for name, values in columns.items()}}
        for k, label in enumerate(labels)
        if not scores.multilabel or k in scores.evaluable
    ]
    averages: tuple[Average, ...] = ("macro", "weighted")
    return rows + [
        {
            "class": f"{average} average",
            "images": len(scores),
            **{name: float(METRICS[name].averaged(scores, weights, average)[0]) for name in REPORTED},
        }
        for average in averages
    ]
