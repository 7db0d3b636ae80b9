"""Choices that pages share."""

from __future__ import annotations

from collections import Counter

import streamlit as st

from core.checkpoints import RunMeta, Store
from core.results import Series
from core.ui import charts
from core.ui.words import escape


def comparable_runs(store: Store, page: str) -> list[RunMeta]:
    """Picks a data set and, where its runs come from several splits, one of them: only such runs are compared.

    Says what to do and stops the page where no run is stored.

    Args:
        store: the run store.
        page: prefix of the widgets' keys.
    """
    titles = {meta.dataset: meta.dataset_title for meta in store.metas()}
    if not titles:
        st.info(
            "No results are stored yet. Make some: "
            "`.venv/bin/python -m trainer curve --dataset phantom --sizes 10,25 --seeds 0,1`",
            icon=":material/model_training:",
        )
        st.stop()
    chosen: str = st.selectbox("Data set", list(titles), format_func=titles.__getitem__, key=f"{page}_dataset")
    metas = store.metas(chosen)
    leaking = {meta.split_hash for meta in metas if meta.leaks}
    counted = Counter(meta.split_hash for meta in metas).most_common()
    splits = sorted(counted, key=lambda row: row[0] in leaking)
    split = splits[0][0]
    said = {name: f"{name[:8]} ({runs} runs{', leaks allowed' if name in leaking else ''})" for name, runs in splits}
    if len(splits) > 1:
        st.warning("Stored runs of this data set come from different images or splits and are not mixed.")
        split = st.selectbox(
            "Split", [name for name, _ in splits], key=f"{page}_split_{chosen}",
            format_func=said.__getitem__,
        )  # fmt: skip
    shown = [meta for meta in metas if meta.split_hash == split]
    if shown[0].synthetic:
        st.warning("This data set is synthetic: its images are drawn by the program.", icon=":material/science:")
    marked = [meta for meta in shown if meta.leaks]
    if marked:
        st.error(
            f"{len(marked)} of these {len(shown)} runs were made with leaks allowed: up to "
            f"{max(meta.leaks for meta in marked)} training or validation images have a copy, or an image of the same "
            "patient, in another part. Their figures are too good.",
            icon=":material/warning:",
        )
    for note in shown[0].notes:
        st.caption(escape(note))
    return shown


def pick_series(series: dict[Series, list[RunMeta]], page: str) -> list[Series]:
    """Picks the series to show: by default the comparison proper, without variants. Stops the page where none is."""
    usual = [one for one in series if not one.variant]
    shown = st.multiselect(
        "Series", list(series), default=usual or list(series), format_func=lambda one: charts.series_title(*one),
        key=f"{page}_series_{next(iter(series.values()))[0].dataset}" if series else None,
    )  # fmt: skip
    if not shown:
        st.info("Pick at least one series.")
        st.stop()
    return shown
