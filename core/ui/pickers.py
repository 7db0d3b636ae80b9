"""Choices that pages share: the data set among those with stored runs, and the series of a data set."""

from __future__ import annotations

import streamlit as st

from core.checkpoints import RunMeta, Store
from core.models import MODELS

Series = tuple[str, str]


def dataset_with_runs(store: Store, key: str) -> str:
    """Picks a data set; says what to do and stops the page where no run is stored."""
    titles = {meta.dataset: meta.dataset_title for meta in store.metas()}
    if not titles:
        st.info(
            "No results are stored yet. Make some: "
            "`python -m trainer curve --dataset phantom --sizes 10,25 --seeds 0,1`",
            icon=":material/model_training:",
        )
        st.stop()
    chosen: str = st.selectbox("Data set", list(titles), format_func=titles.__getitem__, key=key)
    metas = store.metas(chosen)
    if metas[0].synthetic:
        st.warning("This data set is synthetic: its images are drawn by the program.", icon=":material/science:")
    hashes = {meta.split_hash for meta in metas}
    if len(hashes) > 1:
        st.error(
            "The stored runs of this data set come from different splits or images and cannot be compared. "
            f"Split hashes: {', '.join(sorted(h[:8] for h in hashes))}. Remove the runs that do not belong.",
        )
        st.stop()
    return chosen


def by_series(metas: list[RunMeta]) -> dict[Series, list[RunMeta]]:
    """Runs by (model, strategy), in the order of the registry."""
    order = list(MODELS)
    known = sorted((m for m in metas if m.model in MODELS), key=lambda m: (order.index(m.model), m.strategy, m.seed))
    found: dict[Series, list[RunMeta]] = {}
    for meta in known:
        found.setdefault((meta.model, meta.strategy), []).append(meta)
    return found
