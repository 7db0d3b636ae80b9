"""Parts of model cards: tables of facts, architecture, metrics with intervals, calibration, and checklists."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from core.cards.checklists import GUIDELINES
from core.cards.encoder_limits import encoder_limits
from core.cards.items import OPEN, answered, as_csv, as_markdown
from core.cards.networks import shape_facts
from core.cards.subject import Subject
from core.errors import LowshotError
from core.metrics import METRICS, Estimate, Scores, SeriesEstimate
from core.metrics.bootstrap import with_interval
from core.metrics.reliability import Bin, chance_error, reliability
from core.models import MODELS
from core.models.medical_encoders import probe_results_of
from core.models.summary import alt_text, diagram, format_count, format_shape
from core.runs import RunMeta
from core.runs.scores import decision_rule
from core.ui import address, cache, charts, text
from core.ui.compare.operating_charts import reliability_line
from core.ui.tables import table

READS = {"last": "last layer", "stages": "every stage"}


def show_facts(rows: Mapping[str, str]) -> None:
    """Show a table of facts; text from files is escaped."""
    shown = {name: text.escape(value) for name, value in rows.items()}
    st.table(pd.DataFrame({"": list(shown), "Fact": list(shown.values())}).set_index(""))


def shape_in_words(model: str, classes: int) -> str:
    """Return a sentence on a network's architecture; "" if it cannot be built here."""
    try:
        return alt_text(cache.architecture_of(model, classes))
    except LowshotError:
        return ""


def network(model: str, classes: int, trained: str, file: str) -> None:
    """Show the diagram of a network, its size and the table of its stages.

    Args:
        model: name of the model.
        classes: number of classes of its head.
        trained: the trained part, `head` or `all`; "" shows the numbers of both.
        file: name of the table's download, without the extension.
    """
    try:
        shape = cache.architecture_of(model, classes)
    except LowshotError as error:
        st.info(text.escape(str(error)))
        return
    st.image(diagram(shape), alt=alt_text(shape), width="stretch")
    st.caption(text.escape(alt_text(shape)))
    if trained:
        trainable = shape.head_parameters if trained == "head" else shape.parameters
        st.write(f"**{shape.parameters:,} parameters**, of which this strategy trains {trainable:,}.")
    else:
        show_facts(shape_facts(MODELS[model], shape))
    rows = [
        {
            "Stage": stage.name, "Output": format_shape(stage.shape), "Parameters": stage.parameters,
            "Multiply-adds": format_count(stage.macs), "Layers": stage.layers,
        }
        for stage in shape.stages
    ]  # fmt: skip
    rows.append({"Stage": "in all", "Parameters": shape.parameters, "Multiply-adds": format_count(shape.macs)})
    table(pd.DataFrame(rows).fillna(""), "Stages of the network", file)


def show_metrics(meta: RunMeta, estimates: Mapping[str, Estimate], summaries: Mapping[str, SeriesEstimate]) -> None:
    """Show the metrics of a run with intervals, at a threshold of 0.5, and as the mean over seeds.

    Args:
        meta: the run.
        estimates: its metrics with intervals over test patients.
        summaries: metrics over all seeds of its series and size, with intervals over patients and over seeds.
    """
    seeds = next(iter(summaries.values())).seeds.seeds
    mean = f"Mean over {seeds} seeds"
    rows = [
        {
            "Metric": METRICS[name].title, "This run": estimate.value, "patients from": estimate.low,
            "patients to": estimate.high, "At 0.5": meta.metrics_at_half.get(name), mean: summaries[name].value,
        }
        for name, estimate in estimates.items()
    ]  # fmt: skip
    over_seeds = [
        {
            "Metric": METRICS[name].title, mean: row.value, "patients from": row.patients.low,
            "patients to": row.patients.high, "seeds from": row.seeds.low, "seeds to": row.seeds.high,
        }
        for name, row in summaries.items()
    ]  # fmt: skip
    _numbers(rows, "Metrics on the test images with intervals", f"{meta.run}-metrics")
    with st.expander(f"{mean}, with intervals"):
        _numbers(over_seeds, "Mean metrics over seeds with intervals", f"{meta.run}-means")
    st.caption(
        f"On {next(iter(estimates.values())).n:,} test images, with 95% intervals. {decision_rule(meta)} "
        "Patients: the test patients vary (resampled by patient, lesion or image) and the trained networks are fixed. "
        "Seeds: the training images vary (Student's t over seeds) and the test patients are fixed."
    )


def _numbers(rows: list[dict[str, Any]], alt: str, file: str) -> None:
    frame = pd.DataFrame(rows).round(4)
    table(frame, alt, file, {name: "%.3f" for name in frame.columns if name != "Metric"})


def calibration(scores: Scores, error: Estimate | None, style: charts.Style, key: str) -> None:
    """Show the reliability diagram, and whether the calibration error exceeds chance.

    Args:
        scores: test predictions of the run.
        error: expected calibration error; None if unknown.
        style: style of the run's series.
        key: key of the chart.
    """
    bins = [row for row in reliability(scores) if row.n]
    chance = chance_error(scores)
    shares = "; ".join(
        f"predicted {row.mean_probability:.2f}, observed {row.frequency.value:.2f} of {row.n}" for row in bins
    )
    charts.show_figure(reliability_diagram(bins, style), key=key, alt=f"Reliability diagram: {shares}")
    if error:
        more = "more than" if error.value > chance.high else "no more than"
        st.write(
            f"Expected calibration error **{error:.3f}** over test patients: {more} "
            f"{chance.high:.3f}, the value that perfectly calibrated probabilities of as many images exceed by chance "
            "in 5% of cases."
        )
    st.caption("Numbers: images per probability bin. Bars: 95% intervals that treat images as independent.")


def checklist(subject: Subject) -> None:
    """Show a reporting checklist, filled in from the record where possible."""
    name = address.segments(
        "Guideline", "guideline", "models_guideline", GUIDELINES, format_func=lambda row: GUIDELINES[row].title
    )
    guideline = GUIDELINES[name]
    rows = answered(guideline, subject)
    known = sum(bool(answer) for _, answer in rows)
    st.write(
        f"**{known} of {len(rows)}** items are answered from the run's record. The others are open and need an answer "
        f"from the authors. {text.escape(guideline.citation)}. Items are paraphrased; the published text is "
        "authoritative."
    )
    shown = [
        {"Item": item.number, "Section": item.section, "Asks for": item.topic, "Answer": answer or OPEN}
        for item, answer in rows
    ]
    table(shown, f"{guideline.title} with answers")
    with st.container(horizontal=True):
        st.download_button(
            "Download (Markdown)", as_markdown(guideline, subject), f"{name}-{subject.meta.run}.md", "text/markdown",
            key=f"models_download_{name}",
        )  # fmt: skip
        st.download_button(
            "Download (CSV)", as_csv(guideline, subject).encode("utf-8-sig"), f"{name}-{subject.meta.run}.csv",
            "text/csv", key=f"models_download_csv_{name}",
        )  # fmt: skip


def encoder(card: Mapping[str, Any]) -> None:
    """Show the stored facts on an encoder pretrained here.

    Args:
        card: content of its card file.
    """
    st.subheader("Known limits")
    text.show_list(encoder_limits(card))
    st.subheader("Facts")
    show_facts({
        "Started from": str(card.get("start", "not recorded")), "License": str(card["licence"]),
        "Has seen": ", ".join(card["seen"]), "Excluded, with copies": ", ".join(card["left_out"]),
        "Excluded, with their patients": ", ".join(card.get("excluded_patients_of", ())) or "not recorded",
        "Computed on": f"{card.get('device', 'not recorded')}, in {card.get('seconds', 0) / 60:.0f} minutes",
        "SHA-256": str(card["sha256"]),
    })  # fmt: skip
    st.subheader("Training data")
    corpus = [
        {
            "Data set": part["title"], "Images": part["images"], "Held out": part.get("held_out"),
            "License": part["licence"], "Citation": part.get("citation", ""),
            "Copies removed": _counts(part.get("copies_removed", {})),
            "Others of the same patients removed": _counts(part.get("people_removed", {})),
        }
        for part in card.get("corpus", ())
    ]  # fmt: skip
    table(corpus, "Data sets for pretraining the encoder", "encoder-corpus")
    _evaluation(card)
    if curve := card.get("training_curve"):
        st.subheader("Training curve")
        alt = f"Pretraining loss, from {curve[0]['loss']:.2f} to {curve[-1]['loss']:.2f}"
        lines = {"loss": ("loss", charts.Style(charts.INK, "solid", "circle"))}
        charts.show_figure(charts.loss_curves(curve, lines, "step"), key="models_pretraining", alt=alt)
    if recipe := card.get("recipe"):
        st.subheader("Recipe")
        show_facts({name.replace("_", " ").capitalize(): _plain(value) for name, value in recipe.items()})


def _evaluation(card: Mapping[str, Any]) -> None:
    rows = [
        {
            "Evaluated on": f"{row.images:,} images of {row.patients:,} patients of {row.dataset} that it never saw",
            "Read": READS.get(row.read, row.read), "Start": row.start, "Encoder": row.encoder,
            "Difference (95% interval)": with_interval(*row.difference, "+.3f"),
        }
        for row in probe_results_of(card)
    ]  # fmt: skip
    if rows:
        st.subheader("Effect of pretraining")
        st.write("AUROC of a logistic regression on embeddings, before (start) and after pretraining (encoder).")
        table(rows, "AUROC of start and encoder by data set", "encoder-evaluation")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return _counts(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _counts(of: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in of.items())


def reliability_diagram(bins: Sequence[Bin], style: charts.Style) -> go.Figure:
    """Draw observed frequency against predicted probability, with Wilson intervals and numbers of images."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": "#767676", "dash": "dot", "width": 1.5}, name="perfect"
    )
    figure.add_trace(
        reliability_line(
            bins, {"color": style.color}, "", mode="lines+markers+text", name="measured",
            text=[f"{row.n}" for row in bins], textposition="bottom right", textfont={"color": charts.INK, "size": 12},
            line=style.line(dash="solid"), marker=style.mark(9),
        )
    )  # fmt: skip
    figure.update_xaxes(title="Predicted probability", range=[-0.02, 1.02])
    figure.update_yaxes(title="Observed frequency", range=[-0.02, 1.02])
    figure.update_layout(height=380, margin_t=10, legend=charts.ABOVE)
    return figure
