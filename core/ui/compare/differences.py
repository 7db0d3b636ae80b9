"""Compare: difference of each series from a reference, with interval, corrected p-values and verdict."""

import streamlit as st

from core.metrics import METRICS
from core.metrics.bootstrap import with_interval
from core.metrics.comparisons import MIN_SEEDS, Difference, format_p
from core.runs.series import Series
from core.ui import address, cache, charts
from core.ui.compare import metric_charts
from core.ui.compare.view import View
from core.ui.pickers import pick_metric, series_text
from core.ui.tables import table
from core.ui.text import escape, show_list


def show(view: View) -> None:
    """Show the forest plot, a sentence per series, and the classical tests of each seed."""
    if len(view.runs) < 2:
        st.info("Pick at least two series to compare them.")
        return
    left, right = st.columns(2)
    bound = address.choice("reference", f"compare_reference_{view.dataset}", view.runs, text=series_text)
    reference = left.selectbox("Reference", format_func=view.title, **bound)
    with right:
        metric = pick_metric("compare_difference_metric")
    differences, refused, pairs = cache.differences(view.runs, reference, view.finding)
    for name, reason in refused.items():
        st.error(f"{escape(view.title(name))} is not compared. {escape(reason)}")
    if not differences:
        return
    rows = {view.title(name): (charts.style_of(*name), metrics[metric]) for name, metrics in differences.items()}
    margin = next(difference.margin for _, difference in rows.values())
    show_list(difference.sentence(title, view.title(reference)) for title, (_, difference) in rows.items())
    alt = f"Differences in {METRICS[metric].title} from {view.title(reference)}; described in words above."
    charts.show_figure(metric_charts.forest(rows, metric), key="compare_forest", alt=alt)
    shown = [
        {"Series": title, "Metric": METRICS[metric].title, "Difference": row.interval_text(), "Verdict": row.verdict}
        for title, (_, row) in rows.items()
    ]
    alt = f"Differences in {METRICS[metric].title} from {view.title(reference)}"
    table(shown, alt, f"{view.file}-{metric}-differences")
    st.caption(
        "95% interval over seeds and test patients together (hierarchical paired bootstrap, resampled by patient, "
        "lesion or image). Different: p below .05. Equivalent: two one-sided tests place the difference within "
        f"{margin:g} (shaded), p below .05. Undecided: neither. Both p-values are corrected with Holm's method over "
        f"{'one pair' if pairs == 1 else f'all {pairs} pairs of the series'}, for any choice of reference. With fewer "
        f"than {MIN_SEEDS} common seeds, the interval is the wider t-based one and there is no verdict. Every series "
        "was trained on the same subsets as the reference."
    )
    with st.expander("All metrics"):
        all_metrics = [
            _row(view.title(name), difference, view.title(reference))
            for name, metrics in differences.items()
            for difference in metrics.values()
        ]
        table(all_metrics, f"Differences from {view.title(reference)} in every metric", f"{view.file}-differences")
    with st.expander("Seed by seed: DeLong (AUROC) and McNemar (decisions)"):
        _seed_tests(view, list(differences), reference)


def _row(title: str, difference: Difference, reference: str) -> dict[str, str | int]:
    return {
        "Series": title,
        "Metric": METRICS[difference.metric].title,
        "Difference": difference.interval_text(),
        "p, Holm": format_p(difference.holm),
        "p of equivalence, Holm": format_p(difference.holm_equivalence),
        "Verdict": difference.verdict_text(title, reference),
        "Seeds": difference.seeds,
    }


def _seed_tests(view: View, names: list[Series], reference: Series) -> None:
    """Show the classical tests, each of which covers a single training subset."""
    rows = []
    for name in names:
        for tests in cache.seed_tests(view.runs[name], view.runs[reference], view.finding):
            row: dict[str, str | int] = {"Series": view.title(name), "Seed": tests.seed}
            if tests.delong:
                delong = tests.delong
                row["AUROC difference (DeLong)"] = with_interval(delong.effect, delong.low, delong.high, "+.3f")
                row["p, DeLong"] = format_p(delong.p)
            if tests.mcnemar:
                row["Only this one right"] = tests.mcnemar.only_first
                row["Only the reference right"] = tests.mcnemar.only_second
                row["p, McNemar exact"] = format_p(tests.mcnemar.p)
            rows.append(row)
    table(rows, "DeLong and McNemar for each seed", f"{view.file}-seeds")
    st.caption(
        "Not corrected for multiple testing, and each test ignores the variation between training subsets: these tests "
        "supplement the comparison above and do not replace it. McNemar's test treats images as independent."
    )
