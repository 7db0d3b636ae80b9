"""Label efficiency on the Learning curves page: fitted curves, images needed, label multipliers, and crossovers."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import streamlit as st

from core.metrics import METRICS
from core.metrics.bootstrap import with_interval
from core.metrics.learning_curves import REACH, Fit, crossover, default_target, images_needed, multiplier_at
from core.ui import address, charts
from core.ui.compare import metric_charts
from core.ui.compare.metric_charts import Measured
from core.ui.tables import table
from core.ui.text import escape, show_list

_STEP = 0.005


def show(measured: Mapping[str, Measured], fits: Mapping[str, Fit], metric: str, panels: bool, file: str) -> None:
    """Show the fitted curves and the results derived from them.

    Args:
        measured: title -> measured values of a series, the main one first.
        fits: title -> fitted curve, for series with at least three sizes.
        metric: name of the metric.
        panels: whether each series has its own panel.
        file: prefix of the names of downloads.
    """
    if left_out := [escape(title) for title in measured if title not in fits]:
        st.caption(f"No curve is fitted to series with fewer than three sizes: {'; '.join(left_out)}.")
    if not fits:
        st.info("No selected series has three sizes or more, which a curve needs. Train more sizes.")
        st.page_link("pages/train.py", label="Train runs", icon=":material/model_training:")
        return
    target = _target(fits, metric, file)
    needed = sorted(((images_needed(fit, target), title) for title, fit in fits.items()), key=lambda row: row[0].value)
    listed = ", ".join(f"{size.format(size.value)} with {title}" for size, title in needed)
    st.write(f"**Labeled images per class needed for {METRICS[metric].title} {target:.3f}: {escape(listed)}.**")
    fitted = {title: (measured[title], fit) for title, fit in fits.items()}
    figure = metric_charts.fitted_curves(fitted, metric, target, panels)
    alt = f"Fitted curves of {METRICS[metric].title}; the tables below have the numbers derived from them."
    charts.show_figure(figure, key="curves_fitted", alt=alt)
    st.caption(
        "Power law with an asymptote, fitted to the means over seeds (markers). Band: 95%, from resampled seeds and "
        f"test images. Dotted: extrapolation, up to {REACH} times the largest measured size, and none where the fit "
        "does not support it."
    )
    st.header(f"Images per class needed for {target:.3f}")
    table(_needed(fits, target), "Images per class each series needs, and its asymptote", f"{file}-needed")
    doubts: dict[str, list[str]] = {}
    for title, fit in fits.items():
        for doubt in fit.doubts:
            doubts.setdefault(doubt, []).append(title)
    st.markdown("\n".join(f"- {escape(doubt)} ({escape('; '.join(titles))})" for doubt, titles in doubts.items()))
    if len(fits) > 1:
        st.header("Label multipliers")
        _multipliers(fits, file)
        st.header("Crossovers")
        _crossovers(fits)


def _target(fits: Mapping[str, Fit], metric: str, file: str) -> float:
    """Show the picker of the target value; the default is the value of the first series at its largest size."""
    row = METRICS[metric]
    first = default_target(next(iter(fits.values())))
    least = -1.0 if metric == "mcc" else 0.0
    default = float(np.clip(first, least, 1))
    chosen = st.number_input(
        f"Target {row.title}", step=_STEP, format="%.3f",
        **address.number("target", f"curves_wanted_{file}", default, least, 1.0),
        help=f"{row.meaning} {'Higher' if row.higher_is_better else 'Lower'} is better.",
    )  # fmt: skip
    return float(chosen)


def _needed(fits: Mapping[str, Fit], target: float) -> list[dict[str, str]]:
    return [
        {
            "Series": title, "Images per class needed": images_needed(fit, target).text(),
            "Asymptote": with_interval(*fit.asymptote()) if fit.identifiable else "not identifiable",
        }
        for title, fit in fits.items()
    ]  # fmt: skip


def _multipliers(fits: Mapping[str, Fit], file: str) -> None:
    """Show for every pair how many times more labels the worse series needs to equal the better one."""
    sizes = sorted({n for fit in fits.values() for n in fit.sizes})
    middle = sizes[len(sizes) // 2]
    bound = address.choice("at", f"curves_at_{file}", sizes, middle, "{:g}".format)
    at = st.select_slider("Images per class of the better series", value=middle, format_func="{:g}".format, **bound)
    rows = []
    for first, second in combinations([title for title, fit in fits.items() if fit.sizes[0] <= at <= fit.sizes[-1]], 2):
        behind, ahead, multiplier = multiplier_at(fits, first, second, at)
        rows.append({"Series behind": behind, "needs times as many labels": multiplier.text(1), "to equal": ahead})
    if not rows:
        st.write(f"No two series were measured around {at:g} images per class.")
        return
    table(rows, f"How many times more labels a series needs to equal another with {at:g}", f"{file}-more")


def _crossovers(fits: Mapping[str, Fit]) -> None:
    """Show a sentence for every pair, first those that cross."""
    crossing: list[str] = []
    separate: list[str] = []
    for first, second in combinations(fits, 2):
        smallest = max(fits[first].sizes[0], fits[second].sizes[0])
        if smallest < min(fits[first].sizes[-1], fits[second].sizes[-1]):
            result = crossover(fits[first], fits[second])
            (separate if result.size is None else crossing).append(result.verdict(first, second))
    st.markdown("\n".join(f"- {escape(line)}" for line in crossing) or "No two curves cross within the measured sizes.")
    if separate:
        with st.expander(f"{len(separate)} pairs that do not cross"):
            show_list(separate)
