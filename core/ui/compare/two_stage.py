"""Compare: a sensitive screening stage and a multiclass second stage, against one model at the same sensitivity."""

from dataclasses import replace

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.analysis.two_stage import stage_candidates
from core.data import DATASETS
from core.data.specs import family_of
from core.metrics.comparisons import bonferroni_corrected, format_p
from core.metrics.thresholds import Aim
from core.metrics.two_stage import TwoStage
from core.runs import RunMeta
from core.runs.series import Series
from core.ui import address, cache, charts
from core.ui.compare.view import View
from core.ui.pickers import series_text
from core.ui.tables import table
from core.ui.text import escape

Stage = tuple[str, Series]


def show(view: View) -> None:
    """Show the pickers of both stages and whether two stages help."""
    st.write(
        "A screening model with high sensitivity selects images for a second stage. A multiclass classifier then "
        "assigns the class and can overrule a positive screen. Both are trained on splits of the same data set."
    )
    screens, confirmers = stage_candidates(view.store, view.first)
    if view.first.multilabel or not confirmers:
        _absent(view)
        return
    dataset = view.dataset if view.dataset in confirmers else next(iter(confirmers))
    seconds = confirmers[dataset]
    meta = next(iter(seconds.values()))[0].meta
    suspicious = _suspicious(meta)
    if not 0 < len(suspicious) < len(meta.labels):
        st.info("Choose at least one suspicious class, and leave at least one class that is not suspicious.")
        return
    sensitivity = st.slider(
        "Target sensitivity of the screening stage", step=0.01, format="percent",
        **address.number("sensitivity", "compare_screen_sensitivity", 0.95, 0.8, 0.99),
    )  # fmt: skip
    stages = {(name, key): runs for name, by_series in screens.items() for key, runs in by_series.items()}
    left, right = st.columns(2)
    first = _pick(left, "Screen", list(stages), dataset)
    second = _pick(right, "Second stage", [(dataset, key) for key in seconds], dataset)
    single = cache.best_single(seconds, suspicious)
    results = cache.two_stage_results(
        stages[first], seconds[second[1]], seconds[single], suspicious, Aim("sensitivity", sensitivity),
        cache.STAGE_RESAMPLES,
    )  # fmt: skip
    pairs = len(stages) * len(seconds)
    results = replace(results, gain=bonferroni_corrected(results.gain, pairs))
    _results(results, pairs, meta.titles, suspicious, single, view)


def _suspicious(meta: RunMeta) -> tuple[int, ...]:
    """Show the picker of the suspicious classes and return their indices."""
    default = [meta.labels[index] for index in meta.suspicious]
    chosen = st.multiselect(
        "Suspicious classes",
        **address.choice("suspicious", f"compare_suspicious_{meta.dataset}", meta.labels, default, several=True),
        format_func=dict(zip(meta.labels, meta.titles, strict=True)).__getitem__,
    )  # fmt: skip
    return tuple(index for index, label in enumerate(meta.labels) if label in chosen)


def _pick(place: DeltaGenerator, title: str, stages: list[Stage], dataset: str) -> Stage:
    name = title.split()[0].lower()
    bound = address.choice(
        name, f"compare_{name}_{dataset}", stages, text=lambda stage: f"{stage[0]}.{series_text(stage[1])}"
    )
    return place.selectbox(
        title, **bound,
        format_func=lambda stage: charts.series_title(*stage[1]) + (f" · {stage[0]}" if stage[0] != dataset else ""),
    )  # fmt: skip


def _results(
    results: TwoStage, pairs: int, titles: tuple[str, ...], suspicious: tuple[int, ...], of_one: Series, view: View
) -> None:
    """Show the verdict in a sentence, then the figure and the table of results."""
    single, single_style = charts.series_title(*of_one), charts.style_of(*of_one)
    worse = results.gain.verdict == "different" and not results.helps
    (st.success if results.helps else st.warning if worse else st.info)(escape(results.verdict()))
    values = (
        ("Joint sensitivity", "Suspicious images that receive a suspicious class (joint sensitivity)",
         results.sensitivity),
        ("Joint specificity", "Other images that do not (joint specificity)", results.specificity),
        (f"Specificity of one model, {single}", f"Specificity of one model alone at the same sensitivity ({single})",
         results.single),
        ("Correct class", "Suspicious images that receive the correct class", results.named),
        ("Workload", "Images that the second stage sees (workload)", results.workload),
    )  # fmt: skip
    both = charts.Style(charts.INK, "solid", "circle")
    styles = [single_style if row is results.single else both for _, _, row in values]
    dots = [
        charts.Dot(title, style, row.value, row.low, row.high, note=f"{row:.3f}")
        for (title, _, row), style in zip(values, styles, strict=True)
    ]
    alt = "Joint performance of both stages with intervals; the table below has the numbers."
    charts.show_figure(charts.dot_plot(dots, "Share of images"), key="compare_stages_chart", alt=alt)
    rows = [
        {"What": quantity, "Share": f"{estimate:.3f}", "Interval over": "test patients"}
        for _, quantity, estimate in values
    ]
    gain = results.gain
    rows.append({"What": "Gain in specificity", "Share": gain.interval_text(), "Interval over": gain.varies})
    table(rows, "Joint performance of both stages with intervals", f"{view.file}-stages")
    st.caption(
        f"Suspicious: {escape(', '.join(titles[k] for k in suspicious))}. Mean over seeds that both stages have, with "
        f"95% intervals. Verdict: p below .05 after correction for the {pairs} pairs of stages that can be chosen here "
        f"(p {format_p(gain.holm)}; of equivalence within {gain.margin:g} {format_p(gain.holm_equivalence)}). The "
        "screening threshold is fitted on held-out images, so the sensitivity reached may differ from the target. The "
        "single model is the best on held-out images; its threshold is moved to the same sensitivity."
    )


def _absent(view: View) -> None:
    """Explain what is missing for two stages and how to train it."""
    family = family_of(view.dataset)
    several = [name for name, spec in DATASETS.items() if spec.task == "multiclass" and family_of(name) == family]
    if view.first.multilabel or not several:
        st.info("This data set has no multiclass task: two stages need several classes, some of them suspicious.")
        return
    st.info(
        f"No second stage with several classes is stored for {view.size or 'all'} labeled images per class. Train one "
        f"on {DATASETS[several[0]].title}."
    )
    st.page_link("pages/train.py", label="Train runs", icon=":material/model_training:")
