"""Internal test and external test side by side, on the Compare page and on model cards."""

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from core.analysis.external import SHOWN, ExternalResult, Reading
from core.metrics import METRICS
from core.runs import ExternalRecord
from core.ui.text import escape

CAPTION = (
    "Both results use the shared classes, at the run's own temperature and threshold: mean over seeds with 95% "
    "intervals over patients. The difference is internal test minus external test; its 95% interval is over "
    "seeds and the patients of both sets, resampled independently. Accuracy, precision, F1 and AUPRC also depend on "
    "the share of each class, which differs between the sets."
)
VIEWS = (
    "Views (AP, PA) are confounded with the label: the classes differ in their share of AP images. Results within one "
    "view do not benefit from this."
)


def frame(series: Mapping[str, Sequence[ExternalResult]], names: Sequence[str] = SHOWN) -> pd.DataFrame:
    """Return a row for each series, view and metric: internal test, external test and the difference.

    The column of views is omitted if no series has any.
    """
    rows = pd.DataFrame([
        {
            "Series": title,
            "Views": result.view or "all",
            "Metric": METRICS[name].title,
            "Internal test": f"{result.own[name]:.3f}",
            "External test": f"{result.external[name]:.3f}",
            "Internal minus external": result.drop[name].interval_text(),
            "Images there": result.images,
            "Seeds": result.seeds,
        }
        for title, results in series.items()
        for result in results
        for name in names
    ])  # fmt: skip
    return rows if (rows["Views"] != "all").any() else rows.drop(columns="Views")


def show_facts(result: ExternalResult) -> None:
    """Describe the external set, its classes and how it differs."""
    archive = (
        " The encoder was trained on other patients of the **same archive**: devices and readers are not new to it."
        if result.record.same_archive
        else ""
    )
    st.write(
        f"**{escape(result.record.title)}**: {result.images:,} images of {result.groups:,} patients or lesions; "
        f"classes: {escape(', '.join(result.record.labels))}. {escape(result.record.caveat)}{archive}"
    )


def show_radiologist(reading: Reading) -> None:
    """Show results on the few images read by a radiologist, without a verdict."""
    confirmed = ", ".join(f"{yes} of {of} {escape(label)}" for label, (yes, of) in reading.confirmed.items())
    figures = ", ".join(f"{METRICS[name].title} {estimate:.3f}" for name, estimate in reading.figures.items())
    st.caption(
        f"A radiologist read {reading.images} of these images and confirmed {confirmed}. Against the radiologist's "
        f"labels: {figures}. So few images do not support a verdict."
    )


def show_refused(records: Mapping[str, ExternalRecord], series: str = "") -> None:
    """List the external sets that were not evaluated, with the reason."""
    for record in records.values():
        subject = f"{escape(series)} was not" if series else "Not"
        st.info(f"{subject} evaluated on {escape(record.title)}: {escape(record.refused)}")
