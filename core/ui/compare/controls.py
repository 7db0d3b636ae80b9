"""Compare: what the operating point is for, how far it is shifted, and the prevalence; shared by two sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from core.metrics.thresholds import Aim
from core.operated import moved_by
from core.results import Run
from core.ui import cached_evidence

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
        return tuple(point.threshold for point in cached_evidence.points(runs, target, self.aim))

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
