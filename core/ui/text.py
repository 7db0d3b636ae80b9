"""Sentences that several pages say, made from results."""

from __future__ import annotations

import re

import numpy as np
import streamlit as st

from core.explain.overlay import colour_table
from core.runs import Store

LEAK_MARK = "⚠ leaks allowed"  # wherever a run made with leaks allowed is named


def escape(text: str) -> str:
    """Text from files, safe to put into Markdown: shown as it is, never as a link, an image or markup."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>$:~&^])", r"\\\1", text.replace("\n", " "))


def problems(store: Store) -> None:
    """Names the runs that are left out because they are damaged, or because their training failed."""
    if store.problems:
        listed = "\n".join(f"- {escape(name)}: {escape(why)}" for name, why in store.problems.items())
        st.warning(f"Some stored runs are damaged or failed, and left out:\n{listed}", icon=":material/warning:")


def colour_bar() -> None:
    """The colours of the heatmaps, from low to high attribution."""
    strip = np.repeat(colour_table()[None], 12, axis=0)
    left, middle, right = st.columns([1, 4, 1], vertical_alignment="center")
    left.caption("low attribution")
    middle.image(strip, alt="Colour bar from dark (low attribution) to bright yellow (high)", width="stretch")
    right.caption("high attribution")
