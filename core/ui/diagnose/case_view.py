"""View of one image on the Diagnose page: image check, one column per family, heatmap quality, and report downloads."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from PIL import Image

from core.analysis.saliency_sanity import caution_for
from core.data.uploads import Upload
from core.explain import EXPLAINERS, Explainer
from core.explain.overlay import overlay
from core.inference import Case, NetworkResult, PredictionSet
from core.inference.analyze import Settings, analyze
from core.inference.report_json import ReportOptions, as_json
from core.inference.report_pdf import as_pdf
from core.inference.text import agree, agreement, decision, in_sentence, percent, threshold_of, training_text, where
from core.inference.two_stage import Verdict, outcome, performance_text, verdict_text
from core.models import FAMILY_TITLES
from core.ui import charts
from core.ui.diagnose.session import measure_heatmaps, results_of
from core.ui.text import color_bar, escape

CHANCE = 0.2
PREVALENCE, PREVALENCE_KEY = 0.1, "diagnose_prevalence"


def show_cases(settings: Settings, uploads: Sequence[Upload], opacity: float, caution: str = "") -> None:
    """Show images in full, each with its results; files that cannot be read come first.

    Args:
        settings: settings that apply to every image.
        uploads: the images.
        opacity: of the heatmaps, in [0, 1].
        caution: what to know about every answer of this task; "" for nothing.
    """
    distinct = {upload.digest: upload for upload in uploads}
    if len(distinct) < len(uploads):
        st.caption("Files with identical content are shown once.")
    cases = []
    for upload in distinct.values():
        overridden = st.session_state.get(_override_key(upload), False)
        cases.append((upload, analyze(upload, settings, overridden, results_of(upload))))
    for _, case in cases:
        if case.problem:
            with st.container(border=True):
                st.text(case.name)
                st.error(case.problem, icon=":material/broken_image:")
    scales = scales_of([case for _, case in cases])
    for upload, case in cases:
        if not case.problem:
            with st.container(border=True):
                st.text(case.name)
                _override(upload, case)
                _show_case(settings, upload, case, opacity, scales, caution)
    if scales and settings.explainer:
        _legend(EXPLAINERS[settings.explainer])


def scales_of(cases: Sequence[Case]) -> dict[str, float]:
    """Return the largest heatmap peak of each run over the images shown: the scale that its maps share."""
    scales: dict[str, float] = {}
    for case in cases:
        for result in case.results.values():
            if result.heatmap:
                scales[result.meta.run] = max(result.heatmap.peak, scales.get(result.meta.run, 0.0))
    return scales


def _show_case(
    settings: Settings, upload: Upload, case: Case, opacity: float, scales: dict[str, float], caution: str
) -> None:
    """Show an image with its results."""
    assert case.thumbnail is not None
    if not case.results:
        st.image(case.thumbnail, caption="As read", alt="The uploaded image, without a prediction", width=256)
        return
    agreement_panel(case)
    if caution:
        st.caption(f":material/crop_free: {escape(caution)}")
    if case.verdict:
        _two_stage_verdict(case.verdict)
    columns = st.columns(1 + len(case.results))
    with columns[0]:
        st.write("**Image**")
        st.image(case.thumbnail, caption="As read", alt="The uploaded image without any overlay", width="stretch")
    for column, result in zip(columns[1:], case.results.values(), strict=True):
        with column:
            _family(case, result, opacity, scales)
    _heatmap_quality(settings, upload, case)
    _reports(upload, case, opacity, scales)


def _override(upload: Upload, case: Case) -> None:
    """Show why the input check rejected an image, with the checkbox that overrides it."""
    if not case.rejected or case.check is None:
        return
    st.warning(
        "No prediction: this does not look like an image for this task. " + " ".join(case.check.reasons),
        icon=":material/block:",
    )
    st.checkbox("Predict anyway", key=_override_key(upload), help="The report will state this.")


def _override_key(upload: Upload) -> str:
    """Return the session key that records whether the user overrides the input check for an image."""
    return f"diagnose_override_{upload.digest}"


def agreement_panel(case: Case) -> None:
    """Show one sentence on agreement, distance to the threshold, and similarity to the training data."""
    sentence = escape(agreement(case))
    if agree(case) and len(case.predictions) > 1 and not case.rejected:
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


def _family(case: Case, result: NetworkResult, opacity: float, scales: dict[str, float]) -> None:
    """Show one column: probability, decision, uncertainty and heatmap."""
    meta, prediction = result.meta, result.prediction
    st.write(f"**{FAMILY_TITLES[meta.family]}**")  # type: ignore[index]
    if prediction is None:
        st.error(escape(result.problem))
        return
    target = escape(in_sentence(meta.titles[prediction.target]))
    label = f"Probability of {target}"
    st.markdown(label)  # `st.metric` would truncate a long label
    st.metric(label, percent(prediction.probabilities[prediction.target]), label_visibility="collapsed")
    threshold = threshold_of(meta, prediction.target)
    at = f" ({target} at {percent(threshold)} or above)" if threshold is not None else ""
    st.write(f"Decision: **{escape(decision(meta, prediction))}**{at}")
    _how_often_right(result)
    _uncertainty(result)
    title = charts.series_title(meta.model, meta.strategy, meta.series_variant)
    _heatmap(case, result, opacity, scales, title)
    st.caption(f"{escape(title)}. {escape(training_text(meta))}")
    if meta.leaks:
        st.caption(":material/warning: Trained with leaks allowed. Reported performance is inflated by data leakage.")
    if len(meta.labels) > 2 or meta.multilabel:
        with st.expander("All classes"):
            charts.probability_table(meta, prediction)


def _how_often_right(result: NetworkResult) -> None:
    """Show how often such a decision is right, on the own test set and elsewhere, and at the chosen prevalence."""
    assert result.prediction is not None
    meta = result.meta
    name, alarm = in_sentence(meta.titles[result.prediction.target]), meta.positive is not None or meta.multilabel
    for rates in result.track_record:
        st.markdown(escape(rates.text(name, alarm)))
    if result.track_record:
        prevalence = st.session_state.get(PREVALENCE_KEY, PREVALENCE)
        st.caption(escape(result.track_record[-1].predictive_text(name, alarm, prevalence)))


def _uncertainty(result: NetworkResult) -> None:
    """Show the interval over seeds and the prediction set, one line each; tooltips state the method."""
    seeds, members = result.seed_interval, result.prediction_set
    if isinstance(seeds, str):
        st.caption(escape(seeds))
    else:
        st.markdown(
            f"Retrained on other samples: **{percent(seeds.low)} to {percent(seeds.high)}**", help=escape(seeds.how)
        )
        if not seeds.evaluated:
            st.caption("Weights are stored for this seed only: the range comes from similar test images.")
    if isinstance(members, PredictionSet):
        classes = ", ".join(members.classes) or "no class fits"
        st.markdown(f"{members.level:.0%} prediction set: **{escape(classes)}**", help=escape(members.how))
    elif members:
        st.caption(f"No prediction set: {escape(members)}")


def _heatmap(case: Case, result: NetworkResult, opacity: float, scales: dict[str, float], title: str) -> None:
    explanation = result.explanation
    assert case.thumbnail is not None
    assert result.prediction is not None
    if explanation is None:
        reason = escape(result.prediction.unexplained)
        st.caption(f"No heatmap: {case.explainer} does not support this network. {reason}")
        return
    target = in_sentence(result.meta.titles[explanation.target])
    scale = scales.get(result.meta.run, explanation.peak)
    caption = f"{case.explainer}: evidence for {escape(target)}. Scale maximum: {scale:.3g}"
    if explanation.degenerate:
        caption = f"{case.explainer}: no positive evidence for {escape(target)}, so no overlay is drawn"
    st.image(
        overlay(case.thumbnail, explanation, opacity, scale), caption=caption,
        alt=f"{case.explainer} of {title} for {target}; {where(explanation)}", width="stretch",
    )  # fmt: skip
    if explanation.note:
        st.caption(escape(explanation.note))


def _legend(explainer: Explainer) -> None:
    """Show the color bar, the scale, and the limits of the method."""
    color_bar()
    st.caption(
        f"**{explainer.title}**: {explainer.meaning} {explainer.caution} A heatmap shows where features raised a "
        "score, not where disease is. All images shown share one scale per model, from 0 to the model's largest peak, "
        "stated under each map: compare brightness between images of one model, not between models."
    )


def _heatmap_quality(settings: Settings, upload: Upload, case: Case) -> None:
    """Show the overlap of the families' maps and the checks from their model cards. Deletion and insertion are slow
    and run on request.
    """
    explained = {family: result for family, result in case.results.items() if result.heatmap}
    if not explained:
        return
    with st.expander("How good are these heatmaps?", icon=":material/rule:"):
        for (first, second), share in case.overlaps.items():
            pair = f"{FAMILY_TITLES[first]} and {FAMILY_TITLES[second]}"  # type: ignore[index]
            st.write(
                f"{pair}: the strongest fifths of their maps overlap by {share:.0%} ({CHANCE:.0%} expected by chance)."
            )
        if any(result.faithfulness is None for result in explained.values()):
            st.button(
                "Measure deletion and insertion",
                key=f"diagnose_measure_{upload.digest}",
                on_click=measure_heatmaps,
                args=(upload, settings, case),
                help="Runs each network 44 times with parts of the image blurred, to test whether the score follows "
                "the heatmap.",
            )
        for family, result in explained.items():
            title = FAMILY_TITLES[family]  # type: ignore[index]
            if result.faithfulness:
                st.write(f"**{title}**: {result.faithfulness.text}")
            if caution := caution_for(*settings.networks[family].run):
                st.write(f"**{title}**, from its model card: {escape(caution)}")


def _reports(upload: Upload, case: Case, opacity: float, scales: dict[str, float]) -> None:
    """Show the report downloads; content that may identify a patient is included only on request."""
    with st.expander("Report", icon=":material/description:"):
        left, right = st.columns(2)
        name = left.checkbox("Include the file name", key=f"diagnose_name_{upload.digest}")
        images = right.checkbox("Include a thumbnail and the heatmaps", key=f"diagnose_images_{upload.digest}")
        st.caption("Both may identify a patient. Without them, the SHA-256 hash of the pixels identifies the image.")
        options = ReportOptions(name, case.thumbnail if images else None)
        overlays = _overlays(case, opacity, scales) if images else {}
        stem = f"lowshot-{case.pixels[:12]}"
        left.download_button(
            "PDF", lambda: as_pdf(case, options, overlays), f"{stem}.pdf", "application/pdf",
            key=f"diagnose_pdf_{upload.digest}", on_click="ignore", width="stretch",
        )  # fmt: skip
        right.download_button(
            "JSON", lambda: as_json(case, options), f"{stem}.json", "application/json",
            key=f"diagnose_json_{upload.digest}", on_click="ignore", width="stretch",
        )  # fmt: skip


def _overlays(case: Case, opacity: float, scales: dict[str, float]) -> dict[str, Image.Image]:
    return {
        f"{FAMILY_TITLES[family]}, {case.explainer}": overlay(  # type: ignore[index]
            case.thumbnail, result.explanation, opacity, scales.get(result.meta.run)
        )
        for family, result in case.results.items()
        if result.explanation and case.thumbnail
    }
