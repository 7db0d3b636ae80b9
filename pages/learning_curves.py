"""Learning curves: performance of each family against the number of labeled images, and label efficiency."""

import math

import numpy as np
import pandas as pd
import streamlit as st

from core.analysis.comparison import curves_over_seeds
from core.analysis.external import evaluated
from core.metrics import METRICS, between_seeds
from core.runs.scores import decision_rule
from core.runs.series import runs_by_series
from core.ui import address, app_frame, cache, charts, pickers, text
from core.ui.compare import metric_charts
from core.ui.learning_curves import label_efficiency
from core.ui.tables import download, table

app_frame.require(__file__)

SEEDS, PATIENTS = "Other training images", "Other test patients"  # what varies in an interval
ONE_SIDED = ("sensitivity", "specificity", "precision")
MEASURED, BOUGHT = "Measured", "Label efficiency"
TOGETHER, PANELS = "One panel", "A panel per series"
LAYOUTS = {TOGETHER: "one", PANELS: "panels"}  # and their names in an address
MANY = 4  # with more series, bands overlap

st.title("Learning curves")
st.write("Performance by number of labeled training images. All families are trained on the same images.")

store = cache.store()
text.show_problems(store)
left, right = st.columns([3, 2], vertical_alignment="top")
with left:
    metas = pickers.comparable_runs(store, "curves")
dataset, series = metas[0].dataset, runs_by_series(store, metas)
with right:
    metric = pickers.pick_metric("curves_metric")
    measure = METRICS[metric]
    finding = pickers.pick_finding(metas[0], "curves")
points = {name: series[name] for name in pickers.pick_series(series, "curves")}
external_set = pickers.pick_test_set(points, "curves") if finding is None else ""
if external_set:
    points = {name: on_it for name, runs in points.items() if (on_it := evaluated(runs, external_set))}
at_sizes = {  # 0 stands for all training images, last
    (name, size): at_size
    for name, runs in points.items()
    for size in sorted({run.meta.train_size or 0 for run in runs}, key=lambda size: size or math.inf)
    if (at_size := [run for run in runs if (run.meta.train_size or 0) == size])
}
first, second, third = st.columns([2, 2, 1], vertical_alignment="bottom")
section = address.segments(
    "Show", "section", "curves_section", (MEASURED, BOUGHT), text=address.slug, place=first,
    disabled=bool(external_set),
    help="Fitted curves take a moment the first time: every run is evaluated on resampled test images.",
)  # fmt: skip
usual = PANELS if len(points) > MANY else TOGETHER
layout = address.segments("Layout", "layout", "curves_layout", LAYOUTS, usual, LAYOUTS.__getitem__, second)
with third:
    section = MEASURED if external_set else section
    seeds = st.toggle("Individual seeds", disabled=section == BOUGHT, **address.switch("seeds", "curves_seeds"))
    ready = cache.are_evaluated(at_sizes.values(), finding)
    patients = st.toggle(
        "Test patients", value=ready, **address.switch("patients", "curves_patients", ready),
        disabled=section == BOUGHT or bool(external_set),
        help="Adds intervals over test patients to the table. The first time, every run is evaluated on resampled test "
        "patients, which takes up to a few seconds per run.",
    )  # fmt: skip
    patients = patients and not external_set
titles = {name: pickers.title_of(name, runs) for name, runs in points.items()}
with text.stop_on_error():
    values = {
        name: [meta.external[external_set].metrics[metric] for _, meta in runs]
        if external_set
        else cache.values(runs, metric, finding)
        for name, runs in points.items()
    }
measured = {titles[name]: metric_charts.Measured.of(name, runs, values[name]) for name, runs in points.items()}

if section == BOUGHT:
    place = st.empty()
    with text.stop_on_error():
        ready = cache.are_fitted(points, metric, finding)
        if not ready and (quick := curves_over_seeds(points, values, metric)):  # curves first, then their bands
            by_title = {titles[name]: (measured[titles[name]], fit) for name, fit in quick.items()}
            with place.container():
                figure = metric_charts.fitted_curves(by_title, metric, None, layout == PANELS)
                alt = f"Fitted curves of {measure.title}, before test images are resampled."
                charts.show_figure(figure, key="curves_first", alt=alt)
                st.caption("Bands: other training images. Those over other test patients too are being computed.")
        fits = cache.fitted_curves(points, metric, finding)
    place.empty()
    named = {titles[name]: fit for name, fit in fits.items()}
    of = "" if finding is None else f"-{metas[0].labels[finding]}"
    label_efficiency.show(measured, named, metric, layout == PANELS, f"{dataset}-{metric}{of}")
    st.stop()


def summarize() -> pd.DataFrame:
    """Return a row per series and size: mean, intervals over seeds and test patients, and the spread over seeds."""
    if patients and not cache.are_evaluated(at_sizes.values(), finding):
        cache.evaluate_runs(at_sizes.values(), finding)
    rows = []
    for (name, size), runs in at_sizes.items():
        of_run = dict(zip((run.folder for run in points[name]), values[name], strict=True))
        spread = between_seeds([of_run[run.folder] for run in runs], measure)
        class_of = dict(zip(metas[0].labels, metas[0].titles, strict=True))
        short = sorted({class_of.get(label, label) for _, meta in runs for label in meta.short})
        over_patients = {PATIENTS: cache.summaries(runs, finding=finding)[metric].patients.ends} if patients else {}
        rows.append({
            "Series": titles[name], "Images per class": str(size or "all"), measure.title: spread.mean,
            SEEDS: spread.ends, **over_patients, "Seeds": spread.seeds, "SD over seeds": spread.sd,
            "Lowest": spread.lowest, "Highest": spread.highest, "Classes short": ", ".join(short) or "none",
        })  # fmt: skip
    return pd.DataFrame(rows)


summary = summarize()
if shared := set.intersection(*(set(row.values) for row in measured.values())):
    at = max(shared)
    means = {title: float(np.mean(row.values[at])) for title, row in measured.items()}
    order = sorted(means, key=means.__getitem__, reverse=measure.higher_is_better)
    listed = ", ".join(f"{means[title]:.3f} with {text.escape(title)}" for title in order)
    st.write(f"**{measure.title} with {at:g} labeled images per class: {listed}.**")
higher, highest = ("Higher", "highest") if measure.higher_is_better else ("Lower", "lowest")
reading = f"{higher} is better."
if metric in ONE_SIDED:
    reading += " A model can maximize it by assigning all images to one class: read it together with its counterpart."
else:
    column = summary[measure.title]
    best = summary.loc[column.idxmax() if measure.higher_is_better else column.idxmin()]
    optimistic = f" ({highest} of {len(summary)} cells on the test set, so slightly optimistic)"
    reading += (
        f" Best mean: {text.escape(best['Series'])} with {best['Images per class']} images per class, "
        f"{best[measure.title]:.3f}{optimistic if len(summary) > 1 else ''}."
    )
st.write(f"**{measure.title}.** {measure.meaning} {reading}")
figure = metric_charts.learning_curves(measured, metric, seeds, layout == PANELS)
of = f"{len(points)} series; the table below contains the same numbers."
charts.show_figure(figure, key="curves_chart", alt=f"{measure.title} against labeled images per class for {of}")
st.caption(
    "Line: mean over seeds; each seed draws a different training subset. Band: 95% interval of the mean over seeds "
    "(Student's t) for fixed test patients; none for a single seed. The table lists the same interval and, if switched "
    "on above, the interval over test patients for fixed seeds. **Compare** tests whether two families differ or are "
    "equivalent; bands cannot show this. All runs are evaluated on the same test images"
    f"{' of the external set, on the classes that both sets share' if external_set else ', held out from training'}. "
    f"{decision_rule(metas[0], finding)} Hollow marker: a class had fewer images than requested and all of them were "
    "used."
)
table(
    summary, f"{measure.title} by series and size",
    formats=dict.fromkeys(summary.select_dtypes(float), "%.3f"),
    column_order=[name for name in summary.columns if name not in ("SD over seeds", "Lowest", "Highest")],
)  # fmt: skip
all_runs = pd.DataFrame(
    [
        {"dataset": m.dataset, **name._asdict(), "train_size": m.train_size or "full", "seed": m.seed,
         "leaks": m.leaks, "subset_hash": m.subset_hash, "run": m.run, **m.metrics}
        for name, runs in points.items() for _, m in runs
    ]
)  # fmt: skip
first, second = st.columns(2)
named = summary.assign(Dataset=dataset, Metric=metric, **{"Test set": external_set or "own"}).round(6)
download("Download this table (CSV)", named, f"{dataset}-{metric}", first, width="stretch")
download("Download all runs (CSV)", all_runs, f"{dataset}-runs", second, width="stretch")
with st.expander("Are the subsets the same for all families?"):
    subsets = all_runs.groupby(["train_size", "seed"])["subset_hash"].agg(["nunique", "first", "size"]).reset_index()
    subsets.columns = ["Images per class", "Seed", "Different subsets", "Hash", "Runs"]
    subsets["Hash"] = subsets["Hash"].str[:12]
    same = bool((subsets["Different subsets"] == 1).all())
    st.write("Yes: one subset for each size and seed." if same else "**No**: some runs differ in their subsets.")
    table(subsets, "Subset hashes by size and seed", f"{dataset}-subsets")
