"""Compare: each series on its own test images and on an external test set, at the same operating point."""

from __future__ import annotations

import streamlit as st

from core.analysis.external import evaluated, external_sets, refusals
from core.metrics import METRICS
from core.ui import charts, external
from core.ui.compare.view import View
from core.ui.pickers import keep_possible
from core.ui.tables import table
from core.ui.text import escape


def show(view: View) -> None:
    """Table, chart and sentences of one external set and metric; then every metric, view by view."""
    every = [run for runs in view.runs.values() for run in runs]
    names = external_sets(every)
    for series, runs in view.runs.items():
        external.refused(refusals(runs), view.title(series))
    if not names:
        st.info(
            "None of these runs was evaluated on an external test set. Images of other patients, in one folder a "
            "class, serve as one:"
        )
        st.code(f"python -m trainer curve --dataset {view.dataset} --external FOLDER", language=None)
        return
    titles = {name: record.title for _, meta in every for name, record in meta.external.items()}
    left, right = st.columns(2)
    key = f"compare_external_{view.dataset}"
    keep_possible(key, names)
    with left:
        name = st.selectbox("External test set", names, format_func=titles.__getitem__, key=key)
    with right:
        metric = st.selectbox(
            "Metric", list(METRICS), format_func=lambda one: METRICS[one].title, key="compare_external_metric"
        )
    found = {
        series: external.compared(there, name) for series, runs in view.runs.items() if (there := evaluated(runs, name))
    }
    if without := [view.title(series) for series in view.runs if series not in found]:
        st.caption(f"Not evaluated there: {escape('; '.join(without))}.")
    external.facts(next(iter(found.values()))[0])
    if view.finding is not None:
        st.caption("All shared classes count here, whichever class was chosen above.")
    whole = {view.title(series): (charts.style_of(*series), of[0]) for series, of in found.items()}
    charts.draw(
        external.chart(whole, metric), key="compare_external_chart",
        alt=f"{METRICS[metric].title} on the own test images and elsewhere; said in words below.",
    )  # fmt: skip
    st.markdown("\n".join(f"- {escape(title)}: {escape(one.sentence(metric))}" for title, (_, one) in whole.items()))
    st.caption(external.CAPTION)
    titled = {view.title(series): of for series, of in found.items()}
    table(external.frame(titled, (metric,)), "Own test and elsewhere", f"{view.file}-external")
    if any(one.view for of in found.values() for one in of):
        st.caption(external.VIEWS)
    for series in found:
        if (read := external.read_by_radiologist(view.runs[series], name)) is not None:
            st.write(f"**{escape(view.title(series))}**")
            external.radiologist(read)
    with st.expander("Every metric"):
        table(external.frame(titled, tuple(METRICS)), "Every metric, own test and elsewhere", f"{view.file}-elsewhere")
