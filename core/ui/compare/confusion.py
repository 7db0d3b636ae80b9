"""Compare: confusion matrices (counts and rates) at the chosen operating point, and the images of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image
from sklearn.metrics import confusion_matrix

from core.data.overview import ImageSample, read_sample
from core.data.specs import find_dataset, is_present
from core.errors import LowshotError
from core.explain.methods import EXPLAINERS
from core.explain.overlay import overlay
from core.inference.text import where
from core.metrics.operating_point import at_thresholds
from core.runs import Run
from core.runs.scores import PartScores
from core.runs.series import Series
from core.ui import cache, charts, pickers
from core.ui.compare import operating
from core.ui.compare.operating import fittable_series
from core.ui.compare.view import View
from core.ui.pickers import keep_possible
from core.ui.text import escape

A_ROW = 3


def show(view: View) -> None:
    """Show the confusion matrix of each series for one seed."""
    if view.first.multilabel and view.finding is None:
        st.info("Choose a finding above for its confusion matrices.")
        return
    binary = view.first.positive is not None or view.finding is not None
    chosen = operating.pick_operating_point(prevalence_too=False) if binary else None
    seed = pickers.pick_seed(view.seeds(), "compare")
    if chosen:
        view = replace(view, runs=fittable_series(view, view.finding, chosen))
        if not view.runs:
            return
    runs = view.at_seed(seed)
    evaluated = {name: _scores_at(view, name, run, chosen) for name, run in runs.items()}
    columns = st.columns(min(A_ROW, len(view.runs)))
    for index, name in enumerate(view.runs):
        with columns[index % len(columns)]:
            if name not in evaluated:
                st.caption(f"{escape(view.title(name))}: no run with seed {seed}.")
                continue
            scores = evaluated[name].scores
            counts = confusion_matrix(scores.labels, scores.decisions, labels=range(len(view.labels)))
            charts.show_figure(
                charts.confusion(counts, view.labels, view.title(name)), key=f"compare_matrix_{index}",
                alt=f"Confusion matrix of {view.title(name)}: " + "; ".join(
                    f"{label}: {counts[i, i]} of {counts[i].sum()} correct" for i, label in enumerate(view.labels)
                ),
            )  # fmt: skip
    st.caption(
        "Number of images, and their share of all images of the same true class. "
        + (f"Threshold fitted for {chosen.aim.title}" if chosen else "")
        + (f", shifted by {chosen.shift:+.2f}." if chosen and chosen.shift else "." if chosen else "")
    )
    if evaluated:
        _images_of_cell(view, runs, evaluated)


def _scores_at(view: View, name: Series, run: Run, chosen: operating.Chosen | None) -> PartScores:
    """Return the test predictions of a run, at the chosen operating point if the task has a threshold."""
    predictions = cache.run_scores(run, view.finding)
    if chosen is None:
        return predictions
    runs = view.runs[name]
    threshold = chosen.thresholds(runs, view.finding)[runs.index(run)]
    return replace(predictions, scores=at_thresholds([predictions.scores], [threshold])[0])


A_PAGE, SIDE = 4, 420


def _images_of_cell(view: View, runs: Mapping[Series, Run], evaluated: Mapping[Series, PartScores]) -> None:
    """Show the pickers of a cell and the images of that cell, page by page."""
    st.subheader("Images in a cell")
    first, second, third = st.columns([2, 1, 1])
    of = f"{view.dataset}_{view.finding}"
    key = f"compare_cell_{of}"
    keep_possible(key, list(evaluated))
    with first:
        name = st.selectbox("Series", list(evaluated), format_func=view.title, key=key)
    places = range(len(view.labels))
    named = view.labels.__getitem__
    with second:
        truth = st.selectbox("Truth", places, index=len(places) - 1, format_func=named, key=f"compare_truth_{of}")
    with third:
        decision = st.selectbox("Decision", places, format_func=named, key=f"compare_said_{of}")
    predictions = evaluated[name]
    matches = np.flatnonzero((predictions.scores.labels == truth) & (predictions.scores.decisions == decision))
    if not len(matches):
        st.write("No test image is in this cell.")
        return
    matches = matches[np.argsort(-predictions.scores.probabilities[matches, decision], kind="stable")]
    pages = -(-len(matches) // A_PAGE)
    page = 1
    if pages > 1:
        key = f"compare_page_{of}_{name}_{truth}_{decision}"
        keep_possible(key, range(1, pages + 1))
        page = int(st.number_input(f"Page (1 to {pages})", 1, pages, 1, key=key))
    st.caption(f"{len(matches)} images, most confident decisions first.")
    shown = matches[(page - 1) * A_PAGE : page * A_PAGE]
    for position in shown.tolist():
        with st.container(border=True):
            _image(view, runs, evaluated, str(predictions.ids[position]))


def _image(view: View, runs: Mapping[Series, Run], evaluated: Mapping[Series, PartScores], name: str) -> None:
    """Show an image with the prediction of each series."""
    left, right = st.columns([1, 2])
    loaded = _load(view.dataset, name)
    with left:
        if isinstance(loaded, str):
            st.caption(loaded)
        else:
            small = loaded.image.copy()
            small.thumbnail((SIDE, SIDE))
            st.image(small, caption=escape(Path(name).name), alt=f"Test image, {loaded.label}", width="stretch")
    with right:
        st.caption(escape(name))
        _predictions(view, evaluated, name)
        if isinstance(loaded, str) or not any(run.meta.has_weights for run in runs.values()):
            return
        if st.toggle("Heatmaps", key=f"cell_heat_{view.dataset}_{name}"):
            _heatmaps(view, runs, loaded.image)


def _predictions(view: View, evaluated: Mapping[Series, PartScores], name: str) -> None:
    """Show the probabilities and the decision of each series for an image."""
    rows = []
    for series, predictions in evaluated.items():
        positions = np.flatnonzero(predictions.ids == name)
        if len(positions):
            scores = predictions.scores.of(positions[:1])
            rows.append(
                {"Series": view.title(series), "Decision": view.labels[int(scores.decisions[0])]}
                | dict(zip(view.labels, scores.probabilities[0].tolist(), strict=True))
            )
    formats = {label: st.column_config.NumberColumn(format="percent") for label in view.labels}
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, width="stretch", column_config=formats,
        alt=f"Probability of each class by every series for {name}",
    )  # fmt: skip


def _load(dataset: str, name: str) -> ImageSample | str:
    """Return the image with a name, or the reason why it cannot be shown."""
    try:
        spec = find_dataset(dataset)
        if not is_present(spec):
            return "The images of this data set are not on this machine."
        listing = cache.listing(dataset)
        loaded = read_sample(spec, listing, cache.positions(dataset, listing.stamp)[name])
    except (LowshotError, KeyError):
        return "This image is not in the data set's folder on this machine."
    return loaded or "This image cannot be read."


def _heatmaps(view: View, runs: Mapping[Series, Run], image: Image.Image) -> None:
    """Show the heatmap of each series with stored weights."""
    kept = {name: run for name, run in runs.items() if run.meta.has_weights}
    columns = st.columns(max(2, len(kept)))
    for column, (name, run) in zip(columns, kept.items(), strict=False):
        with column:
            try:
                prediction = cache.predictor(run)([image], next(iter(EXPLAINERS)), view.finding)[0]
            except LowshotError as error:
                st.caption(f"{escape(view.title(name))}: {escape(str(error))}")
                continue
            assert prediction.explanation is not None
            target = escape(run.meta.titles[prediction.explanation.target])
            st.image(
                overlay(image, prediction.explanation, 0.6), caption=f"{escape(view.title(name))}: {target}",
                alt=f"Heatmap of {view.title(name)}; {where(prediction.explanation)}", width="stretch",
            )  # fmt: skip
    if len(kept) < len(runs):
        st.caption("Series without a heatmap have no stored weights for this seed.")
