"""Compare: conformal prediction sets with a target coverage, and their measured coverage."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from core.errors import BadRequest, LeakFound
from core.metrics.conformal import required_patients
from core.runs.series import Series
from core.ui import cache
from core.ui.compare.view import View
from core.ui.tables import table
from core.ui.text import escape

LEVELS = (0.8, 0.9, 0.95)


def show(view: View) -> None:
    """Show the coverage by class of each series, or why it has no sets."""
    if view.first.multilabel and view.finding is None:
        st.info("Choose a finding above: prediction sets need a single finding.")
        return
    level = st.segmented_control(
        "Target coverage", LEVELS, default=0.9, format_func=lambda share: f"{share:.0%}",
        key="compare_level", required=True,
        help="Share of images whose prediction set contains the true class, for every class. A higher coverage needs "
        "larger sets.",
    )  # fmt: skip
    st.caption(f"This coverage needs {required_patients(level)} calibration patients of every class.")
    rows, promises = [], set()
    for name in view.runs:
        try:
            row, promise = _row(view, name, level)
        except (BadRequest, LeakFound) as error:
            st.error(f"{escape(view.title(name))}: {escape(str(error))}")
            continue
        rows.append(row)
        promises.add(promise)
    if not rows:
        return
    table(pd.DataFrame(rows), "Coverage of prediction sets by class, measured on the test images", f"{view.file}-sets")
    for promise in sorted(promises):
        st.write(escape(promise))
    st.caption(
        "Coverage: share of the test images of a class whose set contains the class, mean over seeds, with the 95% "
        "interval over test images, resampled by patient. ↓: significantly below the target."
    )


def _row(view: View, name: Series, level: float) -> tuple[dict[str, str | float], str]:
    per_run, coverages = cache.conformal(view.runs[name], level, view.finding)
    row: dict[str, str | float] = {"Series": view.title(name)}
    for label, coverage in zip(view.labels, coverages, strict=True):
        mark = " ↓" if coverage.high < level else ""
        row[label] = f"{coverage:.3f}{mark}"
    row["Classes in a set"] = round(float(np.mean([measured.size for _, measured in per_run])), 2)
    row["Sets of one class"] = f"{np.mean([measured.single for _, measured in per_run]):.0%}"
    row["Empty sets"] = f"{np.mean([measured.empty for _, measured in per_run]):.0%}"
    row["Calibrated on"] = " + ".join(str(count) for count in per_run[0][0].patients)
    return row, per_run[0][0].guarantee
