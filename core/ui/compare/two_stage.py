"""Compare: a sensitive screen, then a classifier of several classes, against one model at the same sensitivity."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import streamlit as st

from core.analysis.two_stage import offered
from core.data import DATASETS
from core.data.specs import OPTIONS_AFTER, class_titles, family_of
from core.metrics import Estimate
from core.metrics.comparisons import corrected_for, format_p
from core.metrics.thresholds import Aim
from core.metrics.two_stage import TwoStage
from core.runs.series import Series
from core.ui import cache, charts
from core.ui.compare.view import View
from core.ui.pickers import keep_possible
from core.ui.tables import table
from core.ui.text import escape

Stage = tuple[str, Series]


def show(view: View) -> None:
    """Both stages, who screens and who confirms, and whether it helps."""
    st.write(
        "A screen with a high sensitivity decides who is looked at further; a classifier of several classes then says "
        "which it is, and may take an alarm back. Both learnt from the splits of one data set."
    )
    screens, confirmers = offered(view.store, view.first)
    if view.first.multilabel or not confirmers:
        _absent(view)
        return
    dataset = view.dataset if view.dataset in confirmers else next(iter(confirmers))
    seconds = confirmers[dataset]
    labels = next(iter(seconds.values()))[0][1].labels
    suspicious = _suspicious(dataset, labels)
    if not 0 < len(suspicious) < len(labels):
        st.info("Choose at least one suspicious class, and leave at least one that is not.")
        return
    sensitivity = st.slider(
        "Sensitivity wanted of the screen", 0.8, 0.99, 0.95, 0.01, format="percent", key="compare_screen_sensitivity"
    )
    stages = {(name, key): runs for name, found in screens.items() for key, runs in found.items()}
    left, right = st.columns(2)
    with left:
        first = _pick("Screen", list(stages), dataset)
    with right:
        second = _pick("Second stage", [(dataset, key) for key in seconds], dataset)
    single = cache.best_single(seconds, suspicious)
    found = cache.two_stage_results(
        stages[first], seconds[second[1]], seconds[single], suspicious, Aim("sensitivity", sensitivity)
    )
    pairs = len(stages) * len(seconds)
    found = replace(found, gain=corrected_for(found.gain, pairs))
    _said(found, pairs, class_titles(dataset, labels), suspicious, charts.series_title(*single), view)


def _suspicious(dataset: str, labels: tuple[str, ...]) -> tuple[int, ...]:
    """The classes to be let through to the second stage."""
    base = dataset.partition(OPTIONS_AFTER)[0]
    usual = [label for label in (DATASETS[base].suspicious if base in DATASETS else ()) if label in labels]
    key = f"compare_suspicious_{dataset}"
    keep_possible(key, labels)
    chosen = st.multiselect(
        "Suspicious classes", labels, default=usual, key=key,
        format_func=dict(zip(labels, class_titles(dataset, labels), strict=True)).__getitem__,
    )  # fmt: skip
    return tuple(index for index, label in enumerate(labels) if label in chosen)


def _pick(title: str, stages: list[Stage], dataset: str) -> Stage:
    key = f"compare_{title.split()[0].lower()}_{dataset}"
    keep_possible(key, stages)
    chosen: Stage = st.selectbox(
        title, stages, key=key,
        format_func=lambda one: charts.series_title(*one[1]) + (f" · {one[0]}" if one[0] != dataset else ""),
    )  # fmt: skip
    return chosen


def _said(
    found: TwoStage, pairs: int, titles: tuple[str, ...], suspicious: tuple[int, ...], single: str, view: View
) -> None:
    """The finding in a sentence, then the figures."""
    worse = found.gain.verdict == "different" and not found.helps
    (st.success if found.helps else st.warning if worse else st.info)(escape(found.verdict()))
    values = {
        "Suspicious images that end with a suspicious class (joint sensitivity)": found.sensitivity,
        "Other images that do not (joint specificity)": found.specificity,
        "Suspicious images that end with the right class": found.named,
        "Images that the second stage sees (workload)": found.workload,
        f"Specificity of one model alone at the same sensitivity ({single})": found.single,
    }
    rows = [{"What": what, "Share": _ranged(one), "Interval over": "test patients"} for what, one in values.items()]
    gain = found.gain
    rows.append({"What": "Gain in specificity", "Share": gain.interval_text(), "Interval over": gain.varies})
    table(pd.DataFrame(rows), "Joint figures of both stages with intervals", f"{view.file}-stages")
    st.caption(
        f"Suspicious: {escape(', '.join(titles[k] for k in suspicious))}. Mean over seeds that both stages have, with "
        f"95% intervals. Verdict: p below .05 after correction for the {pairs} pairs of stages that can be chosen here "
        f"(p {format_p(gain.holm)}; of equivalence within {gain.margin:g} {format_p(gain.holm_equivalence)}). The "
        "screen's threshold is fitted on held-out images, so that the "
        "sensitivity reached may differ from the one wanted. The one model is the best on held-out images; its "
        "threshold is moved to the same sensitivity."
    )


def _ranged(one: Estimate) -> str:
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"


def _absent(view: View) -> None:
    """What is missing, and how to make it."""
    family = family_of(view.dataset)
    several = [name for name, spec in DATASETS.items() if spec.task == "multiclass" and family_of(name) == family]
    if view.first.multilabel or not several:
        st.info("This data set has no classes of which a screen could single some out: two stages need several.")
        return
    seeds = ",".join(map(str, view.seeds()))
    st.info(
        f"A second stage of several classes is missing at this size. Train one: `python -m trainer curve --dataset "
        f"{several[0].partition(OPTIONS_AFTER)[0]} --sizes {view.size or 'full'} --seeds {seeds}`"
    )
