"""Report section on external test sets: internal and external performance side by side, as data and as Markdown."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from core.analysis.external import SHOWN, ExternalResult, by_view, evaluated, external_sets, reading, refusals
from core.metrics import METRICS
from trainer.reporting.markdown import Data, section, series_name, signed_interval, table, with_interval
from trainer.reporting.sections import Runs


def external_rows(series: Runs) -> list[dict[str, Any]]:
    """Return the results of every series on every external set, overall and by view, or why there are none."""
    rows = []
    for key, runs in series.items():
        for name in external_sets(runs):
            evaluated_runs = evaluated(runs, name)
            reader_study = reading(evaluated_runs, name)
            rows.append(
                {
                    **key._asdict(),
                    "set": name,
                    "refused": "",
                    **asdict(evaluated_runs[0][1].external[name]),
                    "views": [_view_record(view) for view in by_view(evaluated_runs, name)],
                    "reading": asdict(reader_study) if reader_study else None,
                }
            )
        rows += [{**key._asdict(), "set": name, **asdict(record)} for name, record in refusals(runs).items()]
    return rows


def _view_record(view: ExternalResult) -> dict[str, Any]:
    return {
        "view": view.view, "images": view.images, "groups": view.groups, "own_images": view.own_images,
        "own_groups": view.own_groups, "seeds": view.seeds,
        "own": {name: asdict(value) for name, value in view.own.items()},
        "there": {name: asdict(value) for name, value in view.external.items()},
        "drop": {name: {"value": drop.effect, "low": drop.low, "high": drop.high} for name, drop in view.drop.items()},
    }  # fmt: skip


def as_text(rows: Sequence[Data]) -> str:
    """Return the section as Markdown."""
    parts = [
        "On the classes that both sets share, at the run's own temperature and threshold: mean over seeds with 95% "
        "intervals over patients. The difference is internal test minus external test, with its 95% interval over "
        "seeds and the patients of both sets, resampled independently.",
    ]
    for name in dict.fromkeys(row["set"] for row in rows if not row["refused"]):
        set_rows = [row for row in rows if row["set"] == name and not row["refused"]]
        first = set_rows[0]
        parts.append(
            f"### {first['title']}\n\n{first['images']} images of {first['groups']} patients or lesions; classes: "
            f"{', '.join(first['labels'])}. {first['caveat']}".rstrip()
        )
        for metric in SHOWN:
            head = ["views", "seeds", "internal test", "external test", "internal minus external"]
            lines = [_line(row, view, metric) for row in set_rows for view in row["views"]]
            parts.append(table([METRICS[metric].title, *head], lines))
        parts += [_reader_study(row) for row in set_rows if row["reading"]]
    parts += [
        f"{series_name(row)} was not evaluated on {row['title']}: {row['refused']}" for row in rows if row["refused"]
    ]
    return section("Internal and external test sets", *parts)


def _line(row: Data, view: Data, metric: str) -> list[str]:
    archive = ", same archive" if row["same_archive"] else ""
    drop = view["drop"][metric]
    return [
        f"{series_name(row)}{archive}", view["view"] or "all", str(view["seeds"]), with_interval(view["own"][metric]),
        with_interval(view["there"][metric]), "–" if drop["low"] is None else signed_interval(drop, "value"),
    ]  # fmt: skip


def _reader_study(row: Data) -> str:
    study = row["reading"]
    confirmed = ", ".join(f"{yes} of {of} {label}" for label, (yes, of) in study["confirmed"].items())
    figures = ", ".join(f"{METRICS[name].title} {with_interval(value)}" for name, value in study["figures"].items())
    return (
        f"{series_name(row)}: a radiologist read {study['images']} of these images and confirmed {confirmed}. By the "
        f"radiologist's label: {figures}. These are too few images for a verdict."
    )
