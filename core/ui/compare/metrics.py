"""Compare: the table of metrics with intervals, and the classification report of every run."""

from __future__ import annotations

import json

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.metrics import METRICS, Spread, between_seeds
from core.runs.series import REPORTED, Series
from core.ui import cache
from core.ui.compare.view import View
from core.ui.text import escape

CAPTION = (
    "Mean over seeds with 95% intervals, named by what varies: test patients (resampled whole, fixed seeds) or seeds "
    "(Student's t, fixed patients). They answer different questions; the file also has the interval over both."
)


def show(view: View) -> None:
    """Show the table of metrics, its download, and the classification report."""
    place = st.empty()
    # First show the intervals over seeds, which are quick; replace the table once the others are computed.
    seeds = {name: _over_seeds(view, name) for name in view.runs}
    _table(place, view, {name: {metric: _text(row) for metric, row in rows.items()} for name, rows in seeds.items()})
    cache.evaluate_runs(view.runs, view.finding)
    summaries = {name: cache.summaries(runs, view.finding) for name, runs in view.runs.items()}
    _table(
        place, view, {name: {metric: row.text() for metric, row in rows.items()} for name, rows in summaries.items()}
    )
    first = view.first
    positive = f" Positive class: {escape(first.titles[first.positive])}." if first.positive is not None else ""
    count = next(iter(next(iter(summaries.values())).values())).patients.n
    st.caption(
        f"n = {count} test images.{positive} At the operating point fitted within each training subset. {CAPTION}"
    )
    numbers = [
        {
            "dataset": view.dataset, "train_size": view.size or "full", **name._asdict(),
            "finding": "" if view.finding is None else first.labels[view.finding], "seeds": len(view.runs[name]),
            "leaks": max(meta.leaks for _, meta in view.runs[name]), "metric": metric, "value": row.value,
            "patients_low": row.patients.low, "patients_high": row.patients.high, "seeds_low": row.seeds.low,
            "seeds_high": row.seeds.high, "both_low": row.both.low, "both_high": row.both.high,
            "seeds_sd": row.seeds.sd, "lowest_seed": row.seeds.lowest, "highest_seed": row.seeds.highest,
        }
        for name, rows in summaries.items()
        for metric, row in rows.items()
    ]  # fmt: skip
    as_file = pd.DataFrame(numbers).round(6).to_csv(index=False).encode("utf-8-sig")
    st.download_button("Download (CSV)", as_file, f"{view.file}.csv", "text/csv")
    _report(view)


def _over_seeds(view: View, name: Series) -> dict[str, Spread]:
    """Return the spread over seeds of each metric, from the stored records."""
    runs = view.runs[name]
    return {metric: between_seeds(cache.values(runs, metric, view.finding), row) for metric, row in METRICS.items()}


def _text(spread: Spread) -> str:
    """Format a metric while its interval over test patients is still being computed."""
    seeds = f"seeds {spread.low:.3f} to {spread.high:.3f}" if spread.seeds > 1 else "one seed"
    return f"{spread.mean:.3f}; test patients …; {seeds}"


def _table(place: DeltaGenerator, view: View, texts: dict[Series, dict[str, str]]) -> None:
    rows = [
        {"Series": view.title(name), "Seeds": len(view.runs[name])}
        | {METRICS[metric].title: text for metric, text in by_metric.items()}
        for name, by_metric in texts.items()
    ]
    place.dataframe(
        pd.DataFrame(rows), hide_index=True, width="stretch",
        column_config={"Series": st.column_config.Column(pinned=True)},
        alt="Metrics of each series with intervals; the table scrolls sideways",
    )  # fmt: skip


def _report(view: View) -> None:
    """Show the classification report, averaged over seeds, with every run as files."""
    st.subheader("By class")
    rows = [
        {
            "dataset": view.dataset, "train_size": view.size or "full", **name._asdict(), "seed": run.meta.seed,
            "leaks": run.meta.leaks, **row,
        }
        for name, runs in view.runs.items()
        for run in runs
        for row in cache.report(run)
    ]  # fmt: skip
    every = pd.DataFrame(rows)
    titles = {name: view.title(name) for name in view.runs}
    mean = every.groupby(["model", "strategy", "variant", "class"], sort=False)[["images", *REPORTED]].mean()
    shown = mean.reset_index().replace({"class": dict(zip(view.first.labels, view.first.titles, strict=True))})
    shown.insert(0, "Series", [titles[Series(*key)] for key in shown[["model", "strategy", "variant"]].to_numpy()])
    shown = shown.drop(columns=["model", "strategy", "variant"]).rename(
        columns={"class": "Class", "images": "Test images", **{name: METRICS[name].title for name in REPORTED}}
    )
    formats = {METRICS[name].title: st.column_config.NumberColumn(format="%.3f") for name in REPORTED}
    st.dataframe(
        shown, hide_index=True, width="stretch", alt="Classification report: each class against the rest, by series",
        column_config={"Series": st.column_config.Column(pinned=True), **formats},
    )  # fmt: skip
    st.caption("Each class or finding against the rest, mean over seeds. The files contain every run.")
    left, right = st.columns(2)
    left.download_button(
        "Classification report (CSV)", every.round(6).to_csv(index=False).encode("utf-8-sig"),
        f"{view.file}-report.csv", "text/csv", width="stretch",
    )  # fmt: skip
    content = json.loads(every.round(6).to_json(orient="records"))
    right.download_button(
        "Classification report (JSON)", json.dumps(content, indent=1).encode(), f"{view.file}-report.json",
        "application/json", width="stretch",
    )  # fmt: skip
