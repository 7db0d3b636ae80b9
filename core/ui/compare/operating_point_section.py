"""Compare: operating points, the cost of shifting them, and six diagrams that follow the sliders.

The confusion section shares the choice of rule, shift and prevalence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import streamlit as st

from core.analysis.operating_point import ShiftedSeries, shift_thresholds
from core.errors import BadRequest
from core.metrics.operating_point import shift_cost
from core.metrics.thresholds import Aim
from core.runs import Run
from core.runs.series import Series
from core.ui import address, cache, charts, pickers
from core.ui.compare import operating_charts
from core.ui.compare.view import View
from core.ui.tables import table
from core.ui.text import escape, stop_on_error


def show(view: View) -> None:
    """Show the picker of the class, then the sliders and diagrams, which rerun on their own."""
    _content(replace(view, finding=view.target()))


@st.fragment
@stop_on_error()  # the page cannot catch an error raised in a fragment
@address.part("operating")
def _content(view: View) -> None:
    chosen = pick_operating_point()
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        seed = pickers.pick_seed(view.seeds(), "compare", "Seed of the calibration diagram")
    single = right.toggle(
        "Individual seeds", help="In the first two diagrams.", **address.switch("seeds", "compare_single")
    )
    view = replace(view, runs=fittable_series(view, chosen))
    if not view.runs:
        return
    shifted = _shifted(view, chosen, chosen.shift)
    _finding(view, chosen, shifted)
    at_seed = view.at_seed(seed)
    series = {
        view.title(name): _series_data(view, name, shifted[name], at_seed.get(name, view.runs[name][0]))
        for name in view.runs
    }
    if lacking := [view.title(name) for name in view.runs if name not in at_seed]:
        st.caption(
            f"The calibration diagram shows another seed of: {escape('; '.join(lacking))}. No run with seed {seed}."
        )
    charts.show_figure(
        operating_charts.diagrams(series, chosen.aim.prevalence, single), key="compare_diagrams",
        alt="ROC, precision-recall, calibration, decision curve, counts, and risk against coverage of every series, "
        "with the operating point marked in each; the table below has the numbers.",
    )  # fmt: skip
    st.caption(
        "Marker: the operating point (mean over seeds; in the decision curve each seed; in the calibration diagram the "
        f"chosen seed). Curves: mean over seeds. Precision and net benefit apply to a prevalence of "
        f"{100 * chosen.aim.prevalence:g}%; the decision curve uses probabilities adjusted to it. Gray: chance, "
        "perfect calibration, acting on all and on none. Bands (up to "
        f"{operating_charts.BANDED} series): 95% over test images; bars of the calibration diagram: Wilson intervals."
    )
    _table(view, chosen, shifted)


def fittable_series(view: View, chosen: Chosen) -> dict[Series, list[Run]]:
    """Return the series whose operating points can be fitted; show the reason for each of the others."""
    fittable = {}
    for name, runs in view.runs.items():
        try:
            chosen.fitted(runs, view.finding)
            fittable[name] = runs
        except BadRequest as error:
            st.error(f"{escape(view.title(name))}: {escape(str(error))}")
    return fittable


def _shifted(view: View, chosen: Chosen, shift: float) -> dict[Series, ShiftedSeries]:
    """Return the performance of every series at a shift of its fitted thresholds."""
    target, settings = view.finding, (shift, chosen.aim.prevalence, len(view.runs) <= operating_charts.BANDED)
    return {
        name: cache.shifted(runs, target, chosen.fitted(runs, target), *settings) for name, runs in view.runs.items()
    }


def _series_data(view: View, name: Series, shifted: ShiftedSeries, run: Run) -> operating_charts.SeriesData:
    runs, target = view.runs[name], view.finding
    mean, seeds = cache.roc_curves(runs, target)
    risk = cache.risk(runs, target, shifted.thresholds, len(view.runs) <= operating_charts.BANDED)
    bins, threshold = cache.reliability_bins(run, target), shifted.thresholds[runs.index(run)]
    return operating_charts.SeriesData(charts.style_of(*name), mean, seeds, shifted, risk, bins, threshold)


def _evaluated(view: View) -> str:
    """Return the title of the class that counts as positive."""
    index = view.first.positive if view.finding is None else view.finding
    assert index is not None
    return view.first.titles[index]


def _finding(view: View, chosen: Chosen, shifted: dict[Series, ShiftedSeries]) -> None:
    """List what each series finds and how often it raises a false alarm, most cases found first."""
    counts = {name: at_shift.performance.per_thousand() for name, at_shift in shifted.items()}
    order = sorted(counts, key=lambda name: -counts[name]["found"])
    lines = [
        f"- {escape(view.title(name))} finds **{counts[name]['found']:.0f}**, misses {counts[name]['missed']:.0f} and "
        f"raises **{counts[name]['false_alarms']:.0f}** false alarms."
        for name in order
    ]
    cases = 1000 * chosen.aim.prevalence
    st.markdown(f"Of 1,000 people, {cases:g} of them with {escape(_evaluated(view))}:\n\n" + "\n".join(lines))


def _table(view: View, chosen: Chosen, shifted: dict[Series, ShiftedSeries]) -> None:
    rows = []
    fitted = _shifted(view, chosen, 0.0) if chosen.shift else shifted
    for name, at_shift in shifted.items():
        performance = at_shift.performance
        row = {
            "Series": view.title(name),
            "Sensitivity": f"{performance.sensitivity:.3f}",
            "Specificity": f"{performance.specificity:.3f}",
        }
        if chosen.shift:
            costs = shift_cost(fitted[name].performance, performance, performance.sensitivity.n)
            row["More missed"] = f"{costs['missed']:+.1f}"
            row["More false alarms"] = f"{costs['false_alarms']:+.1f}"
        row |= {
            "PPV": f"{performance.ppv:.3f}",
            "NPV": f"{performance.npv:.3f}",
            "Threshold": f"{min(at_shift.thresholds):.2f} to {max(at_shift.thresholds):.2f}",
        }
        rows.append(row)
    table(rows, "Performance of each series at its operating point", f"{view.file}-operating")
    st.caption(
        f"{escape(_evaluated(view))} against the rest; threshold fitted for {chosen.aim.title}"
        + (
            f", then shifted by {chosen.shift:+.2f}; more missed and more false alarms: the effect of the shift, per "
            "1,000 people"
            if chosen.shift
            else ""
        )
        + f". Predictive values (PPV, NPV) at a prevalence of {100 * chosen.aim.prevalence:g}%. Mean over seeds, 95% "
        "intervals over test images, resampled by patient, lesion or image."
    )
    for name, runs in view.runs.items():
        for caution in sorted({point.caution for point in cache.points(runs, view.finding, chosen.aim)} - {""}):
            st.warning(f"{escape(view.title(name))}: {escape(caution)}", icon=":material/warning:")


TITLES = {"balanced": "Balanced", "sensitivity": "Target sensitivity", "youden": "Youden index", "cost": "Least cost"}
USUAL = 0.1
RATIOS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
PREVALENCES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *(share / 100 for share in range(10, 100, 5)))


@dataclass(frozen=True)
class Chosen:
    """The operating point chosen by the user.

    Attributes:
        aim: rule of the operating point, with the prevalence.
        shift: amount added to each threshold.
    """

    aim: Aim
    shift: float

    def fitted(self, runs: Sequence[Run], target: int | None) -> tuple[float, ...]:
        """Return the threshold of each run for the aim."""
        return tuple(point.threshold for point in cache.points(runs, target, self.aim))

    def thresholds(self, runs: Sequence[Run], target: int | None) -> tuple[float, ...]:
        """Return the shifted threshold of each run."""
        return shift_thresholds(self.fitted(runs, target), self.shift)


def pick_operating_point(prevalence_too: bool = True) -> Chosen:
    """Show the controls of the operating point and return the choice.

    Args:
        prevalence_too: whether to show the prevalence for every rule; it is always shown for the least cost.
    """
    left, right = st.columns([3, 2], vertical_alignment="top")
    with left:
        rule = address.segments(
            "Operating point for", "rule", "compare_rule", TITLES, format_func=TITLES.__getitem__,
            help="Fitted on images held out within each training subset, never on test images. Balanced is the "
            "operating point of every stored run.",
        )  # fmt: skip
    sensitivity, ratio = 0.95, 1.0
    with right:
        if rule == "sensitivity":
            sensitivity = st.slider(
                "Target sensitivity", step=0.01, format="percent",
                **address.number("sensitivity", "compare_sensitivity", 0.95, 0.5, 0.99),
            )  # fmt: skip
        elif rule == "cost":
            ratio = st.select_slider(
                "Cost of a missed case, in false alarms", value=5.0, format_func="{:g}".format,
                **address.choice("cost", "compare_ratio", RATIOS, 5.0, "{:g}".format),
            )  # fmt: skip
    left, right = st.columns(2)
    shift = left.slider(
        "Shift of the threshold", step=0.01, **address.number("shift", "compare_shift", 0.0, -0.5, 0.5),
        help="Added to the probability at which each run calls an image positive.",
    )  # fmt: skip
    if not prevalence_too and rule != "cost":
        return Chosen(Aim(rule, sensitivity, ratio, st.session_state.get("compare_prevalence", USUAL)), shift)
    prevalence = right.select_slider(
        "Prevalence in the target population", value=USUAL, format_func=lambda share: f"{100 * share:g}%",
        **address.choice("prevalence", "compare_prevalence", PREVALENCES, USUAL, "{:g}".format),
        help="Predictive values, precision and net benefit depend on it.",
    )  # fmt: skip
    return Chosen(Aim(rule, sensitivity, ratio, prevalence), shift)
