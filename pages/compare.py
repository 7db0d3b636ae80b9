"""Compare: the families at one training-set size, with intervals, confusion matrices and ROC curves."""

import numpy as np
import pandas as pd
import streamlit as st
from sklearn.metrics import confusion_matrix

from core.errors import LowshotError
from core.metrics import METRICS, measure
from core.results import by_series
from core.ui import cached, charts, frame, pickers, words

frame.require(__file__)

st.title("Compare")
st.write("The families at one size of the training set, on the same test images.")

store = cached.store()
words.problems(store)
left, right = st.columns(2)
with left:
    metas = pickers.comparable_runs(store, "compare")
dataset = metas[0].dataset
sizes = sorted({meta.train_size for meta in metas if meta.train_size is not None})
sizes_shown = [*sizes, *([None] if any(meta.train_size is None for meta in metas) else [])]
with right:
    size = st.select_slider(
        "Labelled training images per class", sizes_shown, value=sizes_shown[-1], key=f"compare_size_{dataset}",
        format_func=lambda n: "all" if n is None else str(n),
    )  # fmt: skip
series = by_series([meta for meta in metas if meta.train_size == size])
shown = pickers.pick_series(series, "compare")
of_all = series[shown[0]][0]
finding = None
if of_all.multilabel:
    finding = st.selectbox(
        "Finding", [None, *range(len(of_all.labels))], key=f"compare_finding_{dataset}",
        format_func=lambda k: "Mean over all that can be judged" if k is None else of_all.labels[k],
    )  # fmt: skip
folders = {meta.run: folder for folder, meta in store.runs.items()}

st.subheader("Metrics")
seed_of_interval = st.segmented_control(
    "Interval",
    ["seeds", "images"],
    default="seeds",
    format_func={"seeds": "Over seeds", "images": "Over test images"}.__getitem__,
    key="compare_interval",
    help="Over seeds: how much the draw of training images matters. Over test images: how sure the mean over "
    "these seeds is, by bootstrap with patients drawn whole. They answer different questions and are never mixed.",
)
try:
    scores = {name: [cached.scores(folders[meta.run], meta) for meta in series[name]] for name in shown}
    if finding is not None:
        if finding not in scores[shown[0]][0].judged():
            st.info(f"{words.escape(of_all.labels[finding])} is not both present and absent among the test images.")
            st.stop()
        scores = {name: [one.known_finding(finding) for one in scores[name]] for name in shown}
    intervals = {
        name: cached.estimates([(folders[meta.run], meta) for meta in series[name]], finding)
        for name in shown
        if seed_of_interval == "images"
    }
except LowshotError as error:
    st.error(words.escape(str(error)))
    st.stop()
rows, numbers = [], []
for name in shown:
    row = {"Series": charts.series_title(*name), "Seeds": len(series[name])}
    for metric in METRICS.values():
        if seed_of_interval == "images":
            estimate = intervals[name][metric.name]
            value, low, high = estimate.value, estimate.low, estimate.high
        else:
            values = [
                meta.metrics[metric.name] if finding is None else measure(one, metric.name)[metric.name]
                for meta, one in zip(series[name], scores[name], strict=True)
            ]
            value, low, high = float(np.mean(values)), min(values), max(values)
        row[metric.title] = f"{value:.3f} ({low:.3f} to {high:.3f})"
        numbers.append(
            {"dataset": dataset, "train_size": size or "full", **name._asdict(),
             "finding": "" if finding is None else of_all.labels[finding],
             "seeds": len(series[name]), "metric": metric.name, "value": value, "low": low, "high": high,
             "interval_over": seed_of_interval}
        )  # fmt: skip
    rows.append(row)
metrics = pd.DataFrame(rows)
st.dataframe(
    metrics, hide_index=True, width="stretch", alt="Metrics of each series with intervals; it scrolls sideways",
    column_config={"Series": st.column_config.Column(pinned=True)},
)  # fmt: skip
positive = f" Positive class: {words.escape(of_all.labels[of_all.positive])}." if of_all.positive is not None else ""
count = len(scores[shown[0]][0].labels)
st.caption(
    f"n = {count} test images.{positive} At the operating point fitted inside each training subset. "
    + (
        "Mean over seeds (95% interval over test images)."
        if seed_of_interval == "images"
        else "Mean (lowest to highest seed)."
    )
)
numeric = pd.DataFrame(numbers).round(6).to_csv(index=False).encode("utf-8-sig")
st.download_button("Download (CSV)", numeric, f"{dataset}-n{size or 'full'}.csv", "text/csv")

if of_all.multilabel and finding is None:
    st.caption("Choose a finding above for its confusion matrices and ROC curves.")
    st.stop()
labels = of_all.labels if finding is None else ("Absent", "Present")

st.subheader("Confusion matrices")
seeds = sorted({meta.seed for name in shown for meta in series[name]})
seed = st.segmented_control("Seed", seeds, default=seeds[0], key="compare_seed") if len(seeds) > 1 else seeds[0]
columns = st.columns(min(3, len(shown)))
for index, name in enumerate(shown):
    runs = [(meta, s) for meta, s in zip(series[name], scores[name], strict=True) if meta.seed == seed]
    with columns[index % len(columns)]:
        if not runs:
            st.caption(f"{charts.series_title(*name)}: no run with seed {seed}.")
            continue
        meta, one = runs[0]
        counts = confusion_matrix(one.labels, one.decisions, labels=range(len(labels)))
        charts.draw(
            charts.confusion(counts, labels, charts.series_title(*name)),
            key=f"compare_confusion_{index}",
            alt=f"Confusion matrix of {charts.series_title(*name)}: "
            + "; ".join(f"{label}: {counts[i, i]} of {counts[i].sum()} right" for i, label in enumerate(labels)),
        )

if scores[shown[0]][0].positive is not None:
    st.subheader("ROC curves")
    charts.draw(
        charts.roc(scores),
        key="compare_roc",
        alt="ROC curves of every seed with operating points marked; areas are in the table above.",
    )
    st.caption("One curve a seed; the marker is the operating point fitted inside that seed's training subset.")
