"""The section of a report on external test sets: own test and elsewhere side by side, as data and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from core.analysis.external import SHOWN, Elsewhere, by_view, evaluated, external_sets, reading, refusals
from core.metrics import METRICS
from trainer.reporting.markdown import ranged, ranged_of, said, table
from trainer.reporting.sections import Runs

Data = Mapping[str, Any]


def external(series: Runs) -> list[dict[str, Any]]:
    """Return every series on every external set, as a whole and view by view, or why it was not evaluated there."""
    found = []
    for key, runs in series.items():
        for name in external_sets(runs):
            there = evaluated(runs, name)
            read = reading(there, name)
            found.append(
                {
                    **key._asdict(),
                    "set": name,
                    "refused": "",
                    **asdict(there[0][1].external[name]),
                    "views": [_one(one) for one in by_view(there, name)],
                    "reading": asdict(read) if read else None,
                }
            )
        found += [{**key._asdict(), "set": name, **asdict(record)} for name, record in refusals(runs).items()]
    return found


def _one(one: Elsewhere) -> dict[str, Any]:
    return {
        "view": one.view, "images": one.images, "groups": one.groups, "own_images": one.own_images,
        "own_groups": one.own_groups, "seeds": one.seeds,
        "own": {name: asdict(value) for name, value in one.own.items()},
        "there": {name: asdict(value) for name, value in one.there.items()},
        "drop": {name: {"value": drop.effect, "low": drop.low, "high": drop.high} for name, drop in one.drop.items()},
    }  # fmt: skip


def as_text(rows: Sequence[Data]) -> str:
    """Return the section as Markdown; "" where there is nothing."""
    if not rows:
        return ""
    parts = [
        "## Own test and elsewhere",
        "On the classes that both sets have, at the run's own temperature and threshold: mean over seeds with 95% "
        "intervals over patients. The difference is own test minus elsewhere, with its 95% interval over seeds and the "
        "patients of both sets, resampled independently.",
    ]
    for name in dict.fromkeys(row["set"] for row in rows if not row["refused"]):
        here = [row for row in rows if row["set"] == name and not row["refused"]]
        first = here[0]
        parts.append(
            f"### {first['title']}\n\n{first['images']} images of {first['groups']} patients or lesions; classes: "
            f"{', '.join(first['labels'])}. {first['caveat']}".rstrip()
        )
        for metric in SHOWN:
            head = [METRICS[metric].title, "views", "seeds", "own test", "elsewhere", "own minus elsewhere"]
            parts.append(table(head, [_line(row, view, metric) for row in here for view in row["views"]]))
        parts += [_reading(row) for row in here if row["reading"]]
    parts += [f"{said(row)} was not evaluated on {row['title']}: {row['refused']}" for row in rows if row["refused"]]
    return "\n\n".join(parts)


def _line(row: Data, view: Data, metric: str) -> list[str]:
    archive = ", same archive" if row["same_archive"] else ""
    drop = view["drop"][metric]
    signed = "–" if drop["low"] is None else f"{drop['value']:+.3f} ({drop['low']:+.3f} to {drop['high']:+.3f})"
    return [
        f"{said(row)}{archive}", view["view"] or "all", str(view["seeds"]), ranged(view["own"][metric]),
        ranged(view["there"][metric]), signed,
    ]  # fmt: skip


def _reading(row: Data) -> str:
    read = row["reading"]
    confirmed = ", ".join(f"{yes} of {of} {label}" for label, (yes, of) in read["confirmed"].items())
    figures = ", ".join(
        f"{METRICS[name].title} {ranged_of([one['value'], one['low'], one['high']])}"
        for name, one in read["figures"].items()
    )
    return (
        f"{said(row)}: a radiologist read {read['images']} of these images and confirmed {confirmed}. By the "
        f"radiologist's label: {figures}. So few images carry no verdict."
    )
