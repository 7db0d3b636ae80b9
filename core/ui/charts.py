"""Chart styles and shared figures. Each series keeps its color, dash and marker; color is never the only cue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from core.inference.predictor import Prediction
from core.models import FAMILY_LETTERS, MODELS
from core.runs import OLD_RECIPE, RunMeta
from core.ui.text import LEAK_MARK


@dataclass(frozen=True)
class Style:
    """Color, line dash and marker of a series."""

    colour: str
    dash: str
    marker: str


# The family determines the color (Okabe and Ito 2008), the model the marker, the strategy and the variant the dash.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FAMILY_COLORS = {
    "scratch": "#0072B2", "imagenet": "#D55E00", "generic": "#CC79A7", "medical": "#009E73", "control": "#6E6E6E",
}  # fmt: skip
PLAIN = "#000000"  # the loops that nobody tuned
RED = "#B00020"
_MARKERS = (
    "circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hexagon", "pentagon", "triangle-down",
    "star-diamond", "hourglass", "bowtie", "triangle-left",
)  # fmt: skip
_DASHES = {
    "finetune": "dash", "frozen-logistic": "dot", "finetune-last": "6px,3px", "protonet": "10px,2px,2px,2px",
    "plain-loop": "2px,4px", "plain-scratch": "2px,4px", "protonet-meta": "10px,2px,2px,2px", "maml": "dash",
}  # fmt: skip
_VARIANT_DASHES = ("dashdot", "longdash", "longdashdot", "4px,2px", "8px,3px,2px,3px")


def series_title(model: str, strategy: str, variant: str = "") -> str:
    """Return the title of a series: family letter, model, strategy and variant."""
    spec = MODELS[model]
    title = f"{FAMILY_LETTERS[spec.family]} · {spec.title}" + ("" if strategy == "scratch" else f", {strategy}")
    return f"{title} ({variant})" if variant else title


def style_of(model: str, strategy: str, variant: str = "") -> Style:
    """Return the style of a series, equal on all pages: one color per family, and another dash for a variant."""
    spec = MODELS[model]
    relatives = [row.name for row in MODELS.values() if row.family == spec.family]
    index = relatives.index(model) if model in relatives else sum(model.encode())  # models given by path have no row
    color = PLAIN if strategy.startswith("plain-") else FAMILY_COLORS[spec.family]
    dash = _DASHES.get(strategy, "solid")
    is_old, variant = variant.endswith(OLD_RECIPE), variant.removesuffix(OLD_RECIPE).removesuffix(", ")
    if variant:
        dash = _VARIANT_DASHES[sum(variant.encode()) % len(_VARIANT_DASHES)]
    return Style(color, "longdash" if is_old and dash == "solid" else dash, _MARKERS[index % len(_MARKERS)])


def translucent(colour: str, alpha: float) -> str:
    """Convert #RRGGBB to rgba() with an opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def legend_title(title: str, wrapped: bool = True) -> str:
    """Format a series' title for figures: wrapped after its first comma, with the leak mark in red."""
    title = title.replace(", ", ",<br>", 1) if wrapped else title
    return title.replace(LEAK_MARK, f'<span style="color:{RED}">{LEAK_MARK}</span>')


def show_figure(figure: go.Figure, key: str, alt: str) -> None:
    """Show a figure with its alternative text."""
    figure.update_layout(margin={"l": 10, "r": 10, "b": 10}, font_size=14, legend_title_text="")
    st.plotly_chart(figure, key=key, alt=alt, width="stretch", config={"displaylogo": False})


def confusion(counts: np.ndarray, labels: tuple[str, ...], title: str) -> go.Figure:
    """Draw a confusion matrix (rows: truth, columns: decision) with counts and the share of each row."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    text = [[f"{n:.0f}<br>{s:.0%}" for n, s in zip(ns, ss, strict=True)] for ns, ss in zip(counts, share, strict=True)]
    figure = go.Figure(
        go.Heatmap(
            z=share,
            x=list(labels),
            y=list(labels),
            text=text,
            texttemplate="%{text}",
            textfont={"size": 16},
            colorscale="Blues",
            zmin=0,
            zmax=1,
            showscale=False,
            hovertemplate="%{y}, decided %{x}: %{text}<extra></extra>",
        )
    )
    figure.update_yaxes(title="Truth", autorange="reversed")
    figure.update_xaxes(title="Decision")
    figure.update_layout(height=330, title={"text": legend_title(title), "font": {"size": 13}}, margin_t=60)
    return figure


def probability_table(meta: RunMeta, prediction: Prediction) -> None:
    """Show the probability of every class or finding and, for findings, the threshold."""
    rows = [
        {"Class": label, "Probability": float(p), "Decided": "yes" if index in prediction.decided else "no"}
        | ({"Threshold": meta.thresholds[index]} if meta.multilabel else {})
        for index, (label, p) in enumerate(zip(meta.titles, prediction.probabilities, strict=True))
    ]
    figures = {name: st.column_config.NumberColumn(format="percent") for name in ("Probability", "Threshold")}
    st.dataframe(
        sorted(rows, key=lambda row: -float(str(row["Probability"]))), hide_index=True, width="stretch",
        alt="Probability of every class, the most likely first", column_config=figures,
    )  # fmt: skip
