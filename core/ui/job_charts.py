"""Figures of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from core.ui.charts import COLOURS

_MOST = 400
_LINES = (
    ("train_loss", "Loss on learnt images", COLOURS[0], "solid", "circle"),
    ("validation_loss", "Loss on images held out", COLOURS[1], "dash", "square"),
)


def training_curve(epochs: Sequence[dict[str, Any]]) -> go.Figure:
    """Loss against epoch, of what is learnt and of what is held out; long curves are thinned."""
    figure = go.Figure()
    shown = epochs[:: 1 + len(epochs) // _MOST]
    for field, title, colour, dash, marker in _LINES:
        rows = [row for row in shown if row.get(field) is not None]
        figure.add_scatter(
            x=[row["epoch"] for row in rows], y=[row[field] for row in rows], mode="lines+markers", name=title,
            line={"color": colour, "dash": dash, "width": 2}, marker={"symbol": marker, "size": 6, "color": colour},
            hovertemplate="epoch %{x}: %{y:.4f}<extra>" + title + "</extra>",
        )  # fmt: skip
    figure.update_xaxes(title="Epoch", rangemode="tozero")
    figure.update_yaxes(title="Loss", rangemode="tozero")
    figure.update_layout(
        height=280, margin_t=10, legend={"orientation": "h", "yanchor": "bottom", "y": 1.02}, uirevision="kept"
    )
    return figure


def in_text(epochs: Sequence[dict[str, Any]]) -> str:
    """What the training curve shows, for those who cannot see it."""
    last = epochs[-1]
    parts = [f"{title.lower()} {last[field]:.3f}" for field, title, *_ in _LINES if last.get(field) is not None]
    return f"Training curve up to epoch {last['epoch']}: {', '.join(parts) or 'no loss yet'}"
