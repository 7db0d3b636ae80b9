"""Compare: conformal prediction sets with a target coverage, and their measured coverage."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import streamlit as st

from core.errors import BadRequest, LeakFound
from core.metrics import Estimate
from core.metrics.conformal import Conformal, Coverage, required_patients
from core.ui import address, cache, charts
from core.ui.compare import metric_charts
from core.ui.compare.view import View
from core.ui.tables import table
from core.ui.text import escape, show_list

LEVELS = (0.8, 0.9, 0.95)
MISSED = " ↓"


def show(view: View) -> None:
    """Show the coverage by class of each series: in words, as a figure and as tables."""
    target = view.target() if view.first.multilabel else view.finding
    view = replace(view, finding=target)
    level = address.segments(
        "Target coverage", "coverage", "compare_level", LEVELS, 0.9, format_func=lambda share: f"{share:.0%}",
        help="Share of images whose prediction set contains the true class, for every class. A higher coverage needs "
        "larger sets.",
    )  # fmt: skip
    measured = {}
    for name, runs in view.runs.items():
        try:
            measured[name] = cache.conformal(runs, level, target)
        except (BadRequest, LeakFound) as error:
            st.error(f"{escape(view.title(name))}: {escape(str(error))}")
    needed = f"This coverage needs {required_patients(level)} calibration patients of every class."
    if not measured:
        st.caption(needed)
        return
    show_list(_finding(view.title(name), view.labels, level, coverages) for name, (_, coverages) in measured.items())
    dots, rows = [], []
    for name, (_, coverages) in measured.items():
        for label, row in zip(view.labels, coverages, strict=True):
            title, shown = view.title(name), f"{row:.3f}{MISSED if row.high < level else ''}"
            style = charts.style_of(*name)
            dots.append(charts.Dot(f"{title}, {label}", style, row.value, row.low, row.high, note=shown))
            rows.append({"Series": title, "True class": label, "Coverage": shown})
    figure = charts.dot_plot(dots, "Share of sets that contain the true class")
    figure.add_vline(level, line={"color": metric_charts.GRAY, "width": 1.5, "dash": "dot"})
    alt = "Measured coverage by series and class; the table below has the numbers."
    charts.show_figure(figure, key="compare_coverage", alt=alt)
    table(rows, "Coverage of prediction sets by class, measured on the test images", f"{view.file}-sets")
    st.caption(
        "Coverage: share of the test images of a class whose set contains the class, mean over seeds, with the 95% "
        "interval over test images, resampled by patient, lesion or image. Dotted line: the target. "
        f"{MISSED.strip()}: significantly below it. {needed}"
    )
    with st.expander("Size of the sets, and what they guarantee"):
        sizes = [_sizes(view.title(name), per_run) for name, (per_run, _) in measured.items()]
        table(sizes, "Size of the prediction sets of each series", f"{view.file}-set-sizes")
        for promise in sorted({per_run[0][0].guarantee for per_run, _ in measured.values()}):
            st.write(escape(promise))


def _finding(title: str, labels: Sequence[str], level: float, coverages: Sequence[Estimate]) -> str:
    """Return a sentence: whether the sets keep the target, and for which classes they do not."""
    missed = [f"{label} ({row.value:.0%})" for label, row in zip(labels, coverages, strict=True) if row.high < level]
    if not missed:
        return f"{title}: no class falls clearly short of the {level:.0%} coverage of the prediction sets."
    return f"{title}: the prediction sets fall short of their {level:.0%} coverage of {', '.join(missed)}."


def _sizes(title: str, per_run: Sequence[tuple[Conformal, Coverage]]) -> dict[str, str | float]:
    return {
        "Series": title,
        "Classes in a set": round(float(np.mean([measured.size for _, measured in per_run])), 2),
        "Sets of one class": f"{np.mean([measured.single for _, measured in per_run]):.0%}",
        "Empty sets": f"{np.mean([measured.empty for _, measured in per_run]):.0%}",
        "Calibrated on": " + ".join(str(count) for count in per_run[0][0].patients),
    }
