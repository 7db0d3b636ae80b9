"""View of one image on the Diagnose page: image check, one column per family, heatmap quality, and report downloads."""

from __future__ import annotations

import streamlit as st
from PIL import Image

from core.analysis.saliency_sanity import caution_for
from core.explain import EXPLAINERS
from core.explain.overlay import overlay
from core.inference import Answer, Case, ClassSet
from core.inference.report_json import ReportOptions, as_json
from core.inference.report_pdf import as_pdf
from core.inference.text import agree, agreement, decision, in_sentence, percent, threshold_of, training_text, where
from core.inference.two_stage import Verdict, outcome, performance_text, verdict_text
from core.models import FAMILY_TITLES
from core.ui import charts
from core.ui.diagnose.answers import Item, PageSettings, Picture, measure_heatmaps
from core.ui.text import color_bar, escape

CHANCE = 0.2


def scales_of(cases: list[Case]) -> dict[str, float]:
    """Return the largest heatmap peak of each run over the images shown: the scale that its maps share."""
    scales: dict[str, float] = {}
    for case in cases:
        for answer in case.answered:
            explanation = answer.prediction.explanation if answer.prediction else None
            if explanation and not explanation.degenerate:
                scales[answer.meta.run] = max(explanation.peak, scales.get(answer.meta.run, 0.0))
    return scales


def show_case(
    asked: PageSettings, item: Item, picture: Picture, case: Case, opacity: float, scales: dict[str, float]
) -> None:
    """Show an image with its results."""
    assert item.shown is not None
    if not case.answers:
        st.image(item.shown, caption="As read", alt="The uploaded image, without a prediction", width=256)
        return
    agreement_panel(case)
    if case.verdict:
        _two_stage_verdict(case.verdict)
    columns = st.columns(1 + len(case.answers))
    with columns[0]:
        st.write("**Image**")
        st.image(item.shown, caption="As read", alt="The uploaded image without any overlay", width="stretch")
    for column, answer in zip(columns[1:], case.answers.values(), strict=True):
        with column:
            _family(asked, answer, item.shown, opacity, scales)
    _heatmap_quality(asked, item, picture, case)
    _reports(item, case, opacity, scales)


def override(item: Item, case: Case) -> None:
    """Show why the gate refused an image, with the checkbox that overrides it."""
    if not case.unlike or case.admission is None:
        return
    st.warning(
        "No prediction: this does not look like an image for this task. " + " ".join(case.admission.reasons),
        icon=":material/block:",
    )
    st.checkbox("Predict anyway", key=override_key(item), help="The report will state this.")


def override_key(item: Item) -> str:
    """Return the session key that records whether the user overrides the gate for an image."""
    return f"diagnose_override_{item.digest}"


def agreement_panel(case: Case) -> None:
    """Show one sentence on agreement, distance to the threshold, and similarity to the training data."""
    sentence = escape(agreement(case))
    if agree(case) and len(case.answered) > 1 and not case.unlike:
        st.info(sentence, icon=":material/done_all:")
    else:
        st.warning(sentence, icon=":material/call_split:")


def _two_stage_verdict(verdict: Verdict) -> None:
    """Show the two-stage verdict, how it was reached, and the measured performance of both stages together."""
    title = escape(outcome(verdict))
    with st.container(border=True):
        st.markdown(f":material/filter_alt: Two stages: **{title}**")
        st.write(escape(verdict_text(verdict)))
        st.caption(escape(performance_text(verdict.stages)))


def _family(asked: PageSettings, answer: Answer, shown: Image.Image, opacity: float, scales: dict[str, float]) -> None:
    """Show one column: probability, decision, uncertainty and heatmap."""
    meta, prediction = answer.meta, answer.prediction
    st.write(f"**{FAMILY_TITLES[meta.family]}**")  # type: ignore[index]
    if prediction is None:
        st.error(escape(answer.problem))
        return
    about = escape(in_sentence(meta.titles[prediction.target]))
    title = f"Probability of {about}"
    st.markdown(title)  # `st.metric` would truncate a long label
    st.metric(title, percent(prediction.probabilities[prediction.target]), label_visibility="collapsed")
    threshold = threshold_of(meta, prediction.target)
    at = f" ({about} at {percent(threshold)} or above)" if threshold is not None else ""
    st.write(f"Decision: **{escape(decision(meta, prediction))}**{at}")
    _uncertainty(answer)
    title = charts.series_title(meta.model, meta.strategy, meta.series_variant)
    _heatmap(asked, answer, shown, opacity, scales, title)
    st.caption(f"{escape(title)}. {escape(training_text(meta))}")
    if meta.leaks:
        st.caption(":material/warning: Trained with leaks allowed. Reported performance is inflated by data leakage.")
    if len(meta.labels) > 2 or meta.multilabel:
        with st.expander("All classes"):
            charts.probability_table(meta, prediction)


def _uncertainty(answer: Answer) -> None:
    """Show the interval over seeds and the prediction set, one line each; tooltips state the method."""
    if isinstance(answer.seeds, str):
        st.caption(escape(answer.seeds))
    else:
        ends = f"{percent(answer.seeds.low)} to {percent(answer.seeds.high)}"
        st.markdown(f"Retrained on other samples: **{ends}**", help=escape(answer.seeds.how))
        if not answer.seeds.asked:
            st.caption("Weights are stored for this seed only: the range comes from similar test images.")
    if isinstance(answer.doubt, ClassSet):
        members = ", ".join(answer.doubt.classes) or "no class fits"
        st.markdown(f"{answer.doubt.level:.0%} prediction set: **{escape(members)}**", help=escape(answer.doubt.how))
    elif answer.doubt:
        st.caption(f"No prediction set: {escape(answer.doubt)}")


def _heatmap(
    asked: PageSettings, answer: Answer, shown: Image.Image, opacity: float, scales: dict[str, float], title: str
) -> None:
    explainer = EXPLAINERS[asked.explainer]
    explanation = answer.prediction.explanation if answer.prediction else None
    if explanation is None:
        st.caption(f"No heatmap: {explainer.title} does not support this network. {escape(answer.unexplained)}")
        return
    target = escape(in_sentence(answer.meta.titles[explanation.target]))
    scale = scales.get(answer.meta.run, explanation.peak)
    caption = f"{explainer.title}: evidence for {target}. Scale maximum: {scale:.3g}"
    if explanation.degenerate:
        caption = f"{explainer.title}: no positive evidence for {target}, so no overlay is drawn"
    st.image(
        overlay(shown, explanation, opacity, scale),
        caption=caption,
        alt=f"{explainer.title} of {title} for {in_sentence(answer.meta.titles[explanation.target])}; "
        f"{where(explanation)}",
        width="stretch",
    )
    if explanation.note:
        st.caption(escape(explanation.note))


def legend(asked: PageSettings) -> None:
    """Show the color bar, the scale, and the limits of the method."""
    color_bar()
    explainer = EXPLAINERS[asked.explainer]
    st.caption(
        f"**{explainer.title}**: {explainer.meaning} {explainer.caution} A heatmap shows where features raised a "
        "score, not where disease is. All images shown share one scale per model, from 0 to the model's largest peak, "
        "stated under each map: compare brightness between images of one model, not between models."
    )


def _heatmap_quality(asked: PageSettings, item: Item, picture: Picture, case: Case) -> None:
    """Show the overlap of the families' maps and the checks from their model cards. Deletion and insertion are slow
    and run on request.
    """
    painted = [
        answer for answer in case.answered
        if answer.prediction and answer.prediction.explanation and not answer.prediction.explanation.degenerate
    ]  # fmt: skip
    if not painted:
        return
    with st.expander("How good are these heatmaps?", icon=":material/rule:"):
        for (first, second), share in case.overlaps.items():
            pair = f"{FAMILY_TITLES[first]} and {FAMILY_TITLES[second]}"  # type: ignore[index]
            st.write(
                f"{pair}: the strongest fifths of their maps overlap by {share:.0%} ({CHANCE:.0%} expected by chance)."
            )
        if any(answer.faithfulness is None for answer in painted):
            st.button(
                "Measure deletion and insertion",
                key=f"diagnose_measure_{item.digest}",
                on_click=measure_heatmaps,
                args=(asked, item, picture),
                help="Runs each network 44 times with parts of the image blurred, to test whether the score follows "
                "the heatmap.",
            )
        for answer in painted:
            title = FAMILY_TITLES[answer.meta.family]  # type: ignore[index]
            if answer.faithfulness:
                st.write(f"**{title}**: {answer.faithfulness.words}")
            folder, meta = asked.chosen[answer.meta.family]
            if checked := caution_for(folder, meta):
                st.write(f"**{title}**, from its model card: {escape(checked)}")


def _reports(item: Item, case: Case, opacity: float, scales: dict[str, float]) -> None:
    """Show the report downloads; content that may identify a patient is included only on request."""
    with st.expander("Report", icon=":material/description:"):
        left, right = st.columns(2)
        name = left.checkbox("Include the file name", key=f"diagnose_name_{item.digest}")
        small = right.checkbox("Include a thumbnail and the heatmaps", key=f"diagnose_small_{item.digest}")
        st.caption("Both may identify a patient. Without them, the SHA-256 hash of the pixels identifies the image.")
        wanted = ReportOptions(name, item.shown if small else None)
        maps = _overlays(item, case, opacity, scales) if small else {}
        stem = f"lowshot-{case.pixels[:12]}"
        left.download_button(
            "PDF", lambda: as_pdf(case, wanted, maps), f"{stem}.pdf", "application/pdf",
            key=f"diagnose_pdf_{item.digest}", on_click="ignore", width="stretch",
        )  # fmt: skip
        right.download_button(
            "JSON", lambda: as_json(case, wanted), f"{stem}.json", "application/json",
            key=f"diagnose_json_{item.digest}", on_click="ignore", width="stretch",
        )  # fmt: skip


def _overlays(item: Item, case: Case, opacity: float, scales: dict[str, float]) -> dict[str, Image.Image]:
    overlays = {}
    for answer in case.answered:
        heat = answer.prediction.explanation if answer.prediction else None
        if heat and item.shown:
            title = f"{FAMILY_TITLES[answer.meta.family]}, {case.explainer}"  # type: ignore[index]
            overlays[title] = overlay(item.shown, heat, opacity, scales.get(answer.meta.run))
    return overlays
