"""Compare: each series minus a reference: verdict, effect with interval, corrected p, in words."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from core.metrics import METRICS
from core.metrics.comparisons import MIN_SEEDS, Difference, format_p
from core.runs.series import Series
from core.ui import cache, charts
from core.ui.compare import metric_charts
from core.ui.compare.view import View
from core.ui.pickers import keep_possible
from core.ui.tables import table
from core.ui.text import escape


def show(view: View) -> None:
    """Forest plot, sentences, and the classical tests of each seed."""
    if len(view.runs) < 2:
        st.info("Pick at least two series to compare them.")
        return
    left, right = st.columns(2)
    key = f"compare_reference_{view.dataset}"
    keep_possible(key, list(view.runs))
    with left:
        reference = st.selectbox("Reference", list(view.runs), format_func=view.title, key=key)
    with right:
        metric = st.selectbox(
            "Metric", list(METRICS), format_func=lambda name: METRICS[name].title, key="compare_difference_metric"
        )
    found, refused, pairs = cache.differences(view.runs, reference, view.finding)
    for name, why in refused.items():
        st.error(f"{escape(view.title(name))} is not compared. {escape(why)}")
    if not found:
        return
    rows = {view.title(name): (charts.style_of(*name), metrics[metric]) for name, metrics in found.items()}
    named = charts.legend_title(view.title(reference), False)
    margin = next(one.margin for _, one in rows.values())
    charts.draw(
        metric_charts.forest(rows, metric, named), key="compare_forest",
        alt=f"Differences in {METRICS[metric].title} from {view.title(reference)}; said in words below.",
    )  # fmt: skip
    st.caption(
        "95% interval over seeds and test patients together (hierarchical paired bootstrap, patients resampled whole). "
        f"Different (filled): p below .05. Equivalent: two one-sided tests place the difference within {margin:g} "
        "(shaded), p below .05. Undecided: neither. Both p are corrected by Holm over "
        f"{'one pair' if pairs == 1 else f'all {pairs} pairs of the series'}, whichever the reference. Below "
        f"{MIN_SEEDS} common seeds the interval is the wider t-based one and there is no verdict. Every series was "
        "trained on the same subsets as the reference."
    )
    st.markdown(
        "\n".join(f"- {escape(one.sentence(title, view.title(reference)))}" for title, (_, one) in rows.items())
    )
    with st.expander("Every metric"):
        every = pd.DataFrame(
            [_row(view.title(name), one, view.title(reference)) for name, of in found.items() for one in of.values()]
        )
        table(every, f"Differences from {view.title(reference)} in every metric", f"{view.file}-differences")
    with st.expander("Seed by seed: DeLong (AUROC) and McNemar (decisions)"):
        _seeds(view, list(found), reference)


def _row(title: str, one: Difference, reference: str) -> dict[str, str | int]:
    return {
        "Series": title,
        "Metric": METRICS[one.metric].title,
        "Difference": one.interval_text(),
        "p, Holm": format_p(one.holm),
        "p of equivalence, Holm": format_p(one.holm_equivalence),
        "Verdict": one.verdict_text(title, reference),
        "Seeds": one.seeds,
    }


def _seeds(view: View, names: list[Series], reference: Series) -> None:
    """The classical tests, which know one draw of training images each."""
    rows = []
    for name in names:
        for one in cache.seed_tests(view.runs[name], view.runs[reference], view.finding):
            row: dict[str, str | int] = {"Series": view.title(name), "Seed": one.seed}
            if one.delong:
                found = one.delong
                row["AUROC difference (DeLong)"] = f"{found.effect:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
                row["p, DeLong"] = format_p(found.p)
            if one.mcnemar:
                row["Only this one right"], row["Only the reference right"] = (
                    one.mcnemar.only_first,
                    one.mcnemar.only_second,
                )
                row["p, McNemar exact"] = format_p(one.mcnemar.p)
            rows.append(row)
    table(pd.DataFrame(rows), "DeLong and McNemar for each seed", f"{view.file}-seeds")
    st.caption(
        "Not corrected for their number, and blind to the draw of training images: they stand beside the comparison "
        "above, not in its place. McNemar takes images for independent."
    )
