"""Six diagrams of one operating point in one figure: a click in the legend hides a series in all of them."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from core.analysis.operating_point import RocCurve, ShiftedSeries
from core.metrics.reliability import Bin
from core.metrics.selective import RiskCurve
from core.ui.charts import Style, legend_title, translucent

TITLES = ("ROC", "Precision and recall", "Calibration", "Decision curve", "Images by probability", "Risk and coverage")
_ROC, _PR, _RELIABILITY, _DECISION, _COUNTS, _RISK = (
    {"xaxis": f"x{n}", "yaxis": f"y{n}"} for n in ("", "2", "3", "4", "5", "6")
)
AXES = (
    ("1 − specificity", "sensitivity"), ("sensitivity (recall)", "precision (PPV)"),
    ("predicted probability", "observed frequency"), ("threshold probability", "net benefit"),
    ("predicted probability", "test images"), ("coverage, most confident first", "error rate"),
)  # fmt: skip
Trace = dict[str, Any]  # a plain dict, so that plotly validates it only once, with the figure
_POINTS = 300
BANDED = 4  # with more series, bands would overlap
_GRAY = "#777777"


@dataclass(frozen=True)
class SeriesData:
    """Data of a series at its operating point.

    Attributes:
        style: its style.
        mean: sensitivity against false-positive rate, mean over seeds.
        seeds: the same for each seed.
        shifted: performance at the chosen operating point.
        risk: risk against coverage.
        bins: reliability diagram of one seed.
        mark: threshold of that seed.
    """

    style: Style
    mean: RocCurve
    seeds: list[RocCurve]
    shifted: ShiftedSeries
    risk: RiskCurve
    bins: list[Bin]
    mark: float


def diagrams(series: Mapping[str, SeriesData], prevalence: float, single_seeds: bool) -> go.Figure:
    """Draw ROC, precision-recall, reliability with counts, decision and risk-coverage curves with operating points.

    Args:
        series: title -> data.
        prevalence: prevalence at which precision and net benefit apply.
        single_seeds: whether to draw the curve of each seed behind the mean.
    """
    traces: list[Trace] = [
        _gray([0, 1], [0, 1]) | _ROC,
        _gray([0, 1], [prevalence, prevalence]) | _PR,
        _gray([0, 1], [0, 1]) | _RELIABILITY,
    ]
    for number, (title, data) in enumerate(series.items()):
        if not number:
            curve = data.shifted.decision_curve
            traces.append(_gray(curve.thresholds, curve.act_on_all, "acting on all") | _DECISION)
            traces.append(_gray([0, 1], [0, 0], "acting on none") | _DECISION)
        traces += _of_series(title, data, prevalence, single_seeds, len(series) <= BANDED)
    layout = copy.deepcopy(_layout())
    layout["yaxis4"]["range"] = [-0.15 * prevalence, 1.05 * prevalence]
    return go.Figure(traces, {**layout, "height": 1080 + 20 * len(series)})


@cache
def _layout() -> dict[str, Any]:
    """Return the constant layout of the figure; it is cached because building it takes longer than the rest."""
    figure = make_subplots(rows=3, cols=2, subplot_titles=TITLES, vertical_spacing=0.1, horizontal_spacing=0.1)
    figure.update_layout(
        margin_t=60, barmode="group", bargap=0.1, legend={"orientation": "h", "y": 1.05, "yanchor": "bottom", "x": 0}
    )
    for number, (x, y) in enumerate(AXES):
        at = {"row": number // 2 + 1, "col": number % 2 + 1}
        figure.update_xaxes(title=x, range=[-0.02, 1.02], title_standoff=12, title_font_size=13, **at)
        figure.update_yaxes(title=y, title_standoff=12, title_font_size=13, **at)
        if number < 3:  # the first three diagrams show shares from 0 to 1
            figure.update_yaxes(range=[-0.02, 1.04], **at)
    figure.update_yaxes(rangemode="tozero", row=3, col=2)
    return figure.layout.to_plotly_json()


def _scatter(**properties: object) -> Trace:
    return {"type": "scatter", **properties}


def _legend(title: str, style: Style) -> Trace:
    """Return an invisible trace that puts the line and marker of a series into the legend."""
    return _scatter(
        x=[None], y=[None], mode="lines+markers", name=legend_title(title, False), legendgroup=title,
        line=style.line(), marker=style.mark(9),
    )  # fmt: skip


def _of_series(title: str, data: SeriesData, prevalence: float, single_seeds: bool, banded: bool) -> list[Trace]:
    performance, curve, risk = data.shifted.performance, data.shifted.decision_curve, data.risk
    false_positive_rate, sensitivity = 1 - performance.specificity.value, performance.sensitivity.value
    decision_marks = np.array(curve.marks)
    bins = [row for row in data.bins if row.n]
    observed = np.interp(data.mark, [row.mean_probability for row in bins], [row.frequency.value for row in bins])
    line = _Lines(title, data.style)
    traces = [
        line.line(data.mean.false_positive_rate, data.mean.sensitivity) | _ROC,
        line.mark([false_positive_rate], [sensitivity]) | _ROC,
        line.line(data.mean.sensitivity, data.mean.precision(prevalence)) | _PR,
        line.mark([sensitivity], [performance.ppv.value]) | _PR,
        line.reliability(bins) | _RELIABILITY,
        line.mark([data.mark], [observed]) | _RELIABILITY,
        line.line(curve.thresholds, curve.benefit) | _DECISION,
        line.mark(decision_marks[:, 0], decision_marks[:, 1], 7) | _DECISION,
        line.counts(data.bins) | _COUNTS,
        line.line(risk.coverage, risk.risk) | _RISK,
        line.mark([1], [risk.risk[-1]]) | _RISK,
    ]
    if banded:
        traces.append(line.band(curve.thresholds, curve.low, curve.high) | _DECISION)
        traces.append(line.band(risk.coverage, risk.low, risk.high) | _RISK)
    if single_seeds:
        seeds = [_thinned(roc) for roc in data.seeds]
        traces.append(line.thin([(roc.false_positive_rate, roc.sensitivity) for roc in seeds]) | _ROC)
        traces.append(line.thin([(roc.sensitivity, roc.precision(prevalence)) for roc in seeds]) | _PR)
    of_series = {"legendgroup": title, "showlegend": False}  # the legend's own entry stands for all
    return [_legend(title, data.style) | _ROC, *(trace | of_series for trace in traces)]


@dataclass(frozen=True)
class _Lines:
    """Traces of a series, which share one legend entry."""

    title: str
    style: Style

    def line(self, x: np.ndarray, y: np.ndarray) -> Trace:
        return _scatter(
            x=x, y=y, mode="lines", line=self.style.line(),
            hovertemplate="%{x:.3f}, %{y:.3f}<extra>" + self.title + "</extra>",
        )  # fmt: skip

    def thin(self, lines: list[tuple[np.ndarray, np.ndarray]]) -> Trace:
        x, y = (np.concatenate([np.r_[line[side], np.nan] for line in lines]) for side in (0, 1))
        return _scatter(
            x=x, y=y, mode="lines", line={"color": translucent(self.style.color, 0.35), "width": 1}, hoverinfo="skip"
        )

    def mark(self, x: object, y: object, size: int = 12) -> Trace:
        return _scatter(
            x=x, y=y, mode="markers",
            hovertemplate="operating point: %{x:.3f}, %{y:.3f}<extra>" + self.title + "</extra>",
            marker=self.style.mark(size, line={"color": "white", "width": 1}),
        )  # fmt: skip

    def band(self, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> Trace:
        return _scatter(
            x=np.r_[x, x[::-1]], y=np.r_[high, low[::-1]], fill="toself", mode="none", hoverinfo="skip",
            fillcolor=translucent(self.style.color, 0.09),
        )  # fmt: skip

    def reliability(self, bins: list[Bin]) -> Trace:
        style = {"thickness": 1, "width": 2, "color": translucent(self.style.color, 0.5)}
        return reliability_line(bins, style, self.title, mode="lines", line=self.style.line())

    def counts(self, bins: list[Bin]) -> Trace:
        return {
            "type": "bar", "x": [(row.low + row.high) / 2 for row in bins], "y": [row.n for row in bins],
            "hovertemplate": "%{y} images around %{x:.2f}<extra>" + self.title + "</extra>",
            "marker_color": self.style.color,
        }  # fmt: skip


def reliability_line(bins: Sequence[Bin], interval_style: Mapping[str, object], title: str, **style: object) -> Trace:
    """Return observed frequency against predicted probability, with Wilson intervals.

    Args:
        bins: bins of the reliability diagram, without empty ones.
        interval_style: style of the intervals.
        title: title of the series.
        style: style of the line and markers.
    """
    observed = [row.frequency for row in bins]
    return _scatter(
        x=[row.mean_probability for row in bins], y=[share.value for share in observed],
        customdata=[row.n for row in bins],
        error_y={
            "array": [share.high - share.value for share in observed],
            "arrayminus": [share.value - share.low for share in observed],
            **interval_style,
        },
        hovertemplate=f"predicted %{{x:.3f}}, observed %{{y:.3f}}, %{{customdata}} images<extra>{title}</extra>",
        **style,
    )  # fmt: skip


def _thinned(roc: RocCurve) -> RocCurve:
    """Reduce a curve to at most `_POINTS` points that draw the same curve."""
    if len(roc.sensitivity) <= _POINTS:
        return roc
    kept = np.linspace(0, len(roc.sensitivity) - 1, _POINTS).round().astype(int)
    return RocCurve(roc.false_positive_rate[kept], roc.sensitivity[kept])


def _gray(x: object, y: object, name: str = "") -> Trace:
    return _scatter(
        x=x, y=y, mode="lines", line={"color": _GRAY, "dash": "dot", "width": 1}, showlegend=False,
        hovertemplate=name + "<extra></extra>" if name else None, hoverinfo=None if name else "skip",
    )  # fmt: skip
