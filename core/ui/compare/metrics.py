"""Compare: the table of metrics with intervals, and the classification report of every run as files."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import streamlit as st

from core.metrics import METRICS
from core.results import REPORTED, Series
from core.ui import cached, cached_evidence
from core.ui.compare.view import View
from core.ui.words import escape

SEEDS, IMAGES = "seeds", "images"
INTERVALS = {SEEDS: "Over seeds", IMAGES: "Over test images"}


def show(view: View) -> None:
    """The table, its downloads, and the classes apart."""
    over = st.segmented_control(
        "Interval", list(INTERVALS), default=SEEDS, format_func=INTERVALS.__getitem__, key="compare_interval",
        required=True,
        help="Over seeds: how much the draw of training images matters. Over test images: how sure the mean over "
        "these seeds is, by bootstrap with patients drawn whole. They answer different questions and are never mixed.",
    )  # fmt: skip
    found = {name: _intervals(view, name, over) for name in view.runs}
    rows = [
        {"Series": view.title(name), "Seeds": len(view.runs[name])}
        | {METRICS[metric].title: f"{value:.3f} ({low:.3f} to {high:.3f})" for metric, (value, low, high) in of.items()}
        for name, of in found.items()
    ]
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, width="stretch",
        column_config={"Series": st.column_config.Column(pinned=True)},
        alt="Metrics of each series with intervals; it scrolls sideways",
    )  # fmt: skip
    first = view.first
    positive = f" Positive class: {escape(first.titles[first.positive])}." if first.positive is not None else ""
    count = len(cached_evidence.judged(next(iter(view.runs.values()))[0], view.finding).scores)
    st.caption(
        f"n = {count} test images.{positive} At the operating point fitted inside each training subset. "
        + ("Mean over seeds (95% interval over test images)." if over == IMAGES else "Mean (lowest to highest seed).")
    )
    numbers = [
        {
            "dataset": view.dataset, "train_size": view.size or "full", **name._asdict(),
            "finding": "" if view.finding is None else first.labels[view.finding], "seeds": len(view.runs[name]),
            "leaks": max(meta.leaks for _, meta in view.runs[name]), "metric": metric, "value": value, "low": low,
            "high": high, "interval_over": over,
        }
        for name, of in found.items()
        for metric, (value, low, high) in of.items()
    ]  # fmt: skip
    as_file = pd.DataFrame(numbers).round(6).to_csv(index=False).encode("utf-8-sig")
    st.download_button("Download (CSV)", as_file, f"{view.file}.csv", "text/csv")
    _report(view)


def _intervals(view: View, name: Series, over: str) -> dict[str, tuple[float, float, float]]:
    """Metric -> mean over seeds with the ends of what was asked for."""
    runs = view.runs[name]
    if over == IMAGES:
        estimates = cached.estimates(runs, view.finding)
        return {metric: (one.value, one.low, one.high) for metric, one in estimates.items()}
    values = {metric: cached_evidence.values(runs, metric, view.finding) for metric in METRICS}
    return {metric: (float(np.mean(of)), min(of), max(of)) for metric, of in values.items()}


def _report(view: View) -> None:
    """Class by class: one run on the page, all of them as files."""
    st.subheader("Class by class")
    rows = [
        {
            "dataset": view.dataset, "train_size": view.size or "full", **name._asdict(), "seed": meta.seed,
            "leaks": meta.leaks, **row,
        }
        for name, runs in view.runs.items()
        for folder, meta in runs
        for row in cached_evidence.report((folder, meta))
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
    st.caption("Each class or finding against the rest, mean over seeds; the files hold every run.")
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
