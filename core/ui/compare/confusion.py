"""Compare: confusion matrices (counts and rates) at the chosen operating point, and the images of a cell."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from PIL import Image
from sklearn.metrics import confusion_matrix

from core.data.images import reduced
from core.data.overview import ImageSample, read_sample
from core.data.specs import find_dataset, is_present
from core.errors import LowshotError
from core.explain.methods import EXPLAINERS
from core.explain.overlay import overlay
from core.inference.sentences import where
from core.metrics import Scores
from core.metrics.operating_point import at_thresholds, shift_prevalence
from core.runs import Run
from core.runs.scores import PartScores
from core.runs.series import Series
from core.ui import address, cache, charts, pickers
from core.ui.compare import operating_point_section as operating
from core.ui.compare.operating_point_section import fittable_series
from core.ui.compare.view import View
from core.ui.pickers import series_text
from core.ui.tables import table
from core.ui.text import escape, show_list

A_ROW = 3


def show(view: View) -> None:
    """Show the confusion matrix of each series for one seed, and the images of a cell."""
    view = replace(view, finding=view.target()) if view.first.multilabel else view
    binary = view.first.positive is not None or view.finding is not None
    chosen = operating.pick_operating_point(prevalence_too=False) if binary else None
    seed = pickers.pick_seed(view.seeds(), "compare")
    if chosen:
        view = replace(view, runs=fittable_series(view, chosen))
        if not view.runs:
            return

    # Count the decisions of each series at the chosen threshold
    runs = view.at_seed(seed)
    evaluated = {name: _scores_at(view, name, run, chosen) for name, run in runs.items()}
    counts = {
        name: confusion_matrix(row.scores.labels, row.scores.decisions, labels=range(len(view.labels)))
        for name, row in evaluated.items()
    }
    show_list(_finding(view.title(name), view.labels, n) for name, n in counts.items())

    # Keep the chosen cell in the address: a series, a true class and a decision
    of = f"{view.dataset}_{view.finding}"
    places = range(len(view.labels))
    named = view.labels if view.finding is not None else view.first.labels  # stable names, for the address
    cell = [
        address.choice("matrix", f"compare_cell_{of}", evaluated, text=series_text),
        address.choice("truth", f"compare_truth_{of}", places, places[-1], named.__getitem__),
        address.choice("decision", f"compare_said_{of}", places, text=named.__getitem__),
    ]
    keys = [bound["key"] for bound in cell]
    first: tuple[Any, ...] = next(iter(evaluated), None), places[-1], 0
    of_series, *place = (st.session_state.setdefault(key, usual) for key, usual in zip(keys, first, strict=True))

    # Draw a matrix per series; a click chooses a cell
    columns = st.columns(min(A_ROW, len(view.runs)))
    for index, name in enumerate(view.runs):
        with columns[index % len(columns)]:
            if name not in evaluated:
                st.caption(f"{escape(view.title(name))}: no run with seed {seed}.")
                continue
            picked = (place[0], place[1]) if of_series == name else None
            figure = charts.confusion(counts[name], view.labels, view.title(name), picked)
            key = f"matrix_{of}_{index}_{picked}"  # a new chart, so that a click on any other cell counts
            correct = zip(view.labels, counts[name].diagonal(), counts[name].sum(axis=1), strict=True)
            shares = "; ".join(f"{label}: {right} of {images} correct" for label, right, images in correct)
            alt = f"Confusion matrix of {view.title(name)}: {shares}"
            charts.show_figure(figure, key=key, alt=alt, on_select=partial(_pick, key, name, keys))
    shift = f", shifted by {chosen.shift:+.2f}" if chosen and chosen.shift else ""
    st.caption(
        "Number of images, and their share of all images of the same true class. Click a cell to see its images. "
        + (f"Threshold fitted for {chosen.aim.title}{shift}." if chosen else "")
    )
    if evaluated:
        _images_of_cell(view, runs, evaluated, cell)


def _pick(key: str, name: Series, keys: Sequence[str]) -> None:
    """Choose the cell that was clicked in the matrix of a series; a second click clears nothing."""
    if points := st.session_state[key]["selection"]["points"]:
        st.session_state.update(zip(keys, (name, *points[0]["customdata"]), strict=True))


def _finding(title: str, labels: Sequence[str], counts: np.ndarray) -> str:
    """Return a sentence: the share of correct decisions, and the most frequent mistake."""
    right, wrong = int(np.trace(counts)), counts - np.diag(np.diag(counts))
    text = f"{title}: {right:,} of {counts.sum():,} images decided correctly"
    if not wrong.any():
        return f"{text}."
    truth, decision = np.unravel_index(wrong.argmax(), wrong.shape)
    share = wrong[truth, decision] / counts[truth].sum()
    return f"{text}. Most frequent mistake: {labels[truth]} taken for {labels[decision]} ({share:.0%} of them)."


def _scores_at(view: View, name: Series, run: Run, chosen: operating.Chosen | None) -> PartScores:
    """Return the test predictions of a run, at the chosen operating point if the task has a threshold."""
    predictions = cache.run_scores(run, target=view.finding)
    if chosen is None:
        return predictions
    runs = view.runs[name]
    threshold = chosen.thresholds(runs, view.finding)[runs.index(run)]
    return replace(predictions, scores=at_thresholds([predictions.scores], [threshold])[0])


SHOWN, SIDE = 6, 420
_THRESHOLDS = 0.01, 0.99  # ends of the slider


def _images_of_cell(
    view: View, runs: Mapping[Series, Run], evaluated: Mapping[Series, PartScores], cell: list[dict[str, Any]]
) -> None:
    """Show the pickers of a cell, the names and thumbnails of its images, and one of them in detail.

    Args:
        view: the selection.
        runs: the run of each series.
        evaluated: its predictions.
        cell: arguments of the widgets that pick a series, the true class and the decision.
    """
    st.header("Images in a cell")
    first, second, third = st.columns([2, 1, 1])
    bound_series, bound_truth, bound_decision = cell
    name = first.selectbox("Series", format_func=view.title, **bound_series)
    named = view.labels.__getitem__
    truth = second.selectbox("Truth", format_func=named, **bound_truth)
    decision = third.selectbox("Decision", format_func=named, **bound_decision)
    predictions = evaluated[name]
    matches = np.flatnonzero((predictions.scores.labels == truth) & (predictions.scores.decisions == decision))
    if not len(matches):
        st.write("No test image is in this cell.")
        return
    probabilities = predictions.scores.probabilities[matches, decision]
    order = np.argsort(-probabilities, kind="stable")
    names = predictions.ids[matches[order]].tolist()
    st.caption(f"{len(names):,} images, most confident decisions first.")
    _thumbnails(view, names[:SHOWN])
    left, right = st.columns([2, 3])
    with left:
        rows = pd.DataFrame({"Case": names, named(decision): probabilities[order].round(4)})
        alt = f"Images of {named(truth)} taken for {named(decision)}"
        table(rows, alt, f"{view.file}-cell", {named(decision): "percent"})
    with right:
        key = f"compare_case_{bound_series['key']}_{name}_{truth}_{decision}"
        _case(view, runs, evaluated, st.selectbox("Case", **address.choice("case", key, names)))


def _thumbnails(view: View, names: Sequence[str]) -> None:
    """Show small images, or say once why there are none."""
    for place, name in zip(st.columns(SHOWN), names, strict=False):
        loaded = _load(view.dataset, name)
        if isinstance(loaded, str):
            st.caption(loaded)
            return
        place.image(
            reduced(loaded.image, SIDE),
            caption=escape(Path(name).name),
            alt=f"Test image, {loaded.label}",
            width="stretch",
        )


def _case(view: View, runs: Mapping[Series, Run], evaluated: Mapping[Series, PartScores], name: str) -> None:
    """Show an image with the prediction of each series, and what these would be at another threshold and prevalence."""
    loaded = _load(view.dataset, name)
    if not isinstance(loaded, str):
        st.image(reduced(loaded.image, SIDE), caption=escape(name), alt=f"Test image, {loaded.label}")
    of_case = {
        series: row.scores.of(where_it_is[:1])
        for series, row in evaluated.items()
        if len(where_it_is := np.flatnonzero(row.ids == name))
    }
    rows = [
        {"Series": view.title(series), "Decision": view.labels[int(scores.decisions[0])]}
        | dict(zip(view.labels, scores.probabilities[0].tolist(), strict=True))
        for series, scores in of_case.items()
    ]
    percent = dict.fromkeys(view.labels, "percent")
    table(rows, f"Probability of each class by every series for {name}", formats=percent)
    if len(view.labels) == 2:
        _what_if(view, runs, of_case, name)
    else:
        st.caption(
            "What if the threshold or the prevalence were different? Choose a class above: the answer is about one "
            "class against the rest."
        )
    if isinstance(loaded, str) or not any(run.meta.has_weights for run in runs.values()):
        return
    if st.toggle("Heatmaps", **address.switch("case-heatmaps", f"cell_heat_{view.dataset}_{name}")):
        _heatmaps(view, runs, loaded.image)


@st.fragment
@address.part("what if")
def _what_if(view: View, runs: Mapping[Series, Run], of_case: Mapping[Series, Scores], name: str) -> None:
    """Show what each series would decide on a case at another threshold and another prevalence."""
    fitting_prevalence = {series: cache.fitting_prevalence(runs[series], view.finding) for series in of_case}
    usual = round(float(np.mean(list(fitting_prevalence.values()))), 3)
    positive = view.labels[next(iter(of_case.values())).positive or 0]
    st.write("**What if**")
    left, right = st.columns(2)
    own_threshold = float(np.clip(round(next(iter(of_case.values())).threshold, 2), *_THRESHOLDS))
    threshold = left.slider(
        "Threshold", step=0.01,
        **address.number("case-threshold", f"what_if_cut_{name}", own_threshold, *_THRESHOLDS),
        help="The same for every series. Each series' own threshold is that of the table above.",
    )  # fmt: skip
    shares = sorted({*operating.PREVALENCES, usual})
    prevalence = right.select_slider(
        "Prevalence", value=usual, format_func=lambda share: f"{100 * share:g}%",
        **address.choice("case-prevalence", f"what_if_share_{name}", shares, usual, "{:g}".format),
        help=f"Share of patients with {positive}. The probabilities were fitted at {100 * usual:g}%.",
    )  # fmt: skip
    lines = []
    for series, scores in of_case.items():
        stored = float(scores.positives()[0][0])
        moved = float(shift_prevalence(np.array(stored), fitting_prevalence[series], prevalence))
        before = view.labels[int(scores.decisions[0])]
        now = positive if moved >= threshold else next(label for label in view.labels if label != positive)
        change = "as before" if now == before else f"instead of {before}"
        lines.append(
            f"- {escape(view.title(series))}: {positive} {stored:.1%} becomes {moved:.1%}: **{escape(now)}**, {change}."
        )
    st.markdown("\n".join(lines))


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
    for column, (name, run) in zip(st.columns(max(2, len(kept))), kept.items(), strict=False):
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
