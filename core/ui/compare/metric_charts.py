"""Figures of metrics: measured and fitted learning curves, differences with intervals, and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.metrics import METRICS, Estimate, Metric, between_seeds
from core.metrics.comparisons import Difference
from core.metrics.learning_curves import Fit
from core.runs import Run
from core.runs.series import Series
from core.ui import charts
from core.ui.charts import Dot, Style, dot_plot, label_lines, legend_title, translucent

GRAY = "#9A9A9A"
_A_ROW = 3
_POINTS = 80


@dataclass(frozen=True)
class Measured:
    """Measured values of a series.

    Attributes:
        style: its style.
        values: images per class -> the value of each seed.
        short: sizes for which some class had too few images.
    """

    style: Style
    values: Mapping[float, Sequence[float]]
    short: frozenset[float] = frozenset()

    @classmethod
    def of(cls, name: Series, runs: Sequence[Run], values: Sequence[float]) -> Measured:
        """Gather the value of each run of a series."""
        by_size: dict[float, list[float]] = {}
        for run, value in zip(runs, values, strict=True):
            by_size.setdefault(run.meta.per_class, []).append(value)
        return cls(charts.style_of(*name), by_size, frozenset(run.meta.per_class for run in runs if run.meta.short))


def learning_curves(
    series: Mapping[str, Measured], metric: str, single_seeds: bool = False, panels: bool = False
) -> go.Figure:
    """Draw a metric against labeled images per class. Line: mean over seeds; band: its 95% interval (Student's t).

    Args:
        series: title -> measured values; a hollow marker is a size for which some class had too few images.
        metric: name of the metric.
        single_seeds: whether to show each seed as well.
        panels: whether each series has its own panel, with the means of the others in gray.
    """
    means = {title: [(n, float(np.mean(row.values[n]))) for n in sorted(row.values)] for title, row in series.items()}
    figure, places = _frame(means, panels)
    for (title, row), at in zip(series.items(), places, strict=True):
        _measured(figure, title, row, METRICS[metric], single_seeds, at)
    sizes = {n for row in series.values() for n in row.values}
    _axes(figure, sorted(sizes), METRICS[metric].title, panels, len(series))
    if not panels:
        _label_ends(figure, {title: (*means[title][-1], row.style) for title, row in series.items()})
    return figure


def fitted_curves(
    series: Mapping[str, tuple[Measured, Fit]], metric: str, target: float | None = None, panels: bool = False
) -> go.Figure:
    """Draw fitted curves with bands and the measured means; extrapolation is dotted, on a fainter band.

    Args:
        series: title -> measured values and fit.
        metric: name of the metric.
        target: a target value, drawn as a line.
        panels: whether each series has its own panel, with the others in gray.
    """
    figure, places = _frame({title: _curve(fit) for title, (_, fit) in series.items()}, panels)
    for (title, (row, fit)), at in zip(series.items(), places, strict=True):
        _fitted(figure, title, row.style, fit, at)
        figure.add_scatter(
            x=list(fit.sizes), y=list(fit.means), mode="markers", name=legend_title(title, False), legendgroup=title,
            showlegend=False, **at, marker=row.style.mark(8),
            hovertemplate="measured mean %{y:.3f} at %{x:g}<extra>" + title + "</extra>",
        )  # fmt: skip
    if target is not None:
        figure.add_hline(target, line={"color": "#444444", "dash": "dot", "width": 1.5})
    ticks = {n for row, _ in series.values() for n in row.values} | {fit.limit for _, fit in series.values()}
    _axes(figure, sorted(ticks), METRICS[metric].title, panels, len(series))
    if not panels:
        ends = {
            title: (fit.limit, float(fit.sign * fit.rising(np.array([fit.limit]))[0, 0]), row.style)
            for title, (row, fit) in series.items()
        }
        _label_ends(figure, ends, [] if target is None else [target])
    return figure


def forest(rows: Mapping[str, tuple[Style, Difference]], metric: str) -> go.Figure:
    """Draw differences from a reference with 95% intervals and verdicts; shaded: the equivalence margin."""
    dots = [
        Dot(title, style, row.effect, row.low, row.high, note=f"{row.interval_text()}<br>{row.verdict}")
        for title, (style, row) in rows.items()
    ]
    better = "right" if METRICS[metric].higher_is_better else "left"
    figure = dot_plot(dots, f"{METRICS[metric].title}: difference from the reference ({better} is better)")
    margin = next(row.margin for _, row in rows.values())
    figure.add_vrect(-margin, margin, fillcolor=translucent(GRAY, 0.2), line_width=0, layer="below")
    figure.add_vline(0, line={"color": GRAY, "width": 1.5})
    return figure


def own_and_external(series: Mapping[str, tuple[Style, Estimate, Estimate]], metric: str) -> go.Figure:
    """Draw a metric of each series on its internal and on an external test set, with 95% intervals over patients.

    Args:
        series: title -> style, the estimate on the internal test set and on the external one.
        metric: name of the metric.
    """
    dots = [
        Dot(f"{title}, {place}", style, row.value, row.low, row.high, note=f"{row:.3f}")
        for title, (style, own, external) in series.items()
        for place, row in (("internal test", own), ("external test", external))
    ]
    return dot_plot(dots, METRICS[metric].title)


def training_curves(series: Mapping[str, tuple[Style, Sequence[Sequence[Mapping[str, float | None]]]]]) -> go.Figure:
    """Draw loss and metric by epoch of each run; solid: training images, dashed: held-out images.

    Args:
        series: title -> style and the stored rows of each of its runs.
    """
    kinds = _kinds([row for _, runs in series.values() for rows in runs for row in rows])
    figure = make_subplots(rows=1, cols=len(kinds), subplot_titles=[kind.capitalize() for kind in kinds])
    for title, (style, runs) in series.items():
        for column, kind in enumerate(kinds, 1):
            for part, dash in (("train", "solid"), ("validation", "dash")):
                lines = [[(row["epoch"], row.get(f"{part}_{kind}")) for row in rows] for rows in runs]
                if any(value is not None for line in lines for _, value in line):
                    figure.add_scatter(
                        **_joined(lines), mode="lines", line=style.line(1.6, dash),
                        name=f"{legend_title(title, False)}, {'training' if part == 'train' else 'held out'}",
                        legendgroup=f"{title}-{part}", showlegend=column == 1, row=1, col=column,
                        hovertemplate="epoch %{x}: %{y:.3f}<extra></extra>",
                    )  # fmt: skip
                    ends = [line[-1] for line in lines if line and line[-1][1] is not None]
                    figure.add_scatter(
                        x=[x for x, _ in ends], y=[y for _, y in ends], mode="markers", showlegend=False,
                        legendgroup=f"{title}-{part}", hoverinfo="skip", row=1, col=column, marker=style.mark(8),
                    )  # fmt: skip
    figure.update_xaxes(title="Epoch")
    figure.update_layout(height=430 + 22 * len(series), margin_t=40, legend={"orientation": "h", "y": -0.25})
    return figure


def _kinds(rows: Sequence[Mapping[str, float | None]]) -> list[str]:
    """Return the names of the quantities stored by epoch, the loss first."""
    names = {name.split("_", 1)[1] for row in rows for name in row if name.startswith(("train_", "validation_"))}
    return sorted(names, key=lambda name: (name != "loss", name))


def _frame(lines: Mapping[str, Sequence[tuple[float, float]]], panels: bool) -> tuple[go.Figure, list[dict[str, int]]]:
    """Return a figure and the row and column of each series in it; panels show the others, thin and gray."""
    if not panels:
        return go.Figure(), [{} for _ in lines]
    columns = min(_A_ROW, len(lines))
    rows = -(-len(lines) // columns)
    figure = make_subplots(
        rows=rows, cols=columns, shared_xaxes="all", shared_yaxes="all", subplot_titles=list(map(legend_title, lines)),
        vertical_spacing=0.42 / max(rows, 2), horizontal_spacing=0.03,
    )  # fmt: skip
    figure.update_annotations(font_size=12)
    places = [{"row": index // columns + 1, "col": index % columns + 1} for index in range(len(lines))]
    for title, at in zip(lines, places, strict=True):
        figure.add_scatter(
            **_joined([line for other, line in lines.items() if other != title]), mode="lines", showlegend=False,
            line={"color": translucent(GRAY, 0.6), "width": 1}, hoverinfo="skip", **at,
        )  # fmt: skip
    return figure, places


_PLOT = 400  # height of a single panel in pixels, and of what is above and below it
_ABOVE, _BELOW = 20, 60


def _axes(figure: go.Figure, sizes: list[float], title: str, panels: bool, count: int) -> None:
    ticks = {"type": "log", "tickvals": sizes, "ticktext": [f"{n:g}" for n in sizes], "tickangle": 0}
    figure.update_xaxes(**ticks)
    if panels:
        rows = -(-count // min(_A_ROW, count))
        figure.update_xaxes(showticklabels=True, tickfont_size=11)
        figure.update_xaxes(title="images per class", title_font_size=12, row=rows)
        figure.update_yaxes(title=title, title_font_size=12, col=1)
        figure.update_layout(height=90 + 255 * rows, margin_t=50, showlegend=False)
    else:
        figure.update_xaxes(title="Labeled training images per class")
        figure.update_yaxes(title=title)
        figure.update_layout(height=_PLOT + _ABOVE + _BELOW, margin_t=_ABOVE, hovermode="closest")


def _label_ends(figure: go.Figure, ends: Mapping[str, tuple[float, float, Style]], also: Sequence[float] = ()) -> None:
    """Label each line of a single panel at its end, or add a legend if there are too many.

    Args:
        figure: the figure, with all its traces.
        ends: title -> end of the line and its style.
        also: values that the vertical axis must show.
    """
    heights = np.array([*also, *(y for trace in figure.data if trace.y is not None for y in trace.y)], dtype=float)
    low, high = np.nanmin(heights), np.nanmax(heights)
    pad = 0.05 * (high - low or 1)
    figure.update_yaxes(range=[low - pad, high + pad])
    widths = np.log10([x for trace in figure.data if trace.x is not None for x in trace.x])
    left, right = widths.min(), widths.max()
    edge = right + 0.03 * (right - left or 1)
    figure.update_xaxes(range=[left - 0.03 * (right - left or 1), edge])
    if not label_lines(figure, ends, _PLOT, edge + 0.03 * (right - left or 1)):
        figure.update_traces(showlegend=True, selector=lambda trace: "markers" in trace.mode and trace.name)
        figure.update_layout(
            height=_PLOT + _ABOVE + _BELOW + 24 * len(ends), legend={"orientation": "h", "y": -0.2, "yanchor": "top"}
        )


def _joined(lines: Sequence[Sequence[tuple[float | None, float | None]]]) -> dict[str, list[float | None]]:
    """Join several lines into one trace with gaps, because fewer traces draw faster."""
    points = [point for line in lines for point in (*line, (None, None))]
    return {"x": [x for x, _ in points], "y": [y for _, y in points]}


def _measured(
    figure: go.Figure, title: str, measured: Measured, metric: Metric, single_seeds: bool, at: dict[str, int]
) -> None:
    style, sizes = measured.style, sorted(measured.values)
    values = [measured.values[n] for n in sizes]
    spreads = [between_seeds(row, metric) for row in values]
    ends = [(n, spread.low, spread.high) for n, spread in zip(sizes, spreads, strict=True) if spread.seeds > 1]
    _band(figure, ends, translucent(style.color, 0.13), title, at)
    figure.add_scatter(
        x=sizes, y=[float(np.mean(row)) for row in values], mode="lines+markers", name=legend_title(title, False),
        legendgroup=title, showlegend=False, line=style.line(2.5), **at,
        marker=style.mark(9, symbol=[f"{style.marker}-open" if n in measured.short else style.marker for n in sizes]),
        customdata=[f"{spread.seeds} seeds: " * (spread.seeds > 1) + spread.ends for spread in spreads],
        hovertemplate="%{y:.3f} at %{x:g} per class<br>%{customdata}<extra>" + title + "</extra>",
    )  # fmt: skip
    if single_seeds:
        figure.add_scatter(
            x=[n for n, row in zip(sizes, values, strict=True) for _ in row], y=[v for row in values for v in row],
            mode="markers", showlegend=False, legendgroup=title, hovertemplate="one seed: %{y:.3f}<extra></extra>",
            marker=style.mark(5, opacity=0.5), **at,
        )  # fmt: skip


def _curve(fit: Fit) -> list[tuple[float, float]]:
    sizes = np.geomspace(fit.sizes[0], fit.sizes[-1], _POINTS)
    return list(zip(sizes.tolist(), (fit.sign * fit.rising(sizes)[0]).tolist(), strict=True))


def _fitted(figure: go.Figure, title: str, style: Style, fit: Fit, at: dict[str, int]) -> None:
    parts = [(fit.sizes[0], fit.sizes[-1], style.dash, 2.5, 0.15, "")]
    if fit.limit > fit.sizes[-1]:
        parts.append((fit.sizes[-1], fit.limit, "dot", 1.5, 0.06, ", extrapolated"))
    for start, end, dash, width, faint, note in parts:
        band = fit.band(np.geomspace(start, end, _POINTS))
        ends = list(zip(band.sizes.tolist(), band.low.tolist(), band.high.tolist(), strict=True))
        _band(figure, ends, translucent(style.color, faint), title, at)
        figure.add_scatter(
            x=band.sizes, y=band.value, mode="lines", name=legend_title(title, False), legendgroup=title,
            showlegend=False, **at, line=style.line(width, dash),
            hovertemplate=f"%{{y:.3f}} at %{{x:.0f}} per class{note}<extra>{title}</extra>",
        )  # fmt: skip


def _band(
    figure: go.Figure, ends: Sequence[tuple[float, float, float]], color: str, title: str, at: dict[str, int]
) -> None:
    """Fill the area between the low and the high ends, given as (x, low, high)."""
    figure.add_scatter(
        x=[x for x, _, _ in [*ends, *ends[::-1]]], y=[high for _, _, high in ends] + [low for _, low, _ in ends[::-1]],
        fill="toself", mode="none", fillcolor=color, legendgroup=title, showlegend=False, hoverinfo="skip", **at,
    )  # fmt: skip
