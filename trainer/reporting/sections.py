"""The sections of a report as data: each takes the runs of every series and calls `core.analysis.comparison`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations, product
from typing import Any

import numpy as np

from core.analysis import comparison
from core.analysis.subgroups import LEAST_OF_CLASS, by_subgroup, title_of
from core.analysis.two_stage import best_single, joint
from core.errors import BadRequest, LeakFound
from core.metrics import METRICS
from core.metrics.comparisons import corrected, holm
from core.metrics.learning_curves import Bounded, Fit, Measured, crossover, images_needed, label_multiplier, usual_reach
from core.metrics.measures import Average, once
from core.metrics.reliability import chance_error, reliability
from core.metrics.selective import risk_curve
from core.metrics.thresholds import Aim
from core.metrics.two_stage import TwoStage
from core.runs.series import Run, Series, summarize
from trainer.reporting.markdown import ranged, said, table

Runs = dict[Series, list[Run]]
BY_CLASS = ("auroc", "sensitivity", "specificity", "precision", "f1")
AVERAGES: tuple[Average, ...] = ("macro", "weighted")
STAGE_DRAWS = 500
COVERAGES = (0.5, 0.7, 0.8, 0.9, 1.0)


def _name(key: Series) -> dict[str, str]:
    return key._asdict()


def family(key: Series, runs: Sequence[Run], finding: int | None) -> dict[str, Any]:
    """A series with every metric: intervals over test patients, over seeds, and over both, side by side."""
    found = summarize(runs, finding=finding)
    return {
        **_name(key),
        "family": runs[0][1].family,
        "seeds": [meta.seed for _, meta in runs],
        "metrics": {name: asdict(one) for name, one in found.items()},
    }


def comparisons(series: Runs, finding: int | None) -> list[dict[str, Any]]:
    """Every pair of series: the hierarchical paired bootstrap and, beside it, DeLong and McNemar for each seed."""
    pairs: list[tuple[Series, Series]] = []
    rows: list[dict[str, Any]] = []
    for pair in combinations(series, 2):
        try:
            comparison.paired(series[pair[0]], series[pair[1]])
            pairs.append(pair)
        except BadRequest as error:
            rows.append({"first": _name(pair[0]), "second": _name(pair[1]), "refused": str(error)})
    found = comparison.compare_all(series, finding=finding, pairs=pairs)
    tests = {pair: comparison.seed_tests(series[pair[0]], series[pair[1]], finding) for pair in pairs}
    classical = {kind: _corrected(tests, kind) for kind in ("delong", "mcnemar")}
    for pair, metrics in found.items():
        row = {
            "first": _name(pair[0]),
            "second": _name(pair[1]),
            "refused": "",
            "metrics": {
                name: one.record() | {"verdict_text": one.verdict_text(said(_name(pair[0])), said(_name(pair[1])))}
                for name, one in metrics.items()
            },
            "by_seed": [
                asdict(one) | {f"{kind}_holm": values.get((pair, one.seed)) for kind, values in classical.items()}
                for one in tests[pair]
            ],
        }
        rows.append(row)
    return rows


def _corrected(tests: Mapping[tuple[Series, Series], list[comparison.SeedTests]], kind: str) -> dict[Any, float]:
    """(pair, seed) -> p corrected by Holm over all pairs and seeds."""
    made = {(pair, one.seed): getattr(one, kind) for pair, rows in tests.items() for one in rows}
    made = {key: one for key, one in made.items() if one is not None}
    return dict(zip(made, holm([one.p for one in made.values()]), strict=True))


def by_class(series: Runs) -> list[dict[str, Any]]:
    """Class-wise metrics with intervals over test images, and their macro and weighted averages; means over seeds."""
    found = []
    for key, runs in series.items():
        tests = [comparison.judged(run).scores for run in runs]
        values = {name: [asdict(one) for one in comparison.by_class(runs, name)] for name in BY_CLASS}
        averages = {
            f"{average}_{name}": float(np.mean([METRICS[name].averaged(one, once(one), average)[0] for one in tests]))
            for name in BY_CLASS
            for average in ("macro", "weighted")
        }
        found.append({**_name(key), "classes": values, **averages})
    return found


def operating(series: Runs, aim: Aim, target: int | None) -> dict[str, Any] | None:
    """Operating points of the binary task; None where a class or finding must be named first."""
    meta = next((runs[0][1] for runs in series.values()), None)
    judged = meta.positive if meta and target is None else target
    if meta is None or judged is None:
        return None
    return {
        "aim": asdict(aim),
        "of": meta.labels[judged],
        "title": aim.title,
        "series": [_operation(key, runs, aim, target) for key, runs in series.items()],
    }


def _operation(key: Series, runs: Sequence[Run], aim: Aim, target: int | None) -> dict[str, Any]:
    try:
        points, worth, _ = comparison.operation(runs, aim, target)
    except BadRequest as error:
        return {**_name(key), "refused": str(error), "cautions": []}
    curve = comparison.decisions(runs, aim.prevalence, target)
    return {
        **_name(key),
        "refused": "",
        "decision_curve": {
            name: getattr(curve, name).tolist() for name in ("thresholds", "benefit", "low", "high", "act_on_all")
        },
        "thresholds": [point.threshold for point in points],
        "cautions": sorted({point.caution for point in points if point.caution}),
        "per_thousand": worth.per_thousand(),
        **{name: asdict(getattr(worth, name)) for name in ("sensitivity", "specificity", "ppv", "npv")},
    }


def calibration(series: Runs, finding: int | None) -> list[dict[str, Any]]:
    """Temperatures, the reliability diagram of the first seed, and what calibration error chance alone shows."""
    found = []
    for key, runs in series.items():
        if runs[0][1].multilabel and finding is None:
            continue
        tests = [comparison.judged(run, target=finding).scores for run in runs]
        chances = [chance_error(one) for one in tests]
        found.append(
            {
                **_name(key),
                "temperatures": [meta.temperature for _, meta in runs],
                "chance_ece": float(np.mean([one.mean for one in chances])),
                "chance_ece_high": float(np.mean([one.high for one in chances])),
                "first_seed": [asdict(one) for one in reliability(tests[0])],
            }
        )
    return found


def conformal(series: Runs, level: float, finding: int | None) -> dict[str, Any]:
    """Conformal sets of each series with their coverage on the test images, or why they are refused."""
    rows = []
    for key, runs in series.items():
        row: dict[str, Any] = _name(key)
        try:
            found, holds = comparison.conformal_series(runs, level, finding)
        except (BadRequest, LeakFound) as error:
            rows.append({**row, "refused": str(error)})
            continue
        rows.append(
            {
                **row,
                "refused": "",
                "kind": found[0][0].kind,
                "promise": found[0][0].promise,
                "patients": [list(fitted.patients) for fitted, _ in found],
                "holds": [asdict(one) for one in holds],
                "first_seed": [asdict(one) for one in found[0][1].holds],
                **{
                    name: float(np.mean([getattr(one, name) for _, one in found]))
                    for name in ("size", "single", "empty")
                },
            }
        )
    return {"level": level, "series": rows}


def selective(series: Runs, finding: int | None) -> list[dict[str, Any]]:
    """The risk among the surest share of images; nothing for several findings at once."""
    found = []
    for key, runs in series.items():
        if runs[0][1].multilabel and finding is None:
            continue
        tests = [comparison.judged(run, target=finding) for run in runs]
        curve = risk_curve([one.scores for one in tests], tests[0].groups, np.array(COVERAGES))
        rows = zip(curve.coverage, curve.risk, curve.low, curve.high, strict=True)
        risks = [{"coverage": share, "risk": risk, "low": low, "high": high} for share, risk, low, high in rows]
        found.append({**_name(key), "risks": risks})
    return found


def curves(every: Runs, metric: str, reach: float | None, size: int | None, finding: int | None) -> dict[str, Any]:
    """Learning curves at all sizes: fits, sizes needed, label multipliers and crossovers of every pair."""
    measured, fits = comparison.learning_curves(every, metric, finding)
    first = next(iter(fits.values()), None)
    wanted = reach if reach is not None or first is None else usual_reach(first)
    return {
        "metric": metric,
        "reach": wanted,
        "series": [_curve(key, one, fits.get(key), wanted) for key, one in measured.items()],
        "pairs": [
            _pair(one, other, fits, at)
            for one, other in combinations(fits, 2)
            if (at := _common_size(fits[one].sizes, fits[other].sizes, size)) is not None
        ],
    }


def _curve(key: Series, measured: Measured, fit: Fit | None, wanted: float | None) -> dict[str, Any]:
    points = [
        {"size": n, "mean": float(np.mean([row[0] for row in found.values()])), "seeds": len(found)}
        for n, found in sorted(measured.found.items())
    ]
    if fit is None or wanted is None:
        doubts = ["Fewer than three sizes: no curve is fitted."]
        return {**_name(key), "points": points, "doubts": doubts, "asymptote": None, "needed": None}
    needed = _bounded(images_needed(fit, wanted))
    return {**_name(key), "points": points, "doubts": fit.doubts, "asymptote": fit.asymptote(), "needed": needed}


def _pair(one: Series, other: Series, fits: Mapping[Series, Fit], at: float) -> dict[str, Any]:
    lead = float((fits[one].rising(np.array([at])) - fits[other].rising(np.array([at])))[0, 0])
    behind, ahead = (one, other) if lead < 0 else (other, one)
    crossing = crossover(fits[one], fits[other])
    return {
        "behind": _name(behind),
        "ahead": _name(ahead),
        "size": at,
        "multiplier": _bounded(label_multiplier(fits[behind], fits[ahead], at), 1, " times as many labels"),
        "crossover": asdict(crossing)
        | {"detected": crossing.detected, "words": crossing.verdict(said(_name(one)), said(_name(other)))},
    }


def _common_size(sizes: Sequence[float], others: Sequence[float], largest: int | None) -> float | None:
    """The middle of the sizes at which both were measured, up to the size of the report; None where they have but one
    size in common, between which and itself no curves can cross.
    """
    if max(sizes[0], others[0]) >= min(sizes[-1], others[-1]):
        return None
    common = sorted(size for size in set(sizes) & set(others) if largest is None or size <= largest)
    return common[len(common) // 2] if common else None


def two_stage(
    series: Runs, screens: Mapping[str, Runs], suspicious: tuple[int, ...], sensitivity: float
) -> dict[str, Any] | None:
    """Every screen with every second stage at one size, against the best single model of the held-out images.

    The verdicts are corrected by Holm over all these pairs.

    Args:
        series: runs of several classes.
        screens: data set -> further, binary runs that may screen.
        suspicious: classes that count as suspicious; empty for no such section.
        sensitivity: wanted of the screen.
    """
    if not suspicious or not series:
        return None
    single, aim = best_single(series, suspicious), Aim("sensitivity", sensitivity)
    offered = [("", key, runs) for key, runs in series.items()]
    offered += [(name, key, runs) for name, found in screens.items() for key, runs in found.items()]
    rows: list[dict[str, Any]] = []
    measured: list[TwoStage | None] = []
    for (name, key, runs), (confirmer, seconds) in product(offered, series.items()):
        row: dict[str, Any] = {"screen": _name(key) | {"dataset": name}, "confirmer": _name(confirmer), "refused": ""}
        try:
            measured.append(joint(runs, seconds, series[single], suspicious, aim, STAGE_DRAWS))
            rows.append(row)
        except (BadRequest, LeakFound) as error:
            measured.append(None)
            rows.append(row | {"refused": str(error)})
    gains = iter(corrected([one.gain for one in measured if one]))
    rows = [
        row | replace(one, gain=next(gains)).record() if one else row for row, one in zip(rows, measured, strict=True)
    ]
    return {"single": _name(single), "sensitivity": sensitivity, "pairs": rows}


def _bounded(one: Bounded, digits: int = 0, unit: str = "") -> dict[str, Any]:
    return asdict(one) | {
        "reached": one.reached,
        "extrapolated": one.extrapolated,
        "words": one.words(digits, unit),
    }


Data = Mapping[str, Any]


def subgroups(series: Runs, finding: int | None) -> list[dict[str, Any]]:
    """Every series by sex and by age, mean over seeds; none where ages and sexes are not kept beside the runs."""
    rows = [{**key._asdict(), "groups": by_subgroup(runs, finding)} for key, runs in series.items()]
    return [{**row, "groups": [asdict(one) for one in row["groups"]]} for row in rows if row["groups"]]


def as_text(rows: Sequence[Data]) -> str:
    """The section as Markdown."""
    if not rows:
        return ""
    parts = [
        "## By sex and by age",
        "Mean over seeds with 95% intervals over test patients or lesions (resampled whole), not corrected for "
        "the number of groups; differences are from the largest group. Means over classes are given only where a "
        "group has "
        f"{LEAST_OF_CLASS} images of each class. Groups differ in their classes and in much that is not recorded: a "
        "difference says nothing about its cause.",
    ]
    for row in rows:
        figures = list(dict.fromkeys(name for one in row["groups"] for name in one["figures"]))
        head = ["group", "images", "patients or lesions", *map(title_of, figures)]
        parts += [said(row), table(head, [_line(one, figures) for one in row["groups"]])]
    return "\n\n".join(parts)


def _line(one: Data, figures: Sequence[str]) -> list[str]:
    return [
        f"{one['by'].lower()} {one['name']}", f"{one['images']}", f"{one['groups']}",
        *(_cell(one, name) for name in figures),
    ]  # fmt: skip


def _cell(one: Data, name: str) -> str:
    if name not in one["figures"]:
        return one["too_few"] or "too few of a class"
    minus = one["differences"].get(name)
    change = f"; {minus['value']:+.3f} ({minus['low']:+.3f} to {minus['high']:+.3f})" if _known(minus) else ""
    return ranged(one["figures"][name]) + change


def _known(minus: Data | None) -> bool:
    return minus is not None and all(minus[end] is not None for end in ("value", "low", "high"))
