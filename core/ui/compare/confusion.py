"""Compare: confusion matrices as counts and rates at the chosen operating point, and the images behind a cell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import streamlit as st
from sklearn.metrics import confusion_matrix

from core.evidence import Judged
from core.metrics.operating import at_thresholds
from core.results import Run, Series
from core.ui import cached_evidence, charts, pickers
from core.ui.compare import cell, controls
from core.ui.compare.operating import sound
from core.ui.compare.view import View
from core.ui.words import escape

A_ROW = 3


def show(view: View) -> None:
    """A matrix for each series, of one seed."""
    if view.first.multilabel and view.finding is None:
        st.info("Choose a finding above for its confusion matrices.")
        return
    binary = view.first.positive is not None or view.finding is not None
    chosen = controls.ask(prevalence_too=False) if binary else None
    seed = pickers.pick_seed(view.seeds(), "compare")
    if chosen:
        view = replace(view, runs=sound(view, view.finding, chosen))
        if not view.runs:
            return
    runs = view.at_seed(seed)
    judged = {name: _judged(view, name, run, chosen) for name, run in runs.items()}
    columns = st.columns(min(A_ROW, len(view.runs)))
    for index, name in enumerate(view.runs):
        with columns[index % len(columns)]:
            if name not in judged:
                st.caption(f"{escape(view.title(name))}: no run with seed {seed}.")
                continue
            scores = judged[name].scores
            counts = confusion_matrix(scores.labels, scores.decisions, labels=range(len(view.labels)))
            charts.draw(
                charts.confusion(counts, view.labels, view.title(name)), key=f"compare_matrix_{index}",
                alt=f"Confusion matrix of {view.title(name)}: " + "; ".join(
                    f"{label}: {counts[i, i]} of {counts[i].sum()} right" for i, label in enumerate(view.labels)
                ),
            )  # fmt: skip
    st.caption(
        "Images, and the share of those with the same truth. "
        + (f"Threshold fitted for {chosen.aim.title}" if chosen else "")
        + (f", shifted by {chosen.shift:+.2f}." if chosen and chosen.shift else "." if chosen else "")
    )
    if judged:
        cell.show(view, runs, judged)


def _judged(view: View, name: Series, run: Run, chosen: controls.Chosen | None) -> Judged:
    """The test predictions of a run, at the chosen operating point where there is one threshold."""
    found = cached_evidence.judged(run, view.finding)
    if chosen is None:
        return found
    runs = view.runs[name]
    threshold = np.array(chosen.thresholds(runs, view.finding))[runs.index(run)]
    return Judged(found.meta, at_thresholds([found.scores], [float(threshold)])[0], found.groups, found.ids)
