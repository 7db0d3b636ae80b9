"""Compare: each series on its internal and on an external test set, at the same operating point."""

import streamlit as st

from core.analysis.external import evaluated, external_sets, refusals
from core.data import DATASETS
from core.data.specs import find_dataset
from core.metrics import METRICS
from core.ui import address, cache, charts, external
from core.ui.compare import metric_charts
from core.ui.compare.view import View
from core.ui.pickers import pick_metric
from core.ui.tables import table
from core.ui.text import escape, show_list


def show(view: View) -> None:
    """Show the chart, sentences and table of an external set for one metric; then all metrics by view."""
    all_runs = [run for runs in view.runs.values() for run in runs]
    names = external_sets(all_runs)
    for series, runs in view.runs.items():
        external.show_refused(refusals(runs), view.title(series))
    if not names:
        st.write(
            "**None of these runs was evaluated on an external test set**, so these results say nothing about other "
            "hospitals. A run is evaluated on an external test set while it is trained."
        )
        for row in find_dataset(view.dataset).external if view.dataset in DATASETS else ():
            st.write(f"- Suitable: {escape(DATASETS[row.dataset].title)} ({escape(', '.join(row.classes))}).")
        st.page_link("pages/train.py", label="Train runs", icon=":material/model_training:")
        return

    # Choose an external set and a metric, and evaluate the series that were tested on it
    titles = {name: record.title for _, meta in all_runs for name, record in meta.external.items()}
    left, right = st.columns(2)
    bound = address.choice("test", f"compare_external_{view.dataset}", names)
    name = left.selectbox("External test set", format_func=titles.__getitem__, **bound)
    with right:
        metric = pick_metric("compare_external_metric")
    results = {
        series: cache.external_results(tested, name)
        for series, runs in view.runs.items()
        if (tested := evaluated(runs, name))
    }
    if without := [view.title(series) for series in view.runs if series not in results]:
        st.caption(f"Not evaluated on this set: {escape('; '.join(without))}.")
    external.show_facts(next(iter(results.values()))[0])
    if view.finding is not None:
        st.caption("These results cover all shared classes, whichever class is chosen above.")

    # Answer for one metric in sentences, a chart and a table
    titled = {view.title(series): views for series, views in results.items()}
    show_list(f"{title}: {views[0].sentence(metric)}" for title, views in titled.items())
    estimates = {
        view.title(series): (charts.style_of(*series), views[0].own[metric], views[0].external[metric])
        for series, views in results.items()
    }
    alt = f"{METRICS[metric].title} on the internal and on the external test set; described in words above."
    charts.show_figure(metric_charts.own_and_external(estimates, metric), key="compare_external_chart", alt=alt)
    st.caption(external.CAPTION)
    table(external.frame(titled, (metric,)), "Internal test and external test", f"{view.file}-external")
    if any(row.view for views in results.values() for row in views):
        st.caption(external.VIEWS)

    # Compare with radiologists' readings of the same images, where a set has them
    for series in results:
        if (reading := cache.radiologist_reading(view.runs[series], name)) is not None:
            st.write(f"**{escape(view.title(series))}**")
            external.show_radiologist(reading)
    with st.expander("All metrics"):
        complete = external.frame(titled, tuple(METRICS))
        table(complete, "All metrics, internal test and external test", f"{view.file}-elsewhere")
