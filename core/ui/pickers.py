"""Pickers and warnings shared by the pages."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

import streamlit as st

from core.analysis.contest import LOOP, contestants
from core.analysis.external import evaluated, external_sets
from core.analysis.shortcuts import STEPS, shortcuts_of, warning_of
from core.data import DATASETS
from core.data.specs import OPTIONS_SEPARATOR, DatasetSpec, family_of, find_dataset
from core.errors import LowshotError
from core.metrics import METRICS
from core.runs import Run, RunMeta, Store
from core.runs.series import Series, by_series, comparison_proper
from core.ui import address, charts
from core.ui.text import LEAK_MARK, escape

EVERY = -1  # stands for None, which a restored widget would show as no choice


def dataset_order(name: str, store: Store) -> tuple[bool, int, str]:
    """Sort key of data sets: in the order of the registry, so that Kermany is the default; others by name.

    Sets with a shortcut warning come last, so that none is the default while another one has runs.
    """
    registered, family = list(DATASETS), family_of(name)
    place = registered.index(family) if family in registered else len(registered)
    return bool(_shortcut_message(store, name)), place, name


def dataset_options(name: str, page: str) -> DatasetSpec:
    """Pick the options of a data set, if it has any, and return its row; warn if it is synthetic.

    Args:
        name: name of the data set.
        page: prefix of the widgets' keys.
    """
    chosen = []
    for option, values in DATASETS[name].options.items():
        bound = address.choice(option, f"{page}_{name}_{option}", values)
        value = st.pills(option.capitalize(), default=values[0], required=True, **bound)
        chosen.append(f"{option}={value}")
    spec = find_dataset(f"{name}{OPTIONS_SEPARATOR}{','.join(chosen)}")
    if spec.synthetic:
        st.warning("This data set is synthetic: its images are computer-generated.", icon=":material/science:")
    return spec


def comparable_runs(store: Store, page: str, notes: bool = True) -> list[RunMeta]:
    """Pick a data set and, if its runs come from several splits, one split, so that its runs are comparable.

    If no run is stored, the page explains how to make one and stops.

    Args:
        store: the run store.
        page: prefix of the widgets' keys.
        notes: whether to state what was done to the split.
    """
    titles = {meta.dataset: meta.dataset_title for meta in store.metas()}
    titles = dict(sorted(titles.items(), key=lambda row: dataset_order(row[0], store)))
    if not titles:
        st.info("No results are stored yet.", icon=":material/model_training:")
        st.page_link("pages/train.py", label="Train networks", icon=":material/arrow_forward:")
        st.stop()
    chosen: str = st.selectbox(
        "Data set", format_func=titles.__getitem__, **address.choice("set", f"{page}_dataset", titles)
    )

    # Show one split: the most frequent without leaks, unless another is chosen
    metas = store.metas(chosen)
    leaking = {meta.split_hash for meta in metas if meta.leaks}
    counted = Counter(meta.split_hash for meta in metas).most_common()
    splits = sorted(counted, key=lambda row: row[0] in leaking)
    split = splits[0][0]
    descriptions = {
        name: f"{name[:8]} ({runs} runs{', leaks allowed' if name in leaking else ''})" for name, runs in splits
    }
    if len(splits) > 1:
        st.warning("Stored runs of this data set come from different images or splits and are not mixed.")
        bound = address.choice("split", f"{page}_split_{chosen}", descriptions, text=lambda name: name[:8])
        split = st.selectbox("Split", format_func=descriptions.__getitem__, **bound)

    # Warn about what limits the conclusions from these runs
    shown = [meta for meta in metas if meta.split_hash == split]
    if shown[0].synthetic:
        st.warning("This data set is synthetic: its images are computer-generated.", icon=":material/science:")
    warn_of_shortcuts(store, chosen, split)
    marked = [meta for meta in shown if meta.leaks]
    if marked:
        st.error(
            f"{len(marked)} of these {len(shown)} runs were made with leaks allowed: up to "
            f"{max(meta.leaks for meta in marked)} training or validation images have a copy, or an image of the same "
            "patient, in another part. Reported performance is inflated by data leakage.",
            icon=":material/warning:",
        )
    for note in shown[0].notes if notes else ():
        st.caption(escape(note))
    return shown


def title_of(name: Series, runs: Sequence[Run]) -> str:
    """Return the title of a series, marked if any of its runs was made with leaks allowed."""
    return mark_leaks(charts.series_title(*name), runs)


def mark_leaks(title: str, runs: Sequence[Run]) -> str:
    """Return a title, marked if any of the runs was made with leaks allowed."""
    return title + (f" {LEAK_MARK}" if any(meta.leaks for _, meta in runs) else "")


def pick_metric(key: str) -> str:
    """Show the picker of a metric under `key` and return its name."""
    bound = address.choice("metric", key, METRICS)
    return st.selectbox("Metric", format_func=lambda name: METRICS[name].title, **bound)


def pick_size(metas: Sequence[RunMeta], page: str) -> int | None:
    """Pick a training-set size for which runs are stored; None stands for all training images.

    The default is the largest size that the series of all families have.
    """
    sizes: list[int | None] = [*sorted({meta.train_size for meta in metas if meta.train_size is not None})]
    sizes += [None] if any(meta.train_size is None for meta in metas) else []
    groups = by_series(metas)
    by_family = [
        {meta.train_size for meta in groups[name]} for family, name in contestants(groups).items() if family != LOOP
    ]
    shared = [n for n in sizes if all(n in of_family for of_family in by_family)]
    default = (shared or sizes)[-1]
    bound = address.choice("size", f"{page}_size_{metas[0].dataset}", sizes, default, size_text)
    return st.select_slider("Labeled training images per class", value=default, format_func=size_text, **bound)


def size_text(size: int | None) -> str:
    """Return a training-set size as text, for pages and addresses."""
    return "all" if size is None else str(size)


def pick_seed(seeds: Sequence[int], page: str, title: str = "Seed") -> int:
    """Pick a seed if there are several."""
    if len(seeds) == 1:
        return seeds[0]
    return address.segments(title, "seed", f"{page}_seed", seeds)


def pick_finding(of: RunMeta, page: str) -> int | None:
    """Pick one finding, or one class against the rest, to evaluate; None for the whole task.

    Args:
        of: any run of the task.
        page: prefix of the widget's key.
    """
    if of.positive is not None:
        return None
    all_title = "Mean over all findings that can be evaluated" if of.multilabel else "All classes"
    ending = "" if of.multilabel else " against the rest"
    title, options = "Finding" if of.multilabel else "Class", [EVERY, *range(len(of.labels))]
    bound = address.choice(
        title.lower(), f"{page}_finding_{of.dataset}", options, text=lambda k: "all" if k == EVERY else of.labels[k]
    )
    chosen = st.selectbox(title, format_func=lambda k: all_title if k == EVERY else f"{of.titles[k]}{ending}", **bound)
    return None if chosen == EVERY else chosen


def pick_series(series: Mapping[Series, Sequence[Run]], page: str) -> list[Series]:
    """Pick the series to show: by default the one that stands for each family. Stop the page if none is picked.

    The session stores which series the user added or removed, not which are shown. A series that is missing at another
    size therefore reappears at the sizes that have it.
    """
    if not series:
        st.info("None of the stored models is known to this version. Choose another data set or size.")
        st.stop()
    usual = list(contestants(series).values()) or comparison_proper(series) or list(series)
    key = f"{page}_series_{next(iter(series.values()))[0].meta.dataset}"
    before = st.session_state.get(key)
    bound = address.choice("series", key, series, usual, series_text, several=True, keep=True)
    picked: dict[Series, bool] = st.session_state.setdefault(f"{key}_picked", {})
    if (linked := st.session_state.get(key)) is not None and linked != before:
        picked |= {name: name in linked for name in series}
    wanted = [name for name in series if picked.get(name, name in usual)]
    if not wanted and st.session_state.get(key) != []:  # no picked series exists here, and the user did not clear all
        wanted = usual
    if key not in st.session_state or set(st.session_state[key]) != set(wanted):
        st.session_state[key] = wanted
    shown = st.multiselect(
        "Series", format_func=lambda name: title_of(name, series[name]), on_change=_remember,
        args=(key, wanted), **bound,
    )  # fmt: skip
    if not shown:
        st.info("Pick at least one series.")
        st.stop()
    return [name for name in series if name in shown]


def _remember(key: str, before: Sequence[Series]) -> None:
    """Store which series the user just added or removed."""
    now = st.session_state[key]
    st.session_state[f"{key}_picked"] |= {name: name in now for name in {*before} ^ {*now}}


def series_text(name: Series) -> str:
    """Return the name of a series in an address."""
    return ".".join(filter(None, name))


def warn_of_shortcuts(store: Store, dataset: str, split: str | None = None) -> str:
    """Show and return a warning if a shortcut was found, or if the test for shortcuts failed; "" if neither.

    Args:
        store: the run store.
        dataset: name.
        split: hash of the split that is shown; None for the split of the newest run.
    """
    message = _shortcut_message(store, dataset, split)
    if message:
        st.warning(escape(message), icon=":material/crop_free:")
    return message


def _shortcut_message(store: Store, dataset: str, split: str | None = None) -> str:
    """Return the shortcut warning of a data set, or that the test for shortcuts failed; "" if neither."""
    try:
        return shortcut_warning(store, dataset, split)
    except LowshotError as error:
        return f"The test for shortcuts in image borders and corners failed: {error}"


def shortcut_warning(store: Store, dataset: str, split: str | None = None) -> str:
    """Return the shortcut warning of a data set; "" if no shortcut was found or none was tested for.

    Raises:
        LowshotError: if stored runs cannot be read.
    """
    metas = store.metas(dataset)
    if not any(meta.preparation in STEPS for meta in metas):
        return ""
    return _shortcut_warning([meta.digest for meta in metas], store, dataset, split)


@st.cache_data(max_entries=32, show_spinner="Testing image borders and corners for shortcuts")
def _shortcut_warning(digests: list[str], _store: Store, dataset: str, split: str | None) -> str:
    return warning_of(shortcuts_of(_store, dataset, split))


def pick_test_set(series: Mapping[Series, Sequence[Run]], page: str) -> str:
    """Choose the test images on which runs are shown: the internal ones, or an external set.

    Args:
        series: runs to choose for.
        page: prefix of the widget's key.
    Returns:
        name of the external set; "" for the internal test images, and where no run was evaluated on an external set.
    """
    runs = list(chain.from_iterable(series.values()))
    names = external_sets(runs)
    if not names:
        return ""
    titles = {name: evaluated(runs, name)[0].meta.external[name].title for name in names}
    chosen: str = address.segments(
        "Test images", "test", f"{page}_test_set", ["", *names], text=lambda name: name or "own",
        format_func=lambda name: titles.get(name, "Internal test set"),
        help="External sets contain other patients from other sites.",
    )  # fmt: skip
    return chosen
