"""Chart styles and shared figures. Each series keeps its color, dash and marker; color is never the only cue."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from core.inference.predictor import Prediction
from core.models import BASELINE_COLOR, FAMILY_COLORS, FAMILY_LETTERS, MODELS
from core.runs import OLD_RECIPE, RunMeta
from core.ui.tables import table
from core.ui.text import LEAK_MARK


@dataclass(frozen=True)
class Style:
    """Color, line dash and marker of a series."""

    color: str
    dash: str
    marker: str

    def line(self, width: float = 2, dash: str = "") -> dict[str, Any]:
        """Return the properties of a line in this style."""
        return {"color": self.color, "dash": dash or self.dash, "width": width}

    def mark(self, size: int, **properties: Any) -> dict[str, Any]:
        """Return the properties of a marker in this style."""
        return {"symbol": self.marker, "size": size, "color": self.color} | properties


# The family determines the color. Family and model determine the marker, family, strategy and variant the dash, so that
# the series that stand for the families also differ without color.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK = BASELINE_COLOR  # also the text color of the only theme, see `.streamlit/config.toml`
GRAYS = (INK, "#5A5F66", "#8C9197", "#B4B8BD")  # for elements that belong to no family
RED = "#B00020"
SHARES = ((0.0, "#FFFFFF"), (1.0, "#6BAED6"))  # colors of shares from 0 to 1, all with a contrast of 7:1 to `INK`
ABOVE = {"orientation": "h", "yanchor": "bottom", "y": 1.02}  # place of a legend
_MARKERS = (
    "circle", "square", "diamond", "triangle-up", "star", "cross", "hexagram", "hexagon", "pentagon", "triangle-down",
    "star-diamond", "hourglass", "bowtie", "triangle-left",
)  # fmt: skip
_BASELINE_MARKER = "x"  # of the untuned loops alone
_DASHES = (
    "solid", "dash", "longdash", "dashdot", "longdashdot", "6px,3px", "10px,2px,2px,2px", "4px,2px", "12px,4px",
    "8px,3px,2px,3px", "2px,4px",
)  # fmt: skip
_STRATEGIES = (
    "frozen", "finetune", "frozen-logistic", "finetune-last", "protonet", "protonet-meta", "maml", "plain-loop",
    "plain-scratch", "scratch-quick",
)  # fmt: skip


def series_title(model: str, strategy: str, variant: str = "") -> str:
    """Return the title of a series: family letter, model, strategy and variant."""
    spec = MODELS[model]
    title = f"{FAMILY_LETTERS[spec.family]} · {spec.title}" + ("" if strategy == "scratch" else f", {strategy}")
    return f"{title} ({variant})" if variant else title


def style_of(model: str, strategy: str, variant: str = "") -> Style:
    """Return the style of a series, equal on all pages: one color per family, and another dash for a variant."""
    spec = MODELS[model]
    family = list(FAMILY_COLORS).index(spec.family)
    relatives = [row.name for row in MODELS.values() if row.family == spec.family]
    index = relatives.index(model) if model in relatives else sum(model.encode())  # models given by path have no row
    color = INK if strategy.startswith("plain-") else FAMILY_COLORS[spec.family]
    way = _STRATEGIES.index(strategy) if strategy in _STRATEGIES else 0
    shift = 5 if variant == OLD_RECIPE else 1 + sum(variant.encode()) % (len(_DASHES) - 1) if variant else 0
    dash = family + way + shift
    marker = _BASELINE_MARKER if strategy.startswith("plain-") else _MARKERS[(family + index) % len(_MARKERS)]
    return Style(color, _DASHES[dash % len(_DASHES)], marker)


def translucent(color: str, alpha: float) -> str:
    """Convert #RRGGBB to rgba() with an opacity."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def legend_title(title: str, wrapped: bool = True) -> str:
    """Format a series' title for figures: wrapped after its first comma, with the leak mark in red."""
    title = title.replace(", ", ",<br>", 1) if wrapped else title
    return title.replace(LEAK_MARK, f'<span style="color:{RED}">{LEAK_MARK}</span>')


def show_figure(figure: go.Figure, key: str, alt: str, on_select: Callable[[], None] | None = None) -> None:
    """Show a figure with its alternative text; all its text has the same contrast as the text of the page.

    Args:
        figure: the figure.
        key: key of the chart.
        alt: description for screen readers.
        on_select: called when a point is clicked.
    """
    st.plotly_chart(
        ready(figure), key=key, alt=alt, width="stretch", config={"displaylogo": False},
        on_select=on_select or "ignore", selection_mode="points",
    )  # fmt: skip


def ready(figure: go.Figure) -> go.Figure:
    """Give a figure the page's margins and text color. Streamlit's theme would draw axes in a gray below 4.5:1."""
    figure.update_layout(
        margin={"l": 10, "b": 10}, font={"size": 14, "color": INK}, legend_title_text="", legend_font_color=INK,
        title_font_color=INK,
    )  # fmt: skip
    if figure.layout.margin.r is None:
        figure.update_layout(margin_r=10)
    for axes in (figure.update_xaxes, figure.update_yaxes):
        axes(tickfont_color=INK, title_font_color=INK)
    figure.update_annotations(font_color=INK)
    return figure


_LINE, _LETTER = 17, 7  # height of a line and width of a letter in labels, in pixels


@dataclass(frozen=True)
class Dot:
    """A row of a dot plot.

    Attributes:
        title: text at the left.
        style: style of the marker and its intervals.
        value: the value.
        low, high: ends of the thick interval.
        thin: ends of a second, thin interval below the first; None for none.
        note: text at the right; also shown on hovering.
    """

    title: str
    style: Style
    value: float
    low: float
    high: float
    thin: tuple[float, float] | None = None
    note: str = ""


def dot_plot(rows: Sequence[Dot], title: str) -> go.Figure:
    """Draw one row per value: the value with its intervals, and its numbers at the right.

    Args:
        rows: rows from top to bottom.
        title: title of the axis.
    """
    figure = go.Figure()
    for place, row in enumerate(rows):
        for ends, width, below in ((row.thin, 1.2, 0.2), ((row.low, row.high), 4, 0)):
            if ends and not any(map(math.isnan, ends)):
                figure.add_scatter(
                    x=list(ends), y=[place + below] * 2, mode="lines", showlegend=False, hoverinfo="skip",
                    line={"color": row.style.color, "width": width},
                )  # fmt: skip
        figure.add_scatter(
            x=[row.value], y=[place], mode="markers", showlegend=False, marker=row.style.mark(13),
            hovertemplate=f"{row.title}<br>{row.note}<extra></extra>",
        )  # fmt: skip
        figure.add_annotation(
            x=1, xref="paper", xanchor="left", xshift=12, y=place, text=row.note, showarrow=False, align="left",
            font_size=13,
        )  # fmt: skip
    figure.update_xaxes(title=title)
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=[legend_title(row.title) for row in rows], showgrid=False,
        range=[len(rows) - 0.5, -0.5], zeroline=False,
    )  # fmt: skip
    longest = max((len(line) for row in rows for line in row.note.split("<br>")), default=0)
    figure.update_layout(height=90 + 52 * len(rows), margin_t=10, margin_r=20 + _LETTER * longest)
    return figure


def label_lines(figure: go.Figure, ends: Mapping[str, tuple[float, float, Style]], plot: int, right: float) -> bool:
    """Label lines of a figure with a logarithmic horizontal axis at its right edge, so that labels never overlap.

    Args:
        figure: the figure; its vertical range is set here.
        ends: title -> horizontal and vertical position of the end of the line, and its style.
        plot: height of the plot in pixels.
        right: right end of the horizontal axis, as a logarithm.
    Returns:
        False if there are too many lines to label them; the figure is then unchanged and needs a legend.
    """
    texts = {title: legend_title(title) for title in ends}
    heights = {title: _LINE * (text.count("<br>") + 1) + 4 for title, text in texts.items()}
    if sum(heights.values()) > plot:
        return False
    bottom, top = figure.layout.yaxis.range
    scale = (top - bottom) / plot  # of a pixel
    order = sorted(ends, key=lambda title: -ends[title][1])
    # Place labels from the top down, each below the one before; then push back up what falls below the bottom.
    centers: dict[str, float] = {}
    free = 0.0
    for title in order:
        center = max((top - ends[title][1]) / scale, free + heights[title] / 2)
        centers[title], free = center, center + heights[title] / 2
    free = float(plot)
    for title in reversed(order):
        centers[title] = min(centers[title], free - heights[title] / 2)
        free = centers[title] - heights[title] / 2
    for title in order:
        x, y, style = ends[title]
        figure.add_annotation(
            x=math.log10(x), y=y, ax=right, ay=top - centers[title] * scale, axref="x", ayref="y", xanchor="left",
            text=texts[title], align="left", font_size=13, showarrow=True, arrowhead=0, arrowwidth=1,
            arrowcolor=style.color,
        )  # fmt: skip
    longest = max(len(line) for text in texts.values() for line in text.split("<br>"))
    figure.update_layout(margin_r=15 + _LETTER * longest)
    return True


def confusion(
    counts: np.ndarray, labels: tuple[str, ...], title: str, picked: tuple[int, int] | None = None
) -> go.Figure:
    """Draw a confusion matrix (rows: truth, columns: decision) with counts and the share of each row.

    A click selects a point whose `customdata` is the row and the column of the cell.

    Args:
        counts: (C, C).
        labels: names of the classes.
        title: title of the figure.
        picked: row and column of a cell to frame.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    text = [[f"{n:.0f}<br>{s:.0%}" for n, s in zip(ns, ss, strict=True)] for ns, ss in zip(counts, share, strict=True)]
    figure = go.Figure(
        go.Heatmap(
            z=share, x=list(labels), y=list(labels), text=text, texttemplate="%{text}",
            textfont={"size": 16, "color": INK}, colorscale=SHARES, zmin=0, zmax=1, showscale=False, hoverinfo="skip",
        )
    )  # fmt: skip
    cells = [(row, column) for row in range(len(labels)) for column in range(len(labels))]
    invisible = {"marker": {"opacity": 0}}  # heatmaps cannot be clicked, so invisible points lie over the cells
    figure.add_scatter(
        x=[labels[column] for _, column in cells], y=[labels[row] for row, _ in cells], customdata=cells,
        mode="markers", marker={"symbol": "square", "size": 200 / len(labels), "opacity": 0}, showlegend=False,
        selected=invisible, unselected=invisible, text=[text[row][column] for row, column in cells],
        hovertemplate="%{y}, decided %{x}: %{text}<extra></extra>",
    )  # fmt: skip
    if picked:
        row, column = picked
        figure.add_shape(
            type="rect", x0=column - 0.5, x1=column + 0.5, y0=row - 0.5, y1=row + 0.5,
            line={"color": INK, "width": 3},
        )  # fmt: skip
    figure.update_yaxes(title="Truth", range=[len(labels) - 0.5, -0.5], showgrid=False)
    figure.update_xaxes(title="Decision", range=[-0.5, len(labels) - 0.5], showgrid=False)
    figure.update_layout(height=330, title={"text": legend_title(title), "font": {"size": 13}}, margin_t=60)
    return figure


def loss_curves(rows: Sequence[Mapping[str, Any]], lines: Mapping[str, tuple[str, Style]], step: str) -> go.Figure:
    """Draw losses during training.

    Args:
        rows: stored values, in order.
        lines: name of a loss in the rows -> its title and style.
        step: name of the horizontal axis in the rows.
    """
    figure = go.Figure()
    for field, (title, style) in lines.items():
        known = [row for row in rows if row.get(field) is not None]
        figure.add_scatter(
            x=[row[step] for row in known], y=[row[field] for row in known], mode="lines+markers", name=title,
            line=style.line(), marker=style.mark(6), hovertemplate=f"{step} %{{x}}: %{{y:.4f}}<extra>{title}</extra>",
        )  # fmt: skip
    figure.update_xaxes(title=step.capitalize(), rangemode="tozero")
    figure.update_yaxes(title="Loss", rangemode="tozero")
    figure.update_layout(height=280, margin_t=10, legend=ABOVE, uirevision="kept")
    return figure


def probability_table(meta: RunMeta, prediction: Prediction) -> None:
    """Show the probability of every class or finding and, for findings, the threshold."""
    rows = [
        {"Class": label, "Probability": float(p), "Decided": "yes" if index in prediction.decided else "no"}
        | ({"Threshold": meta.thresholds[index]} if meta.multilabel else {})
        for index, (label, p) in enumerate(zip(meta.titles, prediction.probabilities, strict=True))
    ]
    ordered = sorted(rows, key=lambda row: -float(str(row["Probability"])))
    percent = dict.fromkeys(("Probability", "Threshold"), "percent")
    table(ordered, "Probability of every class, the most likely first", formats=percent)
