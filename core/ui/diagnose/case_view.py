"""View of one image on the Diagnose page: image check, one column per family, heatmap quality, and report downloads."""

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.analysis.saliency_sanity import caution_for
from core.data.uploads import Upload
from core.explain import EXPLAINERS, Explainer
from core.inference import Case, NetworkResult, PredictionSet
from core.inference.analyze import Settings, analyze, is_known
from core.inference.conclusion import Conclusion, conclude
from core.inference.sentences import (
    decision,
    in_sentence,
    percent,
    percent_range,
    threshold_of,
    track_record_text,
    training_text,
    where,
)
from core.inference.two_stage import performance_text, verdict_text
from core.models import FAMILY_TITLES
from core.ui import charts
from core.ui.diagnose.display import PREVALENCE, PREVALENCE_KEY, Display, scales_of
from core.ui.diagnose.report_dialog import report
from core.ui.diagnose.session import measure_heatmaps, results_of
from core.ui.diagnose.viewer import enlarge
from core.ui.progress import bar
from core.ui.text import color_bar, escape

CHANCE = 0.2


def show_cases(settings: Settings, uploads: Sequence[Upload], display: Display) -> None:
    """Show images in full, each with its results; files that cannot be read come first.

    Args:
        settings: settings that apply to every image.
        uploads: the images.
        display: how to show them.
    """
    distinct = {upload.digest: upload for upload in uploads}
    if len(distinct) < len(uploads):
        st.caption("Files with identical content are shown once.")
    cases = _analyze_all(settings, list(distinct.values()), display.place)
    if display.common_scale:
        display = replace(display, scales=scales_of([case for _, case in cases]))
    for upload, case in sorted(cases, key=lambda row: not row[1].problem):
        with st.container(border=True):
            st.header(escape(case.name), anchor=False)
            if case.problem:
                st.error(case.problem, icon=":material/broken_image:")
            else:
                _override(upload, case)
                _show_case(settings, upload, case, display)
    if settings.explainer and any(result.heatmap for _, case in cases for result in case.results.values()):
        _legend(EXPLAINERS[settings.explainer], display.common_scale)


def _analyze_all(settings: Settings, uploads: Sequence[Upload], place: DeltaGenerator) -> list[tuple[Upload, Case]]:
    """Return each image with its case; a bar beside the heatmap control shows the time left for slow heatmaps."""
    overridden = {upload.digest: st.session_state.get(_override_key(upload), False) for upload in uploads}
    new = [upload.digest for upload in uploads if not is_known(settings, overridden[upload.digest], results_of(upload))]
    explainer = EXPLAINERS[settings.explainer] if settings.explainer else None
    cases, each = [], len(settings.networks)
    with place, bar(f"{explainer.title}, networks done" if explainer else "") as show:
        for upload in uploads:
            before = new.index(upload.digest) * each if upload.digest in new else 0

            def progress(networks: float, before: int = before) -> None:
                if explainer and explainer.slow:
                    show(before + networks, len(new) * each)

            case = analyze(upload, settings, overridden[upload.digest], results_of(upload), progress)
            cases.append((upload, case))
    return cases


def _show_case(settings: Settings, upload: Upload, case: Case, display: Display) -> None:
    """Show an image with its results."""
    assert case.thumbnail is not None
    if not case.results:
        st.image(case.thumbnail, caption="As read", alt="The uploaded image, without a prediction", width=256)
        return
    _conclusion(conclude(case))
    if display.caution:
        st.caption(f":material/crop_free: {escape(display.caution)}")
    columns = st.columns(1 + len(case.results))
    with columns[0]:
        st.write("**Image**")
        credit = display.credits.get(upload.digest, "As read")
        st.image(case.thumbnail, caption=escape(credit), alt="The uploaded image without any overlay", width="stretch")
        if st.button("Enlarge", icon=":material/zoom_in:", key=f"diagnose_enlarge_{upload.digest}", width="stretch"):
            enlarge(upload, case, display)
    for column, result in zip(columns[1:], case.results.values(), strict=True):
        with column:
            _family(case, result, display)
    if case.verdict:
        with st.expander("Two-stage result", icon=":material/filter_alt:"):
            st.write(escape(verdict_text(case.verdict)))
            st.caption(escape(performance_text(case.verdict.stages)))
    _heatmap_quality(settings, upload, case)
    if st.button("Report", icon=":material/description:", key=f"diagnose_report_{upload.digest}"):
        report(upload, case, display)


def _override(upload: Upload, case: Case) -> None:
    """Show why the image check rejected an image, with the checkbox that overrides it."""
    if not case.rejected or case.check is None:
        return
    st.warning(
        "No prediction: this does not look like an image for this task. " + " ".join(case.check.reasons),
        icon=":material/block:",
    )
    st.checkbox("Predict anyway", key=_override_key(upload), help="The report will state this.")


def _override_key(upload: Upload) -> str:
    """Return the session key that records whether the user overrides the image check for an image."""
    return f"diagnose_override_{upload.digest}"


def _conclusion(conclusion: Conclusion) -> None:
    """Show the verdict and every reason to doubt it."""
    show = st.info if conclusion.status == "clear" else st.warning
    icons = {"clear": ":material/done_all:", "disagree": ":material/call_split:", "unsure": ":material/help:"}
    icon = icons.get(conclusion.status, ":material/block:")
    show(f"**{escape(conclusion.title)}.** {escape(conclusion.details)}", icon=icon)


def _family(case: Case, result: NetworkResult, display: Display) -> None:
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
    _heatmap(case, result, display, title)
    st.caption(f"{escape(title)}. {escape(training_text(meta))}")
    if meta.leaks:
        st.caption(":material/warning: Trained with leaks allowed. Reported performance is inflated by data leakage.")
    if len(meta.labels) > 2 or meta.multilabel:
        with st.expander("All classes"):
            charts.probability_table(meta, prediction)


def _how_often_right(result: NetworkResult) -> None:
    """Show how often such a decision is right, on internal and external test sets and at the chosen prevalence."""
    *rates, predictive = track_record_text(result, st.session_state.get(PREVALENCE_KEY, PREVALENCE)) or [""]
    for sentence in rates:
        st.markdown(escape(sentence))
    if predictive:
        st.caption(escape(predictive))


def _uncertainty(result: NetworkResult) -> None:
    """Show the interval over seeds and the prediction set, one line each; tooltips state the method."""
    seeds, members = result.seed_interval, result.prediction_set
    if isinstance(seeds, str):
        st.caption(escape(seeds))
    else:
        otherwise = f"; {percent(seeds.disagreement)} of them predict a different class" if seeds.disagreement else ""
        st.markdown(
            f"Retrained on other samples: **{percent_range(seeds.low, seeds.high)}**{escape(otherwise)}",
            help=escape(seeds.how),
        )
    if isinstance(members, PredictionSet):
        classes = ", ".join(members.classes) or "no class fits"
        st.markdown(f"{members.level:.0%} prediction set: **{escape(classes)}**", help=escape(members.how))
    elif members:
        st.caption("No prediction set", help=escape(members))


def _heatmap(case: Case, result: NetworkResult, display: Display, title: str) -> None:
    explanation = result.explanation
    assert result.prediction is not None
    if explanation is None:
        reason = escape(result.prediction.unexplained)
        st.caption(f"No heatmap: {case.explainer} does not support this network. {reason}")
        return
    target = in_sentence(result.meta.titles[explanation.target])
    caption = f"{case.explainer}: bright regions raised the score for {escape(target)}"
    if result.meta.run in display.scales:
        caption += f". Scale maximum: {display.scales[result.meta.run]:.3g}"
    if explanation.degenerate:
        caption = f"{case.explainer}: no region raised the score for {escape(target)}, so no overlay is drawn"
    st.image(
        display.draw(case.thumbnail, result), caption=caption,
        alt=f"{case.explainer} of {title} for {target}; {where(explanation)}", width="stretch",
    )  # fmt: skip
    if explanation.note:
        st.caption(escape(explanation.note))


def _legend(explainer: Explainer, common_scale: bool) -> None:
    """Show the color bar, the scale, and the limits of the method."""
    color_bar()
    scale = (
        "All images share one scale per network, from 0 to the network's largest peak, stated under each map: compare "
        "brightness between images of one network, not between networks."
        if common_scale
        else "Each map has its own scale, from 0 to its peak: compare places within a map, not brightness between maps."
    )
    st.caption(
        f"**{explainer.title}**: {explainer.meaning} {explainer.caution} A heatmap shows where features raised a "
        f"score, not where disease is. {scale}"
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
