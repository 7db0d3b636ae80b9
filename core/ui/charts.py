"""Figures. Families keep one colour, dash and marker everywhere; colour is never the only difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from sklearn.metrics import roc_curve

from core.checkpoints import RunMeta
from core.metrics import METRICS, Scores
from core.models import MODELS
from core.predictor import Prediction
from core.results import Series


@dataclass(frozen=True)
class Style:
    """How a series is drawn."""

    colour: str
    dash: str
    marker: str


# Colour (Okabe and Ito 2008) and marker belong to the model, the dash to the strategy.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
_DASHES = {"finetune": "dash", "frozen-logistic": "dot"}
_VARIANT_DASHES = ("dashdot", "longdash", "longdashdot", "4px,2px", "8px,3px,2px,3px")
_VARIANT_MARKERS = ("hexagon", "pentagon", "triangle-down", "star-diamond", "hourglass", "bowtie", "triangle-left")
_LETTERS = {"scratch": "A", "imagenet": "B", "medical": "C", "control": "Control"}


def series_title(model: str, strategy: str, variant: str = "") -> str:
    """A model and how it was trained, in few words: its family's letter first."""
    spec = MODELS[model]
    title = f"{_LETTERS[spec.family]} · {spec.title}" + ("" if strategy == "scratch" else f", {strategy}")
    return f"{title} ({variant})" if variant else title


def style_of(model: str, strategy: str, variant: str = "") -> Style:
    """The style of a series, the same on every page; a variant has its model's colour and another dash and marker."""
    rows = list(MODELS)
    index = rows.index(model) if model in rows else sum(model.encode())  # weights given by path have no row
    colours = len(COLOURS)
    dash, marker = _DASHES.get(strategy, "solid"), _MARKERS[(index + index // colours) % len(_MARKERS)]
    if variant:
        number = sum(variant.encode())
        dash, marker = _VARIANT_DASHES[number % len(_VARIANT_DASHES)], _VARIANT_MARKERS[number % len(_VARIANT_MARKERS)]
    return Style(COLOURS[index % colours], dash, marker)


def translucent(colour: str, alpha: float) -> str:
    """#RRGGBB as an rgba() of some opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def draw(figure: go.Figure, key: str, alt: str) -> None:
    """Shows a figure with the text that stands for it."""
    figure.update_layout(margin={"l": 10, "r": 10, "b": 10}, font_size=14, legend_title_text="")
    st.plotly_chart(figure, key=key, alt=alt, width="stretch", config={"displaylogo": False})


def learning_curve(points: dict[Series, list[RunMeta]], metric: str, single_seeds: bool) -> go.Figure:
    """Metric against labelled images a class; mean over seeds, band from the lowest to the highest seed.

    A hollow marker is a size for which some class had too few images.
    """
    figure = go.Figure()
    for series, metas in points.items():
        style, title = style_of(*series), series_title(*series)
        sizes = sorted({meta.per_class for meta in metas})
        by_size = [[m.metrics[metric] for m in metas if m.per_class == size] for size in sizes]
        short = {meta.per_class for meta in metas if meta.short}
        means = [float(np.mean(values)) for values in by_size]
        low, high = [min(values) for values in by_size], [max(values) for values in by_size]
        figure.add_scatter(
            x=[*sizes, *sizes[::-1]], y=[*high, *low[::-1]], fill="toself", mode="none", name=title,
            fillcolor=translucent(style.colour, 0.13), legendgroup=title, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
        figure.add_scatter(
            x=sizes, y=means, mode="lines+markers", name=title, legendgroup=title,
            line={"color": style.colour, "dash": style.dash, "width": 2.5},
            marker={
                "symbol": [f"{style.marker}-open" if size in short else style.marker for size in sizes],
                "size": 10, "color": style.colour,
            },
            customdata=[[len(values), a, b] for values, a, b in zip(by_size, low, high, strict=True)],
            hovertemplate="%{y:.3f} at %{x} a class<br>%{customdata[0]} seeds, %{customdata[1]:.3f} to "
            "%{customdata[2]:.3f}<extra>" + title + "</extra>",
        )  # fmt: skip
        if single_seeds:
            figure.add_scatter(
                x=[m.per_class for m in metas], y=[m.metrics[metric] for m in metas], mode="markers", showlegend=False,
                legendgroup=title, marker={"symbol": style.marker, "size": 6, "color": style.colour, "opacity": 0.5},
                text=[f"seed {m.seed}" for m in metas], hovertemplate="%{text}: %{y:.3f}<extra></extra>",
            )  # fmt: skip
    every = sorted({meta.per_class for metas in points.values() for meta in metas})
    figure.update_xaxes(
        type="log", title="Labelled training images per class", tickvals=every, ticktext=[f"{size:g}" for size in every]
    )
    figure.update_yaxes(title=METRICS[metric].title)
    figure.update_layout(height=480, margin_t=30, legend={"orientation": "h", "y": -0.22}, hovermode="closest")
    return figure


def roc(curves: dict[Series, list[Scores]]) -> go.Figure:
    """Sensitivity against 1 - specificity; one curve a seed, the operating points marked."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": "#888888", "dash": "dot", "width": 1}, name="chance"
    )
    for series, seeds in curves.items():
        style, title = style_of(*series), series_title(*series)
        for index, scores in enumerate(seeds):
            assert scores.positive is not None
            truth = scores.labels == scores.positive
            alarms, found, _ = roc_curve(truth, scores.probabilities[:, scores.positive])
            figure.add_scatter(
                x=alarms, y=found, mode="lines", name=title, legendgroup=title, showlegend=index == 0,
                line={"color": translucent(style.colour, 0.55), "dash": style.dash, "width": 2},
                hovertemplate="sensitivity %{y:.3f}, false alarms %{x:.3f}<extra>" + title + "</extra>",
            )  # fmt: skip
            says = scores.decisions == scores.positive
            figure.add_scatter(
                x=[says[~truth].mean()], y=[says[truth].mean()], mode="markers", legendgroup=title, showlegend=False,
                marker={
                    "symbol": style.marker, "size": 12, "color": style.colour, "line": {"color": "white", "width": 1},
                },
                hovertemplate="operating point: sensitivity %{y:.3f}, "
                "false alarms %{x:.3f}<extra>" + title + "</extra>",
            )  # fmt: skip
    figure.update_xaxes(title="1 − specificity (share of negatives called positive)", range=[-0.01, 1.01])
    figure.update_yaxes(title="Sensitivity (share of positives found)", range=[-0.01, 1.01])
    figure.update_layout(height=460, margin_t=30, legend={"orientation": "h", "y": -0.22})
    return figure


def confusion(counts: np.ndarray, labels: tuple[str, ...], title: str) -> go.Figure:
    """Truth by row, decision by column: counts and the share of the row."""
    share = counts / counts.sum(axis=1, keepdims=True)
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
    wrapped = title.replace(", ", ",<br>")
    figure.update_layout(height=330, title={"text": wrapped, "font": {"size": 13}}, margin_t=60)
    return figure


def probability_table(meta: RunMeta, prediction: Prediction) -> None:
    """Every class or finding with its probability and, for findings, the threshold it is held against."""
    rows = [
        {"Class": label, "Probability": float(p), "Decided": "yes" if index in prediction.decided else "no"}
        | ({"Threshold": meta.thresholds[index]} if meta.multilabel else {})
        for index, (label, p) in enumerate(zip(meta.labels, prediction.probabilities, strict=True))
    ]
    figures = {name: st.column_config.NumberColumn(format="percent") for name in ("Probability", "Threshold")}
    st.dataframe(
        sorted(rows, key=lambda row: -float(str(row["Probability"]))), hide_index=True, width="stretch",
        alt="Probability of every class, the likeliest first", column_config=figures,
    )  # fmt: skip
