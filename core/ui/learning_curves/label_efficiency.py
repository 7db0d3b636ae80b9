"""What labels buy, on the Learning curves page: fitted curves, images needed, label multipliers, crossovers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
import streamlit as st

from core.metrics import METRICS
from core.metrics.learning_curves import REACH, Fit, crossover, images_needed, label_multiplier, usual_reach
from core.ui import charts
from core.ui.compare import metric_charts
from core.ui.compare.metric_charts import Measured
from core.ui.pickers import keep_possible
from core.ui.tables import table
from core.ui.text import escape

_STEP = 0.005


def show(measured: Mapping[str, Measured], fits: Mapping[str, Fit], metric: str, panels: bool, file: str) -> None:
    """The fitted curves and what follows from them.

    Args:
        measured: title -> a series as measured, the reference for what is to be reached first.
        fits: title -> its curve, of series with three sizes or more.
        metric: its name.
        panels: whether each series has a panel of its own.
        file: beginning of the names of downloads.
    """
    if left_out := [escape(title) for title in measured if title not in fits]:
        st.caption(f"Fewer than three sizes, so no curve is fitted: {'; '.join(left_out)}.")
    if not fits:
        st.info("No series here has three sizes or more. Train some: `python -m trainer curve --sizes 10,25,50,100`")
        return
    wanted = _wanted(fits, metric, file)
    charts.draw(
        metric_charts.fitted_curves({title: (measured[title], fits[title]) for title in fits}, metric, wanted, panels),
        key="curves_fitted",
        alt=f"Fitted curves of {METRICS[metric].title}; the tables below hold what is read off them.",
    )
    st.caption(
        "Power law with an asymptote, fitted to the means over seeds (markers); band: 95%, seeds and test images drawn "
        f"again. Dotted: extrapolated, at most to {REACH} times the largest measured size, and not at all where the "
        "curve does not carry. A red ring: the asymptote is not identifiable."
    )
    st.subheader(f"Images per class needed for {wanted:.3f}")
    table(_needed(fits, wanted), "Images per class each series needs, and its asymptote", f"{file}-needed")
    doubts: dict[str, list[str]] = {}
    for title, fit in fits.items():
        for doubt in fit.doubts:
            doubts.setdefault(doubt, []).append(title)
    st.markdown("\n".join(f"- {escape(doubt)} ({escape('; '.join(of))})" for doubt, of in doubts.items()))
    if len(fits) > 1:
        st.subheader("How many times more labels?")
        _multipliers(fits, file)
        st.subheader("Crossovers")
        _crossovers(fits)


def _wanted(fits: Mapping[str, Fit], metric: str, file: str) -> float:
    """The value to be reached; at first what the first series has at its largest size."""
    row = METRICS[metric]
    first = usual_reach(next(iter(fits.values())))
    least = -1.0 if metric == "mcc" else 0.0
    chosen = st.number_input(
        f"{row.title} to be reached", least, 1.0, float(np.clip(first, least, 1)), _STEP, format="%.3f",
        key=f"curves_wanted_{file}", help=f"{row.meaning} {'Higher' if row.higher_is_better else 'Lower'} is better.",
    )  # fmt: skip
    return float(chosen)


def _needed(fits: Mapping[str, Fit], wanted: float) -> pd.DataFrame:
    rows = []
    for title, fit in fits.items():
        value, low, high = fit.asymptote()
        rows.append(
            {
                "Series": title,
                "Images per class needed": images_needed(fit, wanted).words(),
                "Asymptote": f"{value:.3f} ({low:.3f} to {high:.3f})" if fit.identifiable else "not identifiable",
            }
        )
    return pd.DataFrame(rows)


def _multipliers(fits: Mapping[str, Fit], file: str) -> None:
    """Of every pair the series behind and how many times more labels it needs."""
    sizes = sorted({n for fit in fits.values() for n in fit.sizes})
    keep_possible(f"curves_at_{file}", sizes)
    at = st.select_slider(
        "Images per class of the series ahead", sizes, value=sizes[len(sizes) // 2], key=f"curves_at_{file}",
        format_func=lambda n: f"{n:g}",
    )  # fmt: skip
    rows = []
    for one, other in combinations([title for title, fit in fits.items() if fit.sizes[0] <= at <= fit.sizes[-1]], 2):
        lead = (fits[one].rising(np.array([at])) - fits[other].rising(np.array([at])))[0, 0]
        behind, ahead = (one, other) if lead < 0 else (other, one)
        found = label_multiplier(fits[behind], fits[ahead], at)
        rows.append({"Series behind": behind, "needs times as many labels": found.words(1), "to equal": ahead})
    if not rows:
        st.write(f"No two series were measured around {at:g} images per class.")
        return
    table(pd.DataFrame(rows), f"How many times more labels a series needs to equal another with {at:g}", f"{file}-more")


def _crossovers(fits: Mapping[str, Fit]) -> None:
    """Every pair in words, those that cross first."""
    crossing: list[str] = []
    none: list[str] = []
    for one, other in combinations(fits, 2):
        smallest = max(fits[one].sizes[0], fits[other].sizes[0])
        if smallest < min(fits[one].sizes[-1], fits[other].sizes[-1]):
            found = crossover(fits[one], fits[other])
            (none if found.size is None else crossing).append(found.verdict(one, other))
    st.markdown("\n".join(f"- {escape(line)}" for line in crossing) or "No two curves cross within the measured sizes.")
    if none:
        with st.expander(f"{len(none)} pairs that do not cross"):
            st.markdown("\n".join(f"- {escape(line)}" for line in none))
