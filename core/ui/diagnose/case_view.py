"""Draws one case on the Diagnose page: the gate's word, the image, a column a family, the panels and the reports."""

from __future__ import annotations

import streamlit as st
from PIL import Image

from core.analysis.saliency_sanity import told_of
from core.explain import EXPLAINERS
from core.explain.overlay import overlay
from core.inference import Answer, Case, ClassSet
from core.inference.report_json import Wanted, as_json
from core.inference.report_pdf import as_pdf
from core.inference.text import agree, agreement, decision, inside, learnt_from, percent, threshold_of, where
from core.inference.two_stage import Verdict, measured_words, outcome, verdict_words
from core.models import FAMILY_TITLES
from core.ui import charts
from core.ui.diagnose.answers import Asked, Item, Picture, measure_heatmaps
from core.ui.text import colour_bar, escape

CHANCE = 0.2


def scales_of(cases: list[Case]) -> dict[str, float]:
    """The largest peak of each run's heatmaps among the images shown: the scale that they share."""
    scales: dict[str, float] = {}
    for case in cases:
        for answer in case.answered:
            found = answer.prediction.explanation if answer.prediction else None
            if found and not found.degenerate:
                scales[answer.meta.run] = max(found.peak, scales.get(answer.meta.run, 0.0))
    return scales


def show_case(asked: Asked, item: Item, picture: Picture, case: Case, opacity: float, scales: dict[str, float]) -> None:
    """One image with everything that is said of it."""
    assert item.shown is not None
    if not case.answers:
        st.image(item.shown, caption="As read", alt="The uploaded image, which was not answered", width=256)
        return
    agreement_panel(case)
    if case.verdict:
        _verdict(case.verdict)
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
    """What the gate found, with the box that sets it aside."""
    if not case.unlike or case.admission is None:
        return
    st.warning(
        "Not answered: this does not look like an image of this task. " + " ".join(case.admission.reasons),
        icon=":material/block:",
    )
    st.checkbox("Answer all the same", key=override_key(item), help="The report will say so.")


def override_key(item: Item) -> str:
    """Where it is kept that an image is answered all the same."""
    return f"diagnose_override_{item.digest}"


def agreement_panel(case: Case) -> None:
    """The one sentence: agreement, nearness to a threshold, likeness to the training data."""
    text = escape(agreement(case))
    if agree(case) and len(case.answered) > 1 and not case.unlike:
        st.info(text, icon=":material/done_all:")
    else:
        st.warning(text, icon=":material/call_split:")


def _verdict(found: Verdict) -> None:
    """Both stages' verdict, how it came about, and what they are worth together."""
    title = escape(outcome(found))
    with st.container(border=True):
        st.markdown(f":material/filter_alt: Two stages: **{title}**")
        st.write(escape(verdict_words(found)))
        st.caption(escape(measured_words(found.stages)))


def _family(asked: Asked, answer: Answer, shown: Image.Image, opacity: float, scales: dict[str, float]) -> None:
    """One column: probability, decision, doubt, heatmap."""
    meta, prediction = answer.meta, answer.prediction
    st.write(f"**{FAMILY_TITLES[meta.family]}**")  # type: ignore[index]
    if prediction is None:
        st.error(escape(answer.problem))
        return
    about = escape(inside(meta.titles[prediction.target]))
    title = f"Probability of {about}"
    st.markdown(title)  # the metric's own label is cut where it does not fit its line
    st.metric(title, percent(prediction.probabilities[prediction.target]), label_visibility="collapsed")
    threshold = threshold_of(meta, prediction.target)
    at = f" ({about} from {percent(threshold)} upwards)" if threshold is not None else ""
    st.write(f"Decision: **{escape(decision(meta, prediction))}**{at}")
    _doubts(answer)
    title = charts.series_title(meta.model, meta.strategy, meta.series_variant)
    _evidence(asked, answer, shown, opacity, scales, title)
    st.caption(f"{escape(title)}. {escape(learnt_from(meta))}")
    if meta.leaks:
        st.caption(":material/warning: Trained with leaks allowed: its stored figures are too good.")
    if len(meta.labels) > 2 or meta.multilabel:
        with st.expander("Every class"):
            charts.probability_table(meta, prediction)


def _doubts(answer: Answer) -> None:
    """Interval over seeds and conformal set, in a line each; how they were found in the tooltip."""
    if isinstance(answer.seeds, str):
        st.caption(escape(answer.seeds))
    else:
        ends = f"{percent(answer.seeds.low)} to {percent(answer.seeds.high)}"
        st.markdown(f"Over {answer.seeds.seeds} seeds: **{ends}**", help=escape(answer.seeds.how))
        if not answer.seeds.asked:
            st.caption("Only this seed's weights are stored: the range is that of like test images.")
    if isinstance(answer.doubt, ClassSet):
        held = ", ".join(answer.doubt.classes) or "no class fits"
        st.markdown(f"Set at {answer.doubt.level:.0%}: **{escape(held)}**", help=escape(answer.doubt.how))
    elif answer.doubt:
        st.caption(f"No conformal set: {escape(answer.doubt)}")


def _evidence(
    asked: Asked, answer: Answer, shown: Image.Image, opacity: float, scales: dict[str, float], title: str
) -> None:
    explainer = EXPLAINERS[asked.explainer]
    found = answer.prediction.explanation if answer.prediction else None
    if found is None:
        st.caption(f"No heatmap: {explainer.title} is not for this network. {escape(answer.unexplained)}")
        return
    target = escape(inside(answer.meta.titles[found.target]))
    scale = scales.get(answer.meta.run, found.peak)
    caption = f"{explainer.title}: evidence for {target}. Brightest: {scale:.3g}"
    if found.degenerate:
        caption = f"{explainer.title}: no positive evidence for {target}, nothing is painted"
    st.image(
        overlay(shown, found, opacity, scale),
        caption=caption,
        alt=f"{explainer.title} of {title} for {inside(answer.meta.titles[found.target])}; {where(found)}",
        width="stretch",
    )
    if found.note:
        st.caption(escape(found.note))


def legend(asked: Asked) -> None:
    """The colour bar, the scale, and what to know before a map is believed."""
    colour_bar()
    explainer = EXPLAINERS[asked.explainer]
    st.caption(
        f"**{explainer.title}**: {explainer.meaning} {explainer.caution} A heatmap shows where features raised a "
        "score, not where disease is. Each model has one scale for all images shown, from 0 to its largest peak among "
        "them, written under each map: brightness may be compared between images of one model, not between models."
    )


def _heatmap_quality(asked: Asked, item: Item, picture: Picture, case: Case) -> None:
    """Overlap of the families and what model cards say of their maps at once; deletion and insertion, which take a
    while, when asked for.
    """
    painted = [
        one for one in case.answered
        if one.prediction and one.prediction.explanation and not one.prediction.explanation.degenerate
    ]  # fmt: skip
    if not painted:
        return
    with st.expander("How good are these heatmaps?", icon=":material/rule:"):
        for (one, other), share in case.overlaps.items():
            pair = f"{FAMILY_TITLES[one]} and {FAMILY_TITLES[other]}"  # type: ignore[index]
            st.write(f"{pair} share {share:.0%} of the strongest fifth of their maps ({CHANCE:.0%} by chance).")
        if any(answer.faithfulness is None for answer in painted):
            st.button(
                "Measure deletion and insertion",
                key=f"diagnose_measure_{item.digest}",
                on_click=measure_heatmaps,
                args=(asked, item, picture),
                help="Asks each network 44 times, with parts of the image blurred: does the score follow?",
            )
        for answer in painted:
            title = FAMILY_TITLES[answer.meta.family]  # type: ignore[index]
            if answer.faithfulness:
                st.write(f"**{title}**: {answer.faithfulness.words}")
            folder, meta = asked.chosen[answer.meta.family]
            if checked := told_of(folder, meta):
                st.write(f"**{title}**, from its model card: {escape(checked)}")


def _reports(item: Item, case: Case, opacity: float, scales: dict[str, float]) -> None:
    """Downloads of the report; what may name a patient is in it only if asked for."""
    with st.expander("Report", icon=":material/description:"):
        left, right = st.columns(2)
        name = left.checkbox("State the file's name", key=f"diagnose_name_{item.digest}")
        small = right.checkbox("Include a small copy and the heatmaps", key=f"diagnose_small_{item.digest}")
        st.caption("Both may name or show a patient. Without them the image is named by the SHA-256 of its pixels.")
        wanted = Wanted(name, item.shown if small else None)
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
    found = {}
    for answer in case.answered:
        heat = answer.prediction.explanation if answer.prediction else None
        if heat and item.shown:
            title = f"{FAMILY_TITLES[answer.meta.family]}, {case.explainer}"  # type: ignore[index]
            found[title] = overlay(item.shown, heat, opacity, scales.get(answer.meta.run))
    return found
