"""Findings from stored runs: comparisons, learning curves, conformal sets; one call per page section.

This module loads, pairs and checks runs. The statistics are in `core.metrics`. Everything fitted uses the held-out or
calibration predictions of a run, never the test predictions.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any, TypeVar

import numpy as np

from core.errors import BadRequest, LeakFound
from core.metrics import METRICS, Estimate
from core.metrics.bootstrap import interval
from core.metrics.comparisons import (
    MARGIN,
    DeLong,
    Difference,
    McNemar,
    delong,
    holm_corrected,
    mcnemar,
    paired_difference,
)
from core.metrics.conformal import Conformal, Coverage, calibrate, check_calibration_disjoint, coverage, mean_coverage
from core.metrics.learning_curves import LEAST_SIZES, Fit, MeasuredCurve, fit_curves
from core.runs import Run, stored_parts
from core.runs.metric_cache import weights_for
from core.runs.scores import load_part
from core.runs.series import check_comparable, resampled_runs
from core.runs.stored_results import pack, result_key, stored_result, unpack
from core.types import EvaluatedPart

Key = TypeVar("Key")
_BLOCK = 160_000
_QUICK = 200  # resamples of seeds for curves that are soon replaced


@dataclass(frozen=True)
class SeedTests:
    """Classical tests of one pair of runs.

    Attributes:
        seed: seed of both runs.
        delong: test of AUROC; None if a class comes from fewer than two test patients.
        mcnemar: test of the decisions; None for several findings.
    """

    seed: int
    delong: DeLong | None
    mcnemar: McNemar | None


def paired(runs: Sequence[Run], others: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Pair the runs of two series that were trained on the same subset, seed by seed.

    Raises:
        BadRequest: if the runs are not of one split, no seed is in both, or a seed's subsets differ.
    """
    check_comparable([*runs, *others])
    by_key = {(other.meta.train_size, other.meta.seed): other for other in others}
    pairs = [(run, by_key[key]) for run in runs if (key := (run.meta.train_size, run.meta.seed)) in by_key]
    if not pairs:
        raise BadRequest("These two series have no run of the same size and seed; train both with the same seeds.")
    for (_, meta), (_, other) in pairs:
        if meta.subset_hash != other.subset_hash:
            raise BadRequest(
                f"{meta.run} and {other.run} were not trained on the same images: their subset hashes differ. Train "
                "one of them again."
            )
    return pairs


def comparable_pairs(
    series: Mapping[Key, Sequence[Run]],
) -> tuple[list[tuple[Key, Key]], dict[tuple[Key, Key], str]]:
    """Return all pairs of series that can be compared, and why the others cannot."""
    pairs, refused = [], {}
    for pair in combinations(series, 2):
        try:
            paired(series[pair[0]], series[pair[1]])
            pairs.append(pair)
        except BadRequest as error:
            refused[pair] = str(error)
    return pairs, refused


def _flat(pairs: Sequence[tuple[Run, Run]]) -> list[Run]:
    return [*(run for run, _ in pairs), *(other for _, other in pairs)]


def by_class(runs: Sequence[Run], name: str) -> list[Estimate]:
    """Return a metric of each class or finding against the rest: the mean over runs with test-image intervals.

    Raises:
        BadRequest: if the runs are not of one split.
    """
    check_comparable(runs)
    tests = [load_part(run) for run in runs]
    weights = weights_for(tests[0].scores.labels, tests[0].groups)
    step = max(1, _BLOCK // max(1, weights.shape[1]))  # all resamples at once would fill the memory
    blocks = [weights[at : at + step] for at in range(0, len(weights), step)]
    by_run = [[METRICS[name].by_class(test.scores, block) for block in blocks] for test in tests]
    means = np.mean([np.concatenate(values, axis=1) for values in by_run], axis=0)  # (C, B + 1)
    return [interval(row, len(tests[0].ids), METRICS[name]) for row in means]


def compare_runs(
    runs: Sequence[Run],
    others: Sequence[Run],
    names: Sequence[str] | None = None,
    finding: int | None = None,
) -> dict[str, Difference]:
    """Compare two series at one size by the hierarchical paired bootstrap, for each metric.

    P values are not corrected for other contrasts.

    Args:
        runs: runs of the first series.
        others: runs of the second series.
        names: metrics; all by default.
        finding: the finding, or class against the rest, to evaluate; None for the task as it is.
    Raises:
        BadRequest: if they cannot be compared; see `paired`.
    """
    pairs = paired(runs, others)
    both_sides = _flat(pairs)
    if record := stored_result("differences", both_sides, finding, str(MARGIN)):
        return {name: unpack(Difference, record[name]) for name in names or METRICS}
    resampled = resampled_runs(both_sides, finding)
    first, second = resampled[: len(pairs)], resampled[len(pairs) :]
    return {
        name: paired_difference(
            name,
            np.array([run.values[name] for run in first]),
            np.array([run.values[name] for run in second]),
            first[0].n,
            first[0].groups,
        )
        for name in names or tuple(METRICS)
    }


def has_difference(runs: Sequence[Run], others: Sequence[Run], finding: int | None = None) -> bool:
    """Return whether `compare_runs` would find a stored difference of these two series."""
    return stored_result("differences", _flat(paired(runs, others)), finding, str(MARGIN)) is not None


def difference_to_store(runs: Sequence[Run], others: Sequence[Run]) -> dict[str, Any]:
    """Compute the differences of two series at one size for `stored_results`; empty if they cannot be paired."""
    try:
        both_sides = _flat(paired(runs, others))
    except BadRequest:
        return {}
    rows = {name: pack(row) for name, row in compare_runs(runs, others).items()}
    return {result_key(both_sides, None, str(MARGIN)): rows}


def compare_all(
    series: Mapping[Key, Sequence[Run]],
    names: Sequence[str] | None = None,
    finding: int | None = None,
    pairs: Sequence[tuple[Key, Key]] | None = None,
) -> dict[tuple[Key, Key], dict[str, Difference]]:
    """Compare pairs of series, each pair at one size; p values of a metric are corrected by Holm over the pairs.

    Args:
        series: the runs of each series.
        names: metrics; all by default.
        finding: the finding, or class against the rest, to evaluate; None for the task as it is.
        pairs: the stated contrasts; every pair by default.
    Raises:
        BadRequest: if two of them cannot be compared.
    """
    chosen = list(combinations(series, 2)) if pairs is None else pairs
    results = {pair: compare_runs(series[pair[0]], series[pair[1]], names, finding) for pair in chosen}
    correct(list(results.values()), names or tuple(METRICS))
    return results


def correct(rows: Sequence[dict[str, Difference]], names: Sequence[str]) -> None:
    """Correct the p values of each metric by Holm over several comparisons, in place.

    Args:
        rows: metric -> difference, for each comparison.
        names: metrics.
    """
    for name in names:
        for row, difference in zip(rows, holm_corrected([row[name] for row in rows]), strict=True):
            row[name] = difference


def seed_tests(runs: Sequence[Run], others: Sequence[Run], finding: int | None = None) -> list[SeedTests]:
    """Run DeLong's and McNemar's tests for each seed of two series at one size, not corrected for their number.

    Raises:
        BadRequest: if they cannot be compared; see `paired`.
    """
    tests = []
    for run, other in paired(runs, others):
        first, second = load_part(run, target=finding), load_part(other, target=finding)
        if not np.array_equal(first.ids, second.ids):
            raise BadRequest("These runs were evaluated on different test images and cannot be compared.")
        decisions = None if first.scores.multilabel else mcnemar(first.scores, second.scores)
        areas = None
        with suppress(BadRequest):  # too few patients of a class
            areas = delong(first.scores, second.scores, first.groups)
        tests.append(SeedTests(run.meta.seed, areas, decisions))
    return tests


def learning_curves(
    series: Mapping[Key, Sequence[Run]], metric: str, finding: int | None = None
) -> tuple[dict[Key, MeasuredCurve], dict[Key, Fit]]:
    """Return a metric against images per class for each series, and the curves fitted to three sizes or more.

    Raises:
        BadRequest: if the runs are not of one split.
    """
    check_comparable(chain.from_iterable(series.values()))
    measured = {
        key: _measured(metric, runs, [run.values[metric] for run in resampled_runs(runs, finding)])
        for key, runs in series.items()
    }
    return measured, fit_curves(measured)


def _measured(metric: str, runs: Sequence[Run], values: Iterable[np.ndarray]) -> MeasuredCurve:
    """Return a learning curve from the values of each run, (B + 1,)."""
    by_size: dict[float, dict[int, np.ndarray]] = {}
    for (_, meta), of_run in zip(runs, values, strict=True):
        by_size.setdefault(meta.per_class, {})[meta.seed] = of_run
    return MeasuredCurve(metric, by_size)


def curves_over_seeds(
    series: Mapping[Key, Sequence[Run]], values: Mapping[Key, Sequence[float]], metric: str
) -> dict[Key, Fit]:
    """Fit learning curves to the values of each run alone, which is quick: test images are not resampled.

    Args:
        series: the runs of each series.
        values: the metric of each run.
        metric: name of the metric.
    """
    return fit_curves(
        {
            key: _measured(metric, runs, [np.full(_QUICK + 1, value) for value in values[key]])
            for key, runs in series.items()
        }
    )


def stored_curves(
    series: Mapping[Key, Sequence[Run]], metric: str, finding: int | None = None
) -> dict[Key, Fit] | None:
    """Return the fitted curves of `learning_curves` if all of them are stored, else None."""
    settings = _curve_settings(series, metric)
    fits = {}
    for key, runs in series.items():
        if len({run.meta.per_class for run in runs}) < LEAST_SIZES:
            continue
        record = stored_result("curves", runs, finding, *settings[key])
        if record is None:
            return None
        fits[key] = unpack(Fit, record)
    return fits


def curves_to_store(series: Mapping[Key, Sequence[Run]], metric: str) -> dict[str, Any]:
    """Fit the learning curves of several series for `stored_results`, by key."""
    settings = _curve_settings(series, metric)
    fits = learning_curves(series, metric)[1]
    return {result_key(series[key], None, *settings[key]): pack(fit) for key, fit in fits.items()}


def _curve_settings(series: Mapping[Key, Sequence[Run]], metric: str) -> dict[Key, list[str]]:
    """Return what a fitted curve depends on besides its own runs: all series share the resampled seeds."""
    seeds = sorted({run.meta.seed for runs in series.values() for run in runs})
    return {
        key: [metric, str(seeds), str([(run.meta.per_class, run.meta.seed) for run in runs])]
        for key, runs in series.items()
    }


def conformal(run: Run, level: float, target: int | None = None) -> tuple[Conformal, Coverage]:
    """Fit conformal sets of a run and measure their coverage on its test images.

    Calibration images are used if the run stores any. Otherwise the held-out images of its subset are used, with the
    correspondingly weaker guarantee.

    Raises:
        BadRequest: if a class has too few calibration patients.
        LeakFound: if a calibration patient is in another part, or a held-out one among the test patients.
    """
    part: EvaluatedPart = "calibration" if "calibration" in stored_parts(run.folder) else "validation"
    fitted_on, test = load_part(run, part, target), load_part(run, target=target)
    others = [test.groups] if part == "validation" else [test.groups, load_part(run, "validation", target).groups]
    if not run.meta.leaks:
        check_calibration_disjoint(fitted_on.groups, others)
    elif part == "calibration":
        raise LeakFound("This run was made with leaks allowed; its calibration patients may also be in other parts.")
    labels = run.meta.titles
    if target is not None and run.meta.positive is None:
        labels = (f"not {labels[target]}", labels[target])
    fitted = calibrate(fitted_on.scores, fitted_on.groups, level, labels=labels)
    return fitted, coverage(fitted, test.scores, test.groups, weights_for(test.scores.labels, test.groups))


def conformal_series(
    runs: Sequence[Run], level: float, target: int | None = None
) -> tuple[list[tuple[Conformal, Coverage]], list[Estimate]]:
    """Return `conformal` for each run of a series, and the coverage of each class as the mean over runs.

    Raises:
        BadRequest: if the runs are not of one split, a class has too few calibration patients, or only some runs store
            calibration images.
        LeakFound: if a calibration patient is also in another part.
    """
    check_comparable(runs)
    without = [meta.seed for folder, meta in runs if "calibration" not in stored_parts(folder)]
    if 0 < len(without) < len(runs):
        raise BadRequest(
            "Expected calibration images with every seed or with none, because the guarantee depends on them, but "
            f"seeds {', '.join(map(str, without))} store none and the others do. Train those seeds again with "
            "calibration images."
        )
    fits = [conformal(run, level, target) for run in runs]
    tests = [load_part(run, target=target) for run in runs]
    groups, scores = tests[0].groups, [test.scores for test in tests]
    weights = weights_for(scores[0].labels, groups)
    return fits, mean_coverage([fitted for fitted, _ in fits], scores, groups, weights)
