"""Compare: a metric of each series with its intervals, all metrics, and the classification report of every run."""

import json
from collections.abc import Mapping

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.metrics import METRICS, Estimate, SeriesEstimate, Spread, between_seeds
from core.runs.scores import decision_rule
from core.runs.series import REPORTED, Series
from core.ui import cache, charts, pickers
from core.ui.compare.view import View
from core.ui.tables import download, table
from core.ui.text import escape

WAITING = "…"
CAPTION = (
    "Mean over seeds. Thick: 95% interval over other test patients (resampled by patient, lesion or image, fixed "
    "seeds). Thin, below it: 95% interval over other training images (Student's t over seeds, fixed patients). They "
    "answer different questions; the file also has the interval over both. **Differences** tests which series differ."
)


def show(view: View) -> None:
    """Show one metric in words, as a figure and as a table; then all metrics, and the report by class."""
    metric = pickers.pick_metric("compare_metric")
    place = st.empty()
    if not cache.are_evaluated(view.runs.values(), view.finding):
        # First show the intervals over seeds, which are quick; replace them once the others are computed.
        values = {name: cache.values(runs, metric, view.finding) for name, runs in view.runs.items()}
        seeds = {name: between_seeds(row, METRICS[metric]) for name, row in values.items()}
        _content(place, view, metric, seeds, {})
        cache.evaluate_runs(view.runs.values(), view.finding)
    summaries = {name: cache.summaries(runs, finding=view.finding) for name, runs in view.runs.items()}
    of_metric = {name: rows[metric] for name, rows in summaries.items()}
    seeds = {name: row.seeds for name, row in of_metric.items()}
    _content(place, view, metric, seeds, {name: row.patients for name, row in of_metric.items()})
    first = view.first
    positive = f" Positive class: {escape(first.titles[first.positive])}." if first.positive is not None else ""
    count = next(iter(of_metric.values())).patients.n
    st.caption(
        f"{METRICS[metric].meaning} {count:,} test images.{positive} {decision_rule(first, view.finding)} {CAPTION}"
    )
    with st.expander("All metrics"):
        _all_metrics(view, summaries)
    with st.expander("By class: classification report"):
        _report(view)


def _content(
    place: DeltaGenerator, view: View, metric: str, seeds: Mapping[Series, Spread], patients: Mapping[Series, Estimate]
) -> None:
    """Show the finding, the figure and the table; intervals over test patients that are missing are being computed."""
    row = METRICS[metric]
    order = sorted(seeds, key=lambda name: seeds[name].mean, reverse=row.higher_is_better)
    best = f"{seeds[order[0]].mean:.3f} with {view.title(order[0])}"
    others = ", ".join(f"{seeds[name].mean:.3f} with {view.title(name)}" for name in order[1:])
    size = f"{view.size} labeled images per class" if view.size else "all labeled images"
    dots, rows = [], []
    for name in order:
        spread, estimate = seeds[name], patients.get(name)
        over_patients = estimate.ends if estimate else WAITING
        low, high = (estimate.low, estimate.high) if estimate else (spread.mean, spread.mean)
        dots.append(
            charts.Dot(
                view.title(name), charts.style_of(*name), spread.mean, low, high, (spread.low, spread.high),
                f"{spread.mean:.3f}<br>({over_patients})",
            )
        )  # fmt: skip
        rows.append(
            {
                "Series": view.title(name), row.title: f"{spread.mean:.3f}", "Other test patients": over_patients,
                "Other training images": spread.ends, "Seeds": spread.seeds,
            }
        )  # fmt: skip
    waiting = "" if patients else "-seeds"
    with place.container():
        st.write(
            f"**{row.title} with {size}: {escape(best)}**"
            + (f"; {escape(others)}." if others else ".")
            + ("" if row.higher_is_better else " Lower is better.")
        )
        alt = f"{row.title} of each series with its intervals; the table below has the numbers."
        charts.show_figure(charts.dot_plot(dots, row.title), key=f"compare_metric_chart{waiting}", alt=alt)
        table(rows, f"{row.title} of each series with intervals", f"{view.file}-{metric}{waiting}")


def _all_metrics(view: View, summaries: Mapping[Series, Mapping[str, SeriesEstimate]]) -> None:
    """Show every metric of every series, and a file with all intervals."""
    rows = [
        {
            "Series": view.title(name),
            "Metric": METRICS[metric].title,
            "Value": f"{row.value:.3f}",
            "Other test patients": row.patients.ends,
        }
        for metric in METRICS
        for name, by_metric in summaries.items()
        for row in [by_metric[metric]]
    ]
    table(rows, "Every metric of each series with intervals")
    numbers = [
        {
            "dataset": view.dataset, "train_size": view.size or "full", **name._asdict(),
            "finding": "" if view.finding is None else view.first.labels[view.finding], "seeds": len(view.runs[name]),
            "leaks": max(meta.leaks for _, meta in view.runs[name]), "metric": metric, "value": row.value,
            "patients_low": row.patients.low, "patients_high": row.patients.high, "seeds_low": row.seeds.low,
            "seeds_high": row.seeds.high, "both_low": row.both.low, "both_high": row.both.high,
            "seeds_sd": row.seeds.sd, "lowest_seed": row.seeds.lowest, "highest_seed": row.seeds.highest,
        }
        for name, by_metric in summaries.items()
        for metric, row in by_metric.items()
    ]  # fmt: skip
    download("All metrics, all intervals (CSV)", pd.DataFrame(numbers).round(6), view.file)


def _report(view: View) -> None:
    """Show the classification report, averaged over seeds, with every run as files."""
    rows = [
        {
            "dataset": view.dataset, "train_size": view.size or "full", **name._asdict(), "seed": run.meta.seed,
            "leaks": run.meta.leaks, **row,
        }
        for name, runs in view.runs.items()
        for run in runs
        for row in cache.report(run)
    ]  # fmt: skip
    by_run = pd.DataFrame(rows)
    keys = ["model", "strategy", "variant"]
    mean = by_run.groupby([*keys, "class"], sort=False)[["images", *REPORTED]].mean()
    shown = mean.reset_index().replace({"class": dict(zip(view.first.labels, view.first.titles, strict=True))})
    shown.insert(0, "Series", [view.title(Series(*key)) for key in shown[keys].to_numpy()])
    shown = shown.drop(columns=keys).rename(
        columns={"class": "Class", "images": "Test images", **{name: METRICS[name].title for name in REPORTED}}
    )
    table(
        shown, "Classification report: each class against the rest, by series",
        formats={METRICS[name].title: "%.3f" for name in REPORTED},
    )  # fmt: skip
    st.caption("Each class or finding against the rest, mean over seeds. The files contain every run.")
    left, right = st.columns(2)
    download("Classification report (CSV)", by_run.round(6), f"{view.file}-report", left, width="stretch")
    content = json.loads(by_run.round(6).to_json(orient="records"))
    right.download_button(
        "Classification report (JSON)", json.dumps(content, indent=1).encode(), f"{view.file}-report.json",
        "application/json", width="stretch",
    )  # fmt: skip
