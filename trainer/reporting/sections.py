"""Report sections as data, computed from the runs of every series with `core.analysis`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations, product
from typing import Any

import numpy as np

from core.analysis import comparison, operating_point
from core.analysis.subgroups import LEAST_OF_CLASS, by_subgroup, title_of
from core.analysis.two_stage import best_single, joint
from core.errors import BadRequest, LeakFound
from core.metrics import METRICS
from core.metrics.comparisons import holm, holm_corrected
from core.metrics.learning_curves import (
    Bounded,
    Fit,
    MeasuredCurve,
    crossover,
    default_target,
    images_needed,
    multiplier_at,
)
from core.metrics.measures import Average, unit_weights
from core.metrics.operating_point import decision_curve
from core.metrics.reliability import chance_error, reliability
from core.metrics.selective import risk_curve
from core.metrics.thresholds import Aim
from core.metrics.two_stage import TwoStage
from core.runs.series import Run, Series, summarize
from trainer.reporting.markdown import Data, section, series_name, signed_interval, table, with_interval

Runs = dict[Series, list[Run]]
BY_CLASS = ("auroc", "sensitivity", "specificity", "precision", "f1")
AVERAGES: tuple[Average, ...] = ("macro", "weighted")
STAGE_DRAWS = 500
COVERAGES = (0.5, 0.7, 0.8, 0.9, 1.0)


def family(key: Series, runs: Sequence[Run], finding: int | None) -> dict[str, Any]:
    """Return every metric of a series, with intervals over test patients, over seeds, and over both."""
    estimates = summarize(runs, finding=finding)
    return {
        **key._asdict(),
        "family": runs[0][1].family,
        "seeds": [meta.seed for _, meta in runs],
        "metrics": {name: asdict(estimate) for name, estimate in estimates.items()},
    }


def comparisons(series: Runs, finding: int | None) -> list[dict[str, Any]]:
    """Compare every pair of series: hierarchical paired bootstrap, plus DeLong and McNemar for each seed."""
    pairs, refused = comparison.comparable_pairs(series)
    rows: list[dict[str, Any]] = [
        {"first": first._asdict(), "second": second._asdict(), "refused": why}
        for (first, second), why in refused.items()
    ]
    differences = comparison.compare_all(series, finding=finding, pairs=pairs)
    tests = {pair: comparison.seed_tests(series[pair[0]], series[pair[1]], finding) for pair in pairs}
    classical = {kind: _corrected(tests, kind) for kind in ("delong", "mcnemar")}
    for pair, metrics in differences.items():
        first, second = (key._asdict() for key in pair)
        names = series_name(first), series_name(second)
        by_seed = [
            asdict(test) | {f"{kind}_holm": values.get((pair, test.seed)) for kind, values in classical.items()}
            for test in tests[pair]
        ]
        records = {name: row.record() | {"verdict_text": row.verdict_text(*names)} for name, row in metrics.items()}
        rows.append({"first": first, "second": second, "refused": "", "metrics": records, "by_seed": by_seed})
    return rows


def _corrected(tests: Mapping[tuple[Series, Series], list[comparison.SeedTests]], kind: str) -> dict[Any, float]:
    """Return (pair, seed) -> p, corrected by Holm over all pairs and seeds."""
    results = {(pair, test.seed): getattr(test, kind) for pair, rows in tests.items() for test in rows}
    results = {key: result for key, result in results.items() if result is not None}
    return dict(zip(results, holm([result.p for result in results.values()]), strict=True))


def by_class(series: Runs) -> list[dict[str, Any]]:
    """Return per-class metrics with intervals over test patients, and macro and weighted averages; means over seeds."""
    rows = []
    for key, runs in series.items():
        tests = [comparison.load_part(run).scores for run in runs]
        values = {name: [asdict(estimate) for estimate in comparison.by_class(runs, name)] for name in BY_CLASS}
        averages = {
            f"{average}_{name}": float(
                np.mean([METRICS[name].averaged(scores, unit_weights(scores), average)[0] for scores in tests])
            )
            for name in BY_CLASS
            for average in AVERAGES
        }
        rows.append({**key._asdict(), "classes": values, **averages})
    return rows


def operating(series: Runs, aim: Aim, target: int | None) -> dict[str, Any] | None:
    """Return operating points of the binary task; None if a class or finding must be named first."""
    meta = next((runs[0][1] for runs in series.values()), None)
    label = meta.positive if meta and target is None else target
    if meta is None or label is None:
        return None
    return {
        "aim": asdict(aim),
        "of": meta.labels[label],
        "title": aim.title,
        "series": [_operation(key, runs, aim, target) for key, runs in series.items()],
    }


def _operation(key: Series, runs: Sequence[Run], aim: Aim, target: int | None) -> dict[str, Any]:
    try:
        tests = operating_point.resample_series(runs, target)
        points = operating_point.fit_points(tests, aim)
        curve = decision_curve(tests.tests, tests.groups, aim.prevalence, tests.fitting_prevalence)
        thresholds = [point.threshold for point in points]
        performance = operating_point.evaluate_at_shift(tests, thresholds, 0, aim.prevalence, curve).performance
    except BadRequest as error:
        return {**key._asdict(), "refused": str(error), "cautions": []}
    return {
        **key._asdict(),
        "refused": "",
        "decision_curve": {
            name: getattr(curve, name).tolist() for name in ("thresholds", "benefit", "low", "high", "act_on_all")
        },
        "thresholds": thresholds,
        "cautions": sorted({point.caution for point in points if point.caution}),
        "per_thousand": performance.per_thousand(),
        **{name: asdict(getattr(performance, name)) for name in ("sensitivity", "specificity", "ppv", "npv")},
    }


def calibration(series: Runs, finding: int | None) -> list[dict[str, Any]]:
    """Return temperatures, the reliability diagram of the first seed, and the calibration error expected by chance."""
    rows = []
    for key, runs in series.items():
        tests = [comparison.load_part(run, target=finding).scores for run in runs]
        chances = [chance_error(scores) for scores in tests]
        rows.append(
            {
                **key._asdict(),
                "temperatures": [meta.temperature for _, meta in runs],
                "chance_ece": float(np.mean([chance.mean for chance in chances])),
                "chance_ece_high": float(np.mean([chance.high for chance in chances])),
                "first_seed": [asdict(bin_) for bin_ in reliability(tests[0])],
            }
        )
    return rows


def conformal(series: Runs, level: float, finding: int | None) -> dict[str, Any]:
    """Return the conformal prediction sets of each series with their test coverage, or why they are refused."""
    rows = []
    for key, runs in series.items():
        row: dict[str, Any] = key._asdict()
        try:
            fits, coverages = comparison.conformal_series(runs, level, finding)
        except (BadRequest, LeakFound) as error:
            rows.append({**row, "refused": str(error)})
            continue
        rows.append(
            {
                **row,
                "refused": "",
                "kind": fits[0][0].kind,
                "promise": fits[0][0].guarantee,
                "patients": [list(fitted.patients) for fitted, _ in fits],
                "coverage": [asdict(coverage) for coverage in coverages],
                "first_seed": [asdict(coverage) for coverage in fits[0][1].by_class],
                **{
                    name: float(np.mean([getattr(evaluation, name) for _, evaluation in fits]))
                    for name in ("size", "single", "empty")
                },
            }
        )
    return {"level": level, "series": rows}


def selective(series: Runs, finding: int | None) -> list[dict[str, Any]]:
    """Return the risk among the most certain images at each coverage."""
    series_rows = []
    for key, runs in series.items():
        tests = [comparison.load_part(run, target=finding) for run in runs]
        curve = risk_curve([test.scores for test in tests], tests[0].groups, np.array(COVERAGES))
        rows = zip(curve.coverage, curve.risk, curve.low, curve.high, strict=True)
        risks = [{"coverage": share, "risk": risk, "low": low, "high": high} for share, risk, low, high in rows]
        series_rows.append({**key._asdict(), "risks": risks})
    return series_rows


def curves(series: Runs, metric: str, reach: float | None, size: int | None, finding: int | None) -> dict[str, Any]:
    """Return learning curves over all sizes: fits, sizes needed, and label multipliers and crossovers of every pair."""
    measured, fits = comparison.learning_curves(series, metric, finding)
    first = next(iter(fits.values()), None)
    target_value = reach if reach is not None or first is None else default_target(first)
    return {
        "metric": metric,
        "reach": target_value,
        "series": [_curve(key, values, fits.get(key), target_value) for key, values in measured.items()],
        "pairs": [
            _pair(first_key, second_key, fits, size_in_common)
            for first_key, second_key in combinations(fits, 2)
            if (size_in_common := _common_size(fits[first_key].sizes, fits[second_key].sizes, size)) is not None
        ],
    }


def _curve(key: Series, measured: MeasuredCurve, fit: Fit | None, target_value: float | None) -> dict[str, Any]:
    points = [
        {"size": n, "mean": float(np.mean([row[0] for row in by_seed.values()])), "seeds": len(by_seed)}
        for n, by_seed in sorted(measured.values.items())
    ]
    doubts: Sequence[str] = ["Fewer than three sizes: no curve is fitted."]
    asymptote = needed = None
    if fit and target_value is not None:
        doubts, asymptote, needed = fit.doubts, fit.asymptote(), _bounded(images_needed(fit, target_value))
    return {**key._asdict(), "points": points, "doubts": doubts, "asymptote": asymptote, "needed": needed}


def _pair(first: Series, second: Series, fits: Mapping[Series, Fit], size: float) -> dict[str, Any]:
    behind, ahead, multiplier = multiplier_at(fits, first, second, size)
    crossing = crossover(fits[first], fits[second])
    words = crossing.verdict(series_name(first._asdict()), series_name(second._asdict()))
    return {
        "behind": behind._asdict(),
        "ahead": ahead._asdict(),
        "size": size,
        "multiplier": _bounded(multiplier, 1, " times as many labels"),
        "crossover": asdict(crossing) | {"detected": crossing.detected, "words": words},
    }


def _common_size(sizes: Sequence[float], others: Sequence[float], largest: int | None) -> float | None:
    """Return the middle of the sizes at which both were measured, up to the size of the report.

    None if they share at most one size: curves cannot be compared at a single point.
    """
    if max(sizes[0], others[0]) >= min(sizes[-1], others[-1]):
        return None
    common = sorted(size for size in set(sizes) & set(others) if largest is None or size <= largest)
    return common[len(common) // 2] if common else None


def two_stage(
    series: Runs, screens: Mapping[str, Runs], suspicious: tuple[int, ...], sensitivity: float
) -> dict[str, Any] | None:
    """Compare every screen with every second stage at one size, and both with the best single model.

    The single model is chosen on held-out images. The verdicts are corrected by Holm over all these pairs.

    Args:
        series: runs of several classes.
        screens: data set -> further, binary runs that may screen.
        suspicious: classes that count as suspicious; without them there is no such section.
        sensitivity: target sensitivity of the screen.
    """
    if not suspicious or not series:
        return None
    single, aim = best_single(series, suspicious), Aim("sensitivity", sensitivity)
    candidates = [("", key, runs) for key, runs in series.items()]
    candidates += [(name, key, runs) for name, screen in screens.items() for key, runs in screen.items()]
    rows: list[dict[str, Any]] = []
    measured: list[tuple[dict[str, Any], TwoStage]] = []
    for (name, key, runs), (confirmer, seconds) in product(candidates, series.items()):
        row: dict[str, Any] = {
            "screen": key._asdict() | {"dataset": name},
            "confirmer": confirmer._asdict(),
            "refused": "",
        }
        rows.append(row)
        try:
            measured.append((row, joint(runs, seconds, series[single], suspicious, aim, STAGE_DRAWS)))
        except (BadRequest, LeakFound) as error:
            row["refused"] = str(error)
    gains = holm_corrected([pair.gain for _, pair in measured])
    for (row, pair), gain in zip(measured, gains, strict=True):
        row |= replace(pair, gain=gain).record()
    return {"single": single._asdict(), "sensitivity": sensitivity, "pairs": rows}


def _bounded(estimate: Bounded, digits: int = 0, unit: str = "") -> dict[str, Any]:
    facts = {"reached": estimate.reached, "extrapolated": estimate.extrapolated, "words": estimate.text(digits, unit)}
    return asdict(estimate) | facts


def subgroups(series: Runs, finding: int | None) -> list[dict[str, Any]]:
    """Return the results of every series by sex and by age, mean over seeds; empty where neither is stored."""
    rows = [(key, by_subgroup(runs, finding)) for key, runs in series.items()]
    return [{**key._asdict(), "groups": [asdict(group) for group in groups]} for key, groups in rows if groups]


def as_text(rows: Sequence[Data]) -> str:
    """Return the subgroup section as Markdown."""
    parts = [
        "Mean over seeds with 95% intervals over test images (resampled by patient, lesion or image), not corrected "
        "for the number of groups; differences are from the largest group. Means over classes are given only where a "
        f"group has {LEAST_OF_CLASS} images of each class. Groups differ in their classes and in many unrecorded ways: "
        "a difference does not show its cause.",
    ]
    for row in rows:
        figures = list(dict.fromkeys(name for group in row["groups"] for name in group["figures"]))
        head = ["group", "images", "patients or lesions", *map(title_of, figures)]
        lines = [
            [f"{group['by'].lower()} {group['name']}", f"{group['images']}", f"{group['groups']}",
             *(_cell(group, name) for name in figures)]
            for group in row["groups"]
        ]  # fmt: skip
        parts += [series_name(row), table(head, lines)]
    return section("By sex and by age", *parts)


def _cell(group: Data, name: str) -> str:
    if name not in group["figures"]:
        return group["too_few"] or "too few of a class"
    difference = group["differences"].get(name)
    known = difference and None not in (difference["value"], difference["low"], difference["high"])
    return with_interval(group["figures"][name]) + (f"; {signed_interval(difference, 'value')}" if known else "")
