"""Learning curves: what each family reaches with how many labelled images."""

import pandas as pd
import streamlit as st

from core.metrics import METRICS
from core.results import by_series
from core.ui import cached, charts, frame, pickers, words

frame.require(__file__)

ONE_SIDED = ("sensitivity", "specificity", "precision")

st.title("Learning curves")
st.write("What does each family reach with how many labelled images? All families learn from the same images.")

store = cached.store()
words.problems(store)
left, middle, right = st.columns([3, 2, 2], vertical_alignment="top")
with left:
    runs = pickers.comparable_runs(store, "curves")
dataset, series = runs[0].dataset, by_series(runs)
with middle:
    metric = st.selectbox("Metric", list(METRICS), format_func=lambda name: METRICS[name].title, key="curves_metric")
with right:
    seeds = st.toggle("Show single seeds", key="curves_seeds")
points = {name: series[name] for name in pickers.pick_series(series, "curves")}


def table() -> pd.DataFrame:
    """Mean, standard deviation and range over seeds, a row for each series and size."""
    rows = []
    for name, metas in points.items():
        for size in sorted({meta.train_size or 0 for meta in metas}):
            here = [meta for meta in metas if (meta.train_size or 0) == size]
            values = pd.Series([meta.metrics[metric] for meta in here])
            rows.append(
                {
                    "Series": charts.series_title(*name),
                    "Images per class": str(size or "all"),
                    "Seeds": len(here),
                    "Mean": values.mean(),
                    "SD over seeds": values.std(),
                    "Lowest": values.min(),
                    "Highest": values.max(),
                    "Classes short": ", ".join(sorted({label for meta in here for label in meta.short})) or "none",
                }
            )
    return pd.DataFrame(rows)


summary = table()
said = "Higher is better." if METRICS[metric].higher_is_better else "Lower is better."
if metric in ONE_SIDED:
    said += " On its own it can be had for nothing, by calling every image the same: read it with its counterpart."
else:
    best = summary.loc[(summary["Mean"] if METRICS[metric].higher_is_better else -summary["Mean"]).idxmax()]
    said += f" Best mean: {best['Series']} with {best['Images per class']} images per class, {best['Mean']:.3f}."
st.write(f"**{METRICS[metric].title}.** {METRICS[metric].meaning} {said}")
charts.draw(
    charts.learning_curve(points, metric, seeds),
    key="curves_chart",
    alt=f"{METRICS[metric].title} against labelled images per class for {len(points)} series; the table below holds "
    "the same numbers.",
)
st.caption(
    "Line: mean over seeds, each a different draw of training images. Band: lowest to highest seed. Measured on the "
    "same untouched test images, at the operating point fitted inside each training subset. Hollow marker: a class had "
    "fewer images than asked for and gave all it has."
)
st.dataframe(
    summary, hide_index=True, width="stretch", alt=f"{METRICS[metric].title} by series and size",
    column_config={
        name: st.column_config.NumberColumn(format="%.3f") for name in ("Mean", "SD over seeds", "Lowest", "Highest")
    },
)  # fmt: skip
every = pd.DataFrame(
    [
        {"dataset": m.dataset, **name._asdict(), "train_size": m.train_size or "full", "seed": m.seed,
         "subset_hash": m.subset_hash, "run": m.run, **m.metrics}
        for name, metas in points.items() for m in metas
    ]
)  # fmt: skip
first, second = st.columns(2)
named = summary.assign(Dataset=dataset, Metric=metric).round(6)
for place, label, content, name in (
    (first, "Download this table (CSV)", named, f"{dataset}-{metric}.csv"),
    (second, "Download every run (CSV)", every, f"{dataset}-runs.csv"),
):
    as_file = content.to_csv(index=False).encode("utf-8-sig")
    place.download_button(label, as_file, name, "text/csv", width="stretch")
with st.expander("Are the subsets the same for all families?"):
    subsets = every.groupby(["train_size", "seed"])["subset_hash"].agg(["nunique", "first", "size"]).reset_index()
    subsets.columns = ["Images per class", "Seed", "Different subsets", "Hash", "Runs"]
    subsets["Hash"] = subsets["Hash"].str[:12]
    same = bool((subsets["Different subsets"] == 1).all())
    st.write("Yes: one subset for each size and seed." if same else "**No**: some runs differ in their subsets.")
    st.dataframe(subsets, hide_index=True, width="stretch", alt="Subset hashes by size and seed")
