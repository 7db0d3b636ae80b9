"""Choices and warnings that pages share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import streamlit as st

from core.analysis.shortcuts import STEPS, shortcuts_of, warning_of
from core.errors import LowshotError
from core.files import sha256_of
from core.runs import RunMeta, Store
from core.runs.series import Run, Series, comparison_proper
from core.ui import charts, pickers
from core.ui.text import LEAK_MARK, escape

KEPT = (
    "compare_",
    "curves_",
    "data_set",
    "data_section",
)  # of the keys of widgets that hold a choice; none of them is a button
EVERY = -1  # instead of None: kept, that would be shown as no choice


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
    keep_possible(f"{page}_dataset", list(titles))
    chosen: str = st.selectbox("Data set", list(titles), format_func=titles.__getitem__, key=f"{page}_dataset")
    metas = store.metas(chosen)
    leaking = {meta.split_hash for meta in metas if meta.leaks}
    counted = Counter(meta.split_hash for meta in metas).most_common()
    splits = sorted(counted, key=lambda row: row[0] in leaking)
    split = splits[0][0]
    said = {name: f"{name[:8]} ({runs} runs{', leaks allowed' if name in leaking else ''})" for name, runs in splits}
    if len(splits) > 1:
        st.warning("Stored runs of this data set come from different images or splits and are not mixed.")
        keep_possible(f"{page}_split_{chosen}", [name for name, _ in splits])
        split = st.selectbox(
            "Split", [name for name, _ in splits], key=f"{page}_split_{chosen}",
            format_func=said.__getitem__,
        )  # fmt: skip
    shown = [meta for meta in metas if meta.split_hash == split]
    if shown[0].synthetic:
        st.warning("This data set is synthetic: its images are computer-generated.", icon=":material/science:")
    pickers.warn(store, chosen, split)
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


def title_of(name: Series, runs: Sequence[Run]) -> str:
    """A series in words, marked where any of its runs was made with leaks allowed."""
    return charts.series_title(*name) + (f" {LEAK_MARK}" if any(meta.leaks for _, meta in runs) else "")


def pick_size(metas: Sequence[RunMeta], page: str) -> int | None:
    """Picks one of the sizes of the training set at which runs are stored; None for all training images."""
    sizes: list[int | None] = [*sorted({meta.train_size for meta in metas if meta.train_size is not None})]
    sizes += [None] if any(meta.train_size is None for meta in metas) else []
    key = f"{page}_size_{metas[0].dataset}"
    keep_possible(key, sizes)
    return st.select_slider(
        "Labelled training images per class", sizes, value=sizes[-1], key=key,
        format_func=lambda n: "all" if n is None else str(n),
    )  # fmt: skip


def pick_seed(seeds: Sequence[int], page: str, title: str = "Seed") -> int:
    """Picks one of the seeds, where there are several."""
    if len(seeds) == 1:
        return seeds[0]
    key = f"{page}_seed"
    keep_possible(key, seeds)
    chosen: int = st.segmented_control(title, seeds, default=seeds[0], key=key, required=True)
    return chosen


def pick_finding(of: RunMeta, page: str) -> int | None:
    """Picks one finding to judge, or one class against the rest, of several; None for the task as it is."""
    if of.positive is not None:
        return None
    every = "Mean over all that can be judged" if of.multilabel else "All classes"
    rest = "" if of.multilabel else " against the rest"
    chosen = st.selectbox(
        "Finding" if of.multilabel else "Class", [EVERY, *range(len(of.labels))], key=f"{page}_finding_{of.dataset}",
        format_func=lambda k: every if k == EVERY else f"{of.titles[k]}{rest}",
    )  # fmt: skip
    return None if chosen == EVERY else chosen


def pick_series(series: Mapping[Series, Sequence[Run]], page: str) -> list[Series]:
    """Picks the series to show: by default the comparison proper, without variants. Stops the page where none is.

    Remembered is which series were added or taken away, not which are shown: one that is not offered for a while, as at
    another size, is there again afterwards.
    """
    usual = comparison_proper(series) or list(series)
    key = f"{page}_series_{next(iter(series.values()))[0][1].dataset}" if series else f"{page}_series"
    picked: dict[Series, bool] = st.session_state.setdefault(f"{key}_picked", {})
    wanted = [one for one in series if picked.get(one, one in usual)]
    if not wanted and st.session_state.get(key) != []:  # none of those offered, though not emptied by hand
        wanted = usual
    if key not in st.session_state or set(st.session_state[key]) != set(wanted):
        st.session_state[key] = wanted
    shown = st.multiselect(
        "Series", list(series), format_func=lambda one: title_of(one, series[one]), key=key,
        on_change=_remember, args=(key, wanted),
    )  # fmt: skip
    if not shown:
        st.info("Pick at least one series.")
        st.stop()
    return [one for one in series if one in shown]


def _remember(key: str, before: Sequence[Series]) -> None:
    """Keeps which series were just added or taken away."""
    now = st.session_state[key]
    st.session_state[f"{key}_picked"] |= {one: one in now for one in {*before} ^ {*now}}


def keep_possible(key: str, options: Sequence[object]) -> None:
    """Forgets of a kept choice what is no longer offered; a choice of nothing that is offered is made anew."""
    chosen = st.session_state.get(key)
    if isinstance(chosen, list) and chosen:
        still = [one for one in chosen if one in options]
        if not still:
            del st.session_state[key]
        elif still != chosen:
            st.session_state[key] = still
    elif key in st.session_state and not isinstance(chosen, list) and chosen not in options:
        del st.session_state[key]


def keep_choices() -> None:
    """Keeps what was chosen on the pages that are not shown; without it a widget forgets when its page is left."""
    for key in [key for key in st.session_state if str(key).startswith(KEPT)]:
        st.session_state[key] = st.session_state[key]


def warn(store: Store, dataset: str, split: str | None = None) -> None:
    """A warning where a shortcut was found, or where that cannot be said.

    Args:
        store: the run store.
        dataset: name.
        split: hash of the split that is shown; None for that of the run made last.
    """
    try:
        said = told(store, dataset, split)
    except LowshotError as error:
        said = f"Whether borders or corners tell the classes apart cannot be said: {error}"
    if said:
        st.warning(escape(said), icon=":material/crop_free:")


def told(store: Store, dataset: str, split: str | None = None) -> str:
    """What was found, in a sentence; "" where nothing was, or nobody looked.

    Raises:
        LowshotError: if stored runs cannot be read.
    """
    metas = store.metas(dataset)
    if not any(meta.preparation in STEPS for meta in metas):
        return ""
    stated = (f"{meta.run} {meta.made} {sorted(meta.hashes.items())}" for meta in metas)
    return _told(sha256_of([split or "", *stated]), store, dataset, split)


@st.cache_data(max_entries=32, show_spinner="Measuring what borders and corners give away")
def _told(key: str, _store: Store, _dataset: str, _split: str | None) -> str:
    return warning_of(shortcuts_of(_store, _dataset, _split))
