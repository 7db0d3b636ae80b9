"""Compare: sets of classes that hold the truth as often as asked, with the coverage that was measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from core.errors import BadRequest, LeakFound
from core.metrics.conformal import needed
from core.runs.series import Series
from core.ui import cache
from core.ui.compare.view import View
from core.ui.tables import table
from core.ui.text import escape

LEVELS = (0.8, 0.9, 0.95)


def show(view: View) -> None:
    """Coverage by class of each series, or why sets are refused."""
    if view.first.multilabel and view.finding is None:
        st.info("Choose a finding above: sets are made for one question an image.")
        return
    level = st.segmented_control(
        "Sets shall hold the truth in", LEVELS, default=0.9, format_func=lambda share: f"{share:.0%}",
        key="compare_level", required=True, help="For every class. The surer, the larger the sets.",
    )  # fmt: skip
    st.caption(f"This level needs {needed(level)} calibration patients of every class.")
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
    table(pd.DataFrame(rows), "Coverage of conformal sets by class, measured on the test images", f"{view.file}-sets")
    for promise in sorted(promises):
        st.write(escape(promise))
    st.caption(
        "Coverage: share of the test images of a class whose set holds it, mean over seeds, with the 95% interval over "
        "test images, patients drawn whole. One marked ↓ lies detectably below what was asked for."
    )


def _row(view: View, name: Series, level: float) -> tuple[dict[str, str | float], str]:
    found, holds = cache.conformal(view.runs[name], level, view.finding)
    row: dict[str, str | float] = {"Series": view.title(name)}
    for label, one in zip(view.labels, holds, strict=True):
        mark = " ↓" if one.high < level else ""
        row[label] = f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f}){mark}"
    row["Classes in a set"] = round(float(np.mean([measured.size for _, measured in found])), 2)
    row["Sets of one class"] = f"{np.mean([measured.single for _, measured in found]):.0%}"
    row["Empty sets"] = f"{np.mean([measured.empty for _, measured in found]):.0%}"
    row["Calibrated on"] = " + ".join(str(count) for count in found[0][0].patients)
    return row, found[0][0].promise
