"""Sentences that several pages say, made from results."""

from __future__ import annotations

import re

import numpy as np
import streamlit as st

from core.checkpoints import RunMeta, Store
from core.explain.methods import Explanation
from core.explain.overlay import colour_table
from core.predictor import Prediction

NEAR = 0.1
LEAK_MARK = "⚠ leaks allowed"  # wherever a run made with leaks allowed is named
_THIRDS = ("upper", "middle", "lower"), ("left", "centre", "right")


def escape(text: str) -> str:
    """Text from files, safe to put into Markdown: shown as it is, never as a link, an image or markup."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>$:~&^])", r"\\\1", text.replace("\n", " "))


def percent(probability: float) -> str:
    """A probability in percent; one that is not 0 or 1 is never shown as if it were."""
    if 0 < probability < 0.001:
        return "< 0.1%"
    if 0.999 < probability < 1:
        return "> 99.9%"
    return f"{probability:.1%}"


def problems(store: Store) -> None:
    """Names the runs that are left out because they are damaged, or because their training failed."""
    if store.problems:
        listed = "\n".join(f"- {escape(name)}: {escape(why)}" for name, why in store.problems.items())
        st.warning(f"Some stored runs are damaged or failed, and left out:\n{listed}", icon=":material/warning:")


def decision(meta: RunMeta, prediction: Prediction) -> str:
    """What was decided for, in words."""
    return ", ".join(meta.labels[one] for one in prediction.decided) or "no finding"


def threshold_of(meta: RunMeta, target: int) -> float | None:
    """The probability from which a class is decided for; None where the likeliest class is."""
    if meta.multilabel:
        return meta.thresholds[target]
    return meta.threshold if target == meta.positive else None


def is_near(meta: RunMeta, prediction: Prediction) -> bool:
    """Whether the answer lies close to its threshold."""
    threshold = threshold_of(meta, prediction.target)
    return threshold is not None and abs(prediction.probabilities[prediction.target] - threshold) < NEAR


def agreement(answers: list[tuple[RunMeta, Prediction]]) -> None:
    """One line: do the families decide alike, and is a probability near its threshold?"""
    if not answers:
        return
    decisions = {decision(meta, prediction) for meta, prediction in answers}
    near = [meta for meta, prediction in answers if is_near(meta, prediction)]
    close = (
        f" {len(near)} of {len(answers)} lie within {100 * NEAR:.0f} percentage points of their threshold."
        if near
        else ""
    )
    if len(decisions) == 1 and len(answers) > 1:
        st.info(f"All {len(answers)} families decide: {escape(decisions.pop())}.{close}", icon=":material/done_all:")
    elif len(answers) > 1:
        st.warning(f"The families disagree: treat this image as undecided.{close}", icon=":material/call_split:")


def where(explanation: Explanation) -> str:
    """Where a heatmap peaks, in words, for those who cannot see it."""
    if explanation.degenerate:
        return "the map is flat"
    row, column = np.unravel_index(int(explanation.heat.argmax()), explanation.heat.shape)
    height, width = explanation.heat.shape
    vertical, horizontal = _THIRDS[0][min(2, 3 * int(row) // height)], _THIRDS[1][min(2, 3 * int(column) // width)]
    return f"strongest in the {vertical} {horizontal} of the image"


def colour_bar() -> None:
    """The colours of the heatmaps, from low to high attribution."""
    strip = np.repeat(colour_table()[None], 12, axis=0)
    left, middle, right = st.columns([1, 4, 1], vertical_alignment="center")
    left.caption("low attribution")
    middle.image(strip, alt="Colour bar from dark (low attribution) to bright yellow (high)", width="stretch")
    right.caption("high attribution")
