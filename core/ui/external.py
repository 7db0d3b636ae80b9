"""Own test and elsewhere side by side, on the Compare page and on model cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from core.analysis.external import SHOWN, Elsewhere, Reading, by_view, reading
from core.metrics import METRICS, Estimate
from core.metrics.comparisons import Difference
from core.runs import ExternalRecord
from core.runs.series import Run
from core.ui.cache import key_of
from core.ui.charts import Style, legend_title
from core.ui.text import escape

CAPTION = (
    "Both figures are of the shared classes, at the run's own temperature and threshold: mean over seeds with 95% "
    "intervals over patients. The difference is own test minus elsewhere; its 95% interval is over seeds and the "
    "patients of both sets, resampled independently. Accuracy, precision, F1 and AUPRC also move with the share of "
    "each class, which differs between the sets."
)
VIEWS = (
    "Views (AP, PA) are confounded with the label: sick patients are imaged lying down. Figures within one view do not "
    "profit from it."
)


def compared(runs: Sequence[Run], name: str) -> list[Elsewhere]:
    """Return a series on its own test set and on an external one, as a whole and view by view; kept between reruns."""
    return _compared(key_of(runs), runs, name)


@st.cache_data(max_entries=64, show_spinner="Measuring own test and elsewhere")
def _compared(key: str, _runs: Sequence[Run], name: str) -> list[Elsewhere]:
    return by_view(_runs, name)


def read_by_radiologist(runs: Sequence[Run], name: str) -> Reading | None:
    """Return a series by a radiologist's reading of the external images; kept between reruns."""
    return _read(key_of(runs), runs, name)


@st.cache_data(max_entries=64, show_spinner=False)
def _read(key: str, _runs: Sequence[Run], name: str) -> Reading | None:
    return reading(_runs, name)


def rows(series: str, found: Sequence[Elsewhere], names: Sequence[str] = SHOWN) -> list[dict[str, str | int]]:
    """Return a row for each metric of each view: own test, elsewhere and the difference."""
    return [
        {
            "Series": series,
            "Views": one.view or "all",
            "Metric": METRICS[name].title,
            "Own test": _interval(one.own[name]),
            "Elsewhere": _interval(one.there[name]),
            "Own minus elsewhere": _drop(one.drop[name]),
            "Images there": one.images,
            "Seeds": one.seeds,
        }
        for one in found
        for name in names
    ]


def frame(series: Mapping[str, Sequence[Elsewhere]], names: Sequence[str] = SHOWN) -> pd.DataFrame:
    """Return the rows of several series as a table; views have a column where there are any."""
    table = pd.DataFrame([row for title, found in series.items() for row in rows(title, found, names)])
    return table if any(one.view for found in series.values() for one in found) else table.drop(columns="Views")


def facts(found: Elsewhere) -> None:
    """Say what the external set is, which classes count and what differs."""
    archive = (
        " The encoder learnt from other patients of the **same archive**: devices and readers are not new to it."
        if found.record.same_archive
        else ""
    )
    st.write(
        f"**{escape(found.record.title)}**: {found.images:,} images of {found.groups:,} patients or lesions; classes: "
        f"{escape(', '.join(found.record.labels))}. {escape(found.record.caveat)}{archive}"
    )


def radiologist(found: Reading) -> None:
    """Give figures of the few images that a radiologist read, without a verdict."""
    confirmed = ", ".join(f"{yes} of {of} {escape(label)}" for label, (yes, of) in found.confirmed.items())
    figures = ", ".join(f"{METRICS[name].title} {_interval(one)}" for name, one in found.figures.items())
    st.caption(
        f"A radiologist read {found.images} of these images and confirmed {confirmed}. By the radiologist's label: "
        f"{figures}. So few images carry no verdict."
    )


def refused(records: Mapping[str, ExternalRecord], series: str = "") -> None:
    """Say on which external sets nothing was evaluated, and why."""
    for record in records.values():
        of = f"{escape(series)} was not" if series else "Not"
        st.info(f"{of} evaluated on {escape(record.title)}: {escape(record.refused)}")


def chart(series: Mapping[str, tuple[Style, Elsewhere]], metric: str) -> go.Figure:
    """Draw own test (filled) and elsewhere (hollow) of each series, with 95% intervals over patients."""
    figure = go.Figure()
    for place, (what, hollow) in enumerate((("own test", ""), ("elsewhere", "-open"))):
        for title, (style, one) in series.items():
            at: Estimate = (one.there if place else one.own)[metric]
            figure.add_scatter(
                x=[at.value], y=[legend_title(title)], mode="markers", showlegend=False, name=what,
                marker={"symbol": style.marker + hollow, "size": 13, "color": style.colour},
                error_x={
                    "array": [at.high - at.value], "arrayminus": [at.value - at.low], "thickness": 2.5, "width": 6,
                    "color": style.colour,
                },
                hovertemplate=f"{what}: %{{x:.3f}} ({at.low:.3f} to {at.high:.3f})<extra></extra>",
            )  # fmt: skip
    figure.update_xaxes(title=f"{METRICS[metric].title}: own test filled, elsewhere hollow")
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_layout(height=150 + 58 * len(series), margin_t=30)
    return figure


def _interval(one: Estimate) -> str:
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"


def _drop(one: Difference) -> str:
    return f"{one.effect:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
