"""Charts of the Data page, in ink and grays: each color stands for a family of networks."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from core.ui.charts import ABOVE, GRAYS, INK, SHARES

_PATTERNS = ("", "/", "x", ".")


def balance(counts: dict[str, dict[str, int]]) -> go.Figure:
    """Draw the number of images by class, stacked by part.

    Args:
        counts: part -> class -> images.
    """
    figure = go.Figure()
    for place, (part, classes) in enumerate(counts.items()):
        figure.add_bar(
            y=list(classes), x=list(classes.values()), orientation="h", name=part,
            marker={"color": GRAYS[place % len(GRAYS)], "pattern": {"shape": _PATTERNS[place % len(_PATTERNS)]}},
            hovertemplate="%{y}: %{x:,} images<extra>" + part + "</extra>",
        )  # fmt: skip
    bars = max(map(len, counts.values()), default=0)
    figure.update_layout(barmode="stack", height=130 + 34 * max(2, bars), margin_t=10, legend=ABOVE)
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(title="Images")
    return figure


def together(counts: np.ndarray, names: tuple[str, ...]) -> go.Figure:
    """Draw the share of images with the row's finding that also show the column's finding; text: counts."""
    share = counts / np.maximum(np.diag(counts)[:, None], 1)
    figure = go.Figure(
        go.Heatmap(
            z=share, x=list(names), y=list(names), colorscale=SHARES, zmin=0, zmax=1, text=counts,
            texttemplate="%{text:,}", textfont_color=INK, colorbar={"title": "share of row"},
            hovertemplate="%{y} with %{x}: %{text:,} images, %{z:.0%} of %{y}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category")
    figure.update_layout(height=120 + 34 * len(names), margin_t=10)
    return figure


def sizes(rows: list[dict[str, Any]]) -> go.Figure:
    """Draw width against height of the sampled images."""
    figure = go.Figure()
    figure.add_scatter(
        x=[row["Width"] for row in rows], y=[row["Height"] for row in rows], mode="markers",
        marker={"size": 9, "color": INK, "opacity": 0.35}, text=[row["Class"] for row in rows],
        hovertemplate="%{x} x %{y} pixels<br>%{text}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="Width in pixels", rangemode="tozero")
    figure.update_yaxes(title="Height in pixels", rangemode="tozero")
    figure.update_layout(height=340, margin_t=10)
    return figure


def group_sizes(groups: np.ndarray) -> go.Figure:
    """Draw the number of groups (patients, lesions, copies of an image) by number of images per group."""
    _, images = np.unique(groups, return_counts=True)
    numbers, counts = np.unique(np.minimum(images, 20), return_counts=True)
    names = [f"{n}" if n < 20 else "20 or more" for n in numbers]
    figure = go.Figure(go.Bar(x=names, y=counts, marker_color=GRAYS[1], hovertemplate="%{y:,} groups<extra></extra>"))
    figure.update_xaxes(title="Images in the group", type="category")
    figure.update_yaxes(title="Groups")
    figure.update_layout(height=260, margin_t=10)
    return figure
