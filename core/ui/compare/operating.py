"""Compare: operating points, what shifting them costs, and six diagrams that follow the sliders.

The choice of rule, shift and prevalence is shared with the confusion section.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import streamlit as st

from core.analysis.operating_point import Moved, moved_by
from core.errors import BadRequest, LowshotError
from core.metrics import Estimate
from core.metrics.operating_point import shift_cost
from core.metrics.thresholds import Aim
from core.runs.series import Run, Series
from core.ui import cache, charts, pickers
from core.ui.compare import operating, operating_charts
from core.ui.compare.view import View
from core.ui.tables import table
from core.ui.text import escape


def show(view: View) -> None:
    """The class to judge, then everything that moves with a slider, which alone runs again."""
    if view.first.multilabel and view.finding is None:
        st.info("Choose a finding above: an operating point belongs to one question.")
        return
    target = view.target("compare")
    _moving(view, target)


@st.fragment
def _moving(view: View, target: int | None) -> None:
    try:
        _shown(view, target)
    except LowshotError as error:  # the page does not see what a fragment raises
        st.error(escape(str(error)))


def _shown(view: View, target: int | None) -> None:
    chosen = operating.ask()
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        seed = pickers.pick_seed(view.seeds(), "compare", "Seed of the calibration diagram")
    single = right.toggle("Single seeds", key="compare_single", help="In the first two diagrams.")
    view = replace(view, runs=sound(view, target, chosen))
    if not view.runs:
        return
    moved = _moved(view, target, chosen, chosen.shift)
    _table(view, target, chosen, moved)
    at_seed = view.at_seed(seed)
    drawn = {
        view.title(name): _drawn(view, name, target, moved[name], at_seed.get(name, view.runs[name][0]))
        for name in view.runs
    }
    if lacking := [view.title(name) for name in view.runs if name not in at_seed]:
        st.caption(
            f"The calibration diagram shows another seed of: {escape('; '.join(lacking))}. No run with seed {seed}."
        )
    charts.draw(
        operating_charts.diagrams(drawn, chosen.aim.prevalence, single), key="compare_diagrams",
        alt="ROC, precision-recall, calibration, decision curve, counts, and risk against coverage of every series, "
        "with the operating point marked in each; the table above holds its figures.",
    )  # fmt: skip
    st.caption(
        "Marker: the operating point (mean over seeds; in the decision curve each seed; in calibration the chosen "
        f"seed). Curves: mean over seeds. Precision and net benefit hold at a prevalence of "
        f"{100 * chosen.aim.prevalence:g}%, probabilities shifted there in the decision curve. Grey: chance, perfect "
        "calibration, acting on all and on none. Bands (up to "
        f"{operating_charts.BANDED} series): 95% over test images; bars of the calibration diagram: Wilson."
    )


def sound(view: View, target: int | None, chosen: Chosen) -> dict[Series, list[Run]]:
    """The series whose operating points can be fitted; says of the others why not."""
    found = {}
    for name, runs in view.runs.items():
        try:
            chosen.fitted(runs, target)
            found[name] = runs
        except BadRequest as error:
            st.error(f"{escape(view.title(name))}: {escape(str(error))}")
    return found


def _banded(view: View) -> bool:
    return len(view.runs) <= operating_charts.BANDED


def _moved(view: View, target: int | None, chosen: Chosen, shift: float) -> dict[Series, Moved]:
    """Every series at a shift of its fitted thresholds."""
    at = shift, chosen.aim.prevalence, _banded(view)
    return {name: cache.moved(runs, target, chosen.fitted(runs, target), *at) for name, runs in view.runs.items()}


def _drawn(view: View, name: Series, target: int | None, moved: Moved, run: Run) -> operating_charts.Drawn:
    runs = view.runs[name]
    mean, seeds = cache.rates(runs, target)
    bins, _ = cache.diagram(run, target)
    return operating_charts.Drawn(
        charts.style_of(*name), mean, seeds, moved, cache.risk(runs, target, moved.thresholds, _banded(view)),
        bins, moved.thresholds[runs.index(run)],
    )  # fmt: skip


def _table(view: View, target: int | None, chosen: Chosen, moved: dict[Series, Moved]) -> None:
    rows = []
    fitted = _moved(view, target, chosen, 0.0) if chosen.shift else moved
    for name, one in moved.items():
        counts = one.worth.per_thousand()
        row = {
            "Series": view.title(name),
            "Threshold": f"{min(one.thresholds):.2f} to {max(one.thresholds):.2f}",
            "Sensitivity": _said(one.worth.sensitivity),
            "Specificity": _said(one.worth.specificity),
            "PPV": _said(one.worth.ppv),
            "NPV": _said(one.worth.npv),
            "Found": f"{counts['found']:.0f}",
            "Missed": f"{counts['missed']:.1f}",
            "False alarms": f"{counts['false_alarms']:.0f}",
        }
        if chosen.shift:
            costs = shift_cost(fitted[name].worth, one.worth, one.worth.sensitivity.n)
            for what, title in (("missed", "More missed"), ("false_alarms", "More false alarms")):
                cost = costs[what]
                row[title] = f"{cost.value:+.1f} ({cost.low:+.1f} to {cost.high:+.1f})"
        rows.append(row)
    table(pd.DataFrame(rows), "What each series is worth at its operating point", f"{view.file}-operating")
    meta = view.first
    judged = meta.positive if target is None else target
    assert judged is not None
    st.caption(
        f"{escape(meta.titles[judged])} against the rest; threshold fitted for {chosen.aim.title}"
        + (
            f", then shifted by {chosen.shift:+.2f}; what the shift changes is in the last columns"
            if chosen.shift
            else ""
        )
        + f". Found, missed and false alarms: of 1,000 people at a prevalence of {100 * chosen.aim.prevalence:g}%. "
        "Mean over seeds, 95% intervals over test patients, resampled whole."
    )
    for name, runs in view.runs.items():
        for caution in sorted({point.caution for point in cache.points(runs, target, chosen.aim)} - {""}):
            st.warning(f"{escape(view.title(name))}: {escape(caution)}", icon=":material/warning:")


def _said(one: Estimate) -> str:
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"


TITLES = {
    "balanced": "Both classes alike",
    "sensitivity": "A sensitivity",
    "youden": "Youden",
    "cost": "Least cost",
}
USUAL = 0.1
PREVALENCES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *(share / 100 for share in range(10, 100, 5)))


@dataclass(frozen=True)
class Chosen:
    """Where the user puts the series.

    Attributes:
        aim: of the operating point, with the prevalence.
        shift: added to each threshold.
    """

    aim: Aim
    shift: float

    def fitted(self, runs: Sequence[Run], target: int | None) -> tuple[float, ...]:
        """The threshold of each run for the aim."""
        return tuple(point.threshold for point in cache.points(runs, target, self.aim))

    def thresholds(self, runs: Sequence[Run], target: int | None) -> tuple[float, ...]:
        """The same, shifted."""
        return moved_by(self.fitted(runs, target), self.shift)


def ask(prevalence_too: bool = True) -> Chosen:
    """The controls.

    Args:
        prevalence_too: whether the prevalence matters whatever the aim; it does for the least cost.
    """
    left, right = st.columns([3, 2], vertical_alignment="top")
    with left:
        rule = st.segmented_control(
            "Operating point for", list(TITLES), default="balanced", format_func=TITLES.__getitem__,
            key="compare_rule", required=True,
            help="Fitted on images held out inside each training subset, never on test images. Both classes alike is "
            "the point of every stored run.",
        )  # fmt: skip
    sensitivity, ratio = 0.95, 1.0
    with right:
        if rule == "sensitivity":
            sensitivity = st.slider(
                "Wanted sensitivity", 0.5, 0.99, 0.95, 0.01, format="percent", key="compare_sensitivity"
            )
        elif rule == "cost":
            ratio = st.select_slider(
                "False alarms that a missed case outweighs", (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0), value=5.0,
                format_func=lambda n: f"{n:g}", key="compare_ratio",
            )  # fmt: skip
    left, right = st.columns(2)
    shift = left.slider(
        "Shift of the threshold", -0.5, 0.5, 0.0, 0.01, key="compare_shift",
        help="Added to the probability from which each run calls an image positive.",
    )  # fmt: skip
    if not prevalence_too and rule != "cost":
        return Chosen(Aim(rule, sensitivity, ratio, st.session_state.get("compare_prevalence", USUAL)), shift)
    prevalence = right.select_slider(
        "Prevalence where it is used", PREVALENCES, value=USUAL, format_func=lambda share: f"{100 * share:g}%",
        key="compare_prevalence", help="Predictive values, precision and net benefit depend on it.",
    )  # fmt: skip
    return Chosen(Aim(rule, sensitivity, ratio, prevalence), shift)
