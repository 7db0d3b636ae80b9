"""What stored runs prove: comparisons, operating points, learning curves, conformal sets. One call from a page each.

Here runs are paired, guarded and loaded; the statistics themselves are in `core.metrics`. Whatever is fitted reads the
held-out or calibration predictions of a run, never the test predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np

from core.errors import BadRequest, LeakFound
from core.metrics import METRICS, Estimate, Scores
from core.metrics.bootstrap import interval
from core.metrics.comparisons import MARGIN, DeLong, Difference, McNemar, corrected, delong, mcnemar, paired_difference
from core.metrics.conformal import Conformal, Coverage, calibrate, check_served_once, coverage, mean_coverage
from core.metrics.learning_curves import Fit, Measured, fit_curves
from core.metrics.operating_point import DecisionCurve, Operation, at_thresholds, decision_curve, operate
from core.metrics.thresholds import Aim, OperatingPoint, fit_operating_point
from core.runs import stored_parts
from core.runs.metric_cache import groups_for, weights_for
from core.runs.scores import Judged, judged
from core.runs.series import Run, check_comparable, drawn_runs
from core.types import JudgedPart

Key = TypeVar("Key")
_BLOCK = 160_000


@dataclass(frozen=True)
class SeedTests:
    """The classical tests of one pair of runs.

    Attributes:
        seed: of both.
        delong: of AUROC; None where a class comes from fewer than two test patients.
        mcnemar: of decisions; None for several findings.
    """

    seed: int
    delong: DeLong | None
    mcnemar: McNemar | None


def paired(runs: Sequence[Run], others: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs of two series that learnt from the same subset, seed by seed.

    Raises:
        BadRequest: if the runs are not of one split, no seed is in both, or a seed's subsets differ.
    """
    check_comparable([meta for _, meta in (*runs, *others)])
    by_key = {(meta.train_size, meta.seed): (folder, meta) for folder, meta in others}
    pairs = [(run, by_key[key]) for run in runs if (key := (run[1].train_size, run[1].seed)) in by_key]
    if not pairs:
        raise BadRequest("These two series have no run of the same size and seed; train both with the same seeds.")
    for (_, meta), (_, other) in pairs:
        if meta.subset_hash != other.subset_hash:
            raise BadRequest(
                f"{meta.run} and {other.run} did not learn from the same images: their subset hashes differ. Train one "
                "of them anew."
            )
    return pairs


def by_class(runs: Sequence[Run], name: str) -> list[Estimate]:
    """A metric of each class against the rest, or of each finding: mean over runs, with intervals over test images.

    Raises:
        BadRequest: if the runs are not of one split.
    """
    check_comparable([meta for _, meta in runs])
    tests = [judged(run) for run in runs]
    weights = weights_for(tests[0].scores.labels, tests[0].groups)
    step = max(1, _BLOCK // max(1, weights.shape[1]))  # of many images a whole table of draws would fill the memory
    blocks = [weights[at : at + step] for at in range(0, len(weights), step)]
    each = [[METRICS[name].by_class(one.scores, block) for block in blocks] for one in tests]
    found = np.mean([np.concatenate(one, axis=1) for one in each], axis=0)  # (C, B + 1)
    return [interval(row, len(tests[0].ids), METRICS[name]) for row in found]


def compare_runs(
    runs: Sequence[Run],
    others: Sequence[Run],
    names: Sequence[str] | None = None,
    finding: int | None = None,
    margin: float = MARGIN,
) -> dict[str, Difference]:
    """The hierarchical paired bootstrap of two series at one size, for each metric; not corrected for other contrasts.

    Args:
        runs: of the first series.
        others: of the second.
        names: metrics; all by default.
        finding: the one finding, or class against the rest, to evaluate; all by default.
        margin: of equivalence, in units of each metric.
    Raises:
        BadRequest: if they cannot be compared; see `paired`.
    """
    pairs = paired(runs, others)
    first, second = (drawn_runs([pair[side] for pair in pairs], finding) for side in (0, 1))
    if first[0].images != second[0].images:
        raise BadRequest("These runs were judged on different test images and cannot be compared.")
    return {
        name: paired_difference(
            name,
            np.array([one.values[name] for one in first]),
            np.array([one.values[name] for one in second]),
            first[0].n,
            first[0].groups,
            margin,
        )
        for name in names or tuple(METRICS)
    }


def compare_all(
    series: Mapping[Key, Sequence[Run]],
    names: Sequence[str] | None = None,
    finding: int | None = None,
    pairs: Sequence[tuple[Key, Key]] | None = None,
    margin: float = MARGIN,
) -> dict[tuple[Key, Key], dict[str, Difference]]:
    """Pairs of series, each pair of one size; p values of a metric are corrected by Holm over the pairs.

    Args:
        series: runs of each.
        names: metrics; all by default.
        finding: the one finding, or class against the rest, to judge; all by default.
        pairs: which to compare, the stated contrasts; every pair by default.
        margin: of equivalence, in units of each metric.
    Raises:
        BadRequest: if two of them cannot be compared.
    """
    chosen = list(combinations(series, 2)) if pairs is None else pairs
    found = {pair: compare_runs(series[pair[0]], series[pair[1]], names, finding, margin) for pair in chosen}
    for name in names or tuple(METRICS):
        for pair, one in zip(found, corrected([row[name] for row in found.values()]), strict=True):
            found[pair][name] = one
    return found


def seed_tests(runs: Sequence[Run], others: Sequence[Run], finding: int | None = None) -> list[SeedTests]:
    """DeLong and McNemar for each seed of two series at one size, not corrected for their number.

    Raises:
        BadRequest: if they cannot be compared; see `paired`.
    """
    found = []
    for run, other in paired(runs, others):
        first, second = judged(run, target=finding), judged(other, target=finding)
        if not np.array_equal(first.ids, second.ids):
            raise BadRequest("These runs were judged on different test images and cannot be compared.")
        decisions = None if first.scores.multilabel else mcnemar(first.scores, second.scores)
        found.append(SeedTests(run[1].seed, _delong(first, second), decisions))
    return found


def _delong(first: Judged, second: Judged) -> DeLong | None:
    try:
        return delong(first.scores, second.scores, first.groups)
    except BadRequest:
        return None


def operation(
    runs: Sequence[Run], aim: Aim, target: int | None = None
) -> tuple[list[OperatingPoint], Operation, list[Scores]]:
    """Fits the operating point of each run on its held-out images and measures the series with them.

    Args:
        runs: of one series at one size.
        aim: what the operating point is for, with the prevalence at which it is used.
        target: the finding or class, of a task that is not binary.
    Returns:
        the points, what they are worth on the test images, and the test predictions at them.
    Raises:
        BadRequest: if the task is not binary and no target is given, or a class is missing among held-out images.
    """
    check_comparable([meta for _, meta in runs])
    points = [fit_operating_point(judged(run, "validation", target).scores, aim) for run in runs]
    tests = [judged(run, target=target) for run in runs]
    moved = at_thresholds([one.scores for one in tests], [point.threshold for point in points])
    drawn = groups_for(moved[0].labels, tests[0].groups)
    return points, operate(moved, tests[0].groups, aim.prevalence, drawn), moved


def decisions(runs: Sequence[Run], prevalence: float, target: int | None = None) -> DecisionCurve:
    """Net benefit of a series at a prevalence, probabilities shifted there from that of the held-out images."""
    check_comparable([meta for _, meta in runs])
    held_out = [judged(run, "validation", target).scores.positives()[1].mean() for run in runs]
    tests = [judged(run, target=target) for run in runs]
    return decision_curve([one.scores for one in tests], tests[0].groups, prevalence, float(np.mean(held_out)))


def learning_curves(
    series: Mapping[Key, Sequence[Run]], metric: str, finding: int | None = None
) -> tuple[dict[Key, Measured], dict[Key, Fit]]:
    """A metric against images per class of each series, and the fitted curves of those with three sizes or more.

    Raises:
        BadRequest: if the runs are not of one split.
    """
    check_comparable([meta for runs in series.values() for _, meta in runs])
    measured = {}
    for key, runs in series.items():
        found: dict[float, dict[int, np.ndarray]] = {}
        for (_, meta), one in zip(runs, drawn_runs(runs, finding), strict=True):
            found.setdefault(meta.per_class, {})[meta.seed] = one.values[metric]
        measured[key] = Measured(metric, found)
    return measured, fit_curves(measured)


def conformal(run: Run, level: float, target: int | None = None) -> tuple[Conformal, Coverage]:
    """Conformal sets of a run with their coverage on its test images.

    Calibration images are used where the run stores any; else the held-out images of its subset, with the weaker words
    that belong to them.

    Raises:
        BadRequest: if a class has too few calibration patients.
        LeakFound: if a calibration patient is in another part, or a held-out one among the test patients.
    """
    part: JudgedPart = "calibration" if "calibration" in stored_parts(run[0]) else "validation"
    fitted_on, test = judged(run, part, target), judged(run, target=target)
    others = [test.groups] if part == "validation" else [test.groups, judged(run, "validation", target).groups]
    if not run[1].leaks:
        check_served_once(fitted_on.groups, others)
    elif part == "calibration":
        raise LeakFound("This run was made with leaks allowed; its calibration patients may serve elsewhere too.")
    labels = run[1].titles
    if target is not None and run[1].positive is None:
        labels = (f"not {labels[target]}", labels[target])
    fitted = calibrate(fitted_on.scores, fitted_on.groups, level, labels=labels)
    return fitted, coverage(fitted, test.scores, test.groups, weights_for(test.scores.labels, test.groups))


def conformal_series(
    runs: Sequence[Run], level: float, target: int | None = None
) -> tuple[list[tuple[Conformal, Coverage]], list[Estimate]]:
    """`conformal` of each run of a series, and the coverage of each class as the mean over them.

    Raises:
        BadRequest: if the runs are not of one split, a class has too few calibration patients, or only some runs store
            calibration images.
        LeakFound: if a calibration patient serves elsewhere too.
    """
    check_comparable([meta for _, meta in runs])
    without = [meta.seed for folder, meta in runs if "calibration" not in stored_parts(folder)]
    if 0 < len(without) < len(runs):
        raise BadRequest(
            "Expected calibration images with every seed or with none, since what sets promise depends on it, but "
            f"seeds {', '.join(map(str, without))} store none and the others do. Train those seeds anew, all with "
            "calibration images."
        )
    found = [conformal(run, level, target) for run in runs]
    tests = [judged(run, target=target) for run in runs]
    groups, scores = tests[0].groups, [one.scores for one in tests]
    weights = weights_for(scores[0].labels, groups)
    return found, mean_coverage([fitted for fitted, _ in found], scores, groups, weights)
