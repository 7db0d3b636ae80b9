"""Figures of model cards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from core.metrics.reliability import Bin
from core.ui.charts import COLOURS


def reliability(bins: Sequence[Bin]) -> go.Figure:
    """Share that came true against stated probability, with Wilson intervals and counts of images."""
    shown = [one for one in bins if one.n]
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": "#767676", "dash": "dot", "width": 1.5}, name="perfect"
    )
    figure.add_scatter(
        x=[one.stated for one in shown], y=[one.happened.value for one in shown], mode="lines+markers+text",
        name="measured",
        text=[f"{one.n}" for one in shown], textposition="bottom right", textfont={"color": "#31333F", "size": 12},
        line={"color": COLOURS[0], "width": 2}, marker={"symbol": "circle", "size": 9, "color": COLOURS[0]},
        error_y={
            "type": "data", "symmetric": False, "color": COLOURS[0],
            "array": [one.happened.high - one.happened.value for one in shown],
            "arrayminus": [one.happened.value - one.happened.low for one in shown],
        },
        customdata=[[one.n] for one in shown],
        hovertemplate="stated %{x:.2f}, came true %{y:.2f}, %{customdata[0]} images<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="Stated probability", range=[-0.02, 1.02])
    figure.update_yaxes(title="Share for which it came true", range=[-0.02, 1.02])
    figure.update_layout(height=380, margin_t=10, legend={"orientation": "h", "yanchor": "bottom", "y": 1.02})
    return figure


def pretraining(curve: Sequence[dict[str, Any]]) -> go.Figure:
    """Loss against step of an encoder's pretraining."""
    figure = go.Figure()
    figure.add_scatter(
        x=[row["step"] for row in curve], y=[row["loss"] for row in curve], mode="lines+markers", name="loss",
        line={"color": COLOURS[0], "width": 2}, marker={"symbol": "circle", "size": 5},
        hovertemplate="step %{x}: %{y:.3f}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="Step")
    figure.update_yaxes(title="Loss", rangemode="tozero")
    figure.update_layout(height=300, margin_t=10, showlegend=False)
    return figure
