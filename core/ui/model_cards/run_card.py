"""The parts of the Model cards page: facts as tables, a network's shape, figures with intervals, calibration, lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from core.cards.checklists import GUIDELINES
from core.cards.encoders import encoder_limits
from core.cards.items import OPEN, answered, as_csv, as_markdown
from core.cards.networks import shape_facts
from core.cards.subject import Subject
from core.errors import LowshotError
from core.metrics import METRICS, Estimate, Scores, SeriesEstimate
from core.metrics.reliability import Bin, chance_error
from core.metrics.reliability import reliability as bins_of
from core.models import MODELS
from core.models.medical_encoders import gates_of
from core.models.summary import alt_text, as_text, diagram, short
from core.runs import RunMeta
from core.ui import cache, charts, text
from core.ui.charts import COLOURS
from core.ui.model_cards import run_card
from core.ui.tables import table

READS = {"last": "last layer", "stages": "every stage"}


def facts(rows: Mapping[str, str]) -> None:
    """A table of facts; what comes from files is shown as it is."""
    shown = {name: text.escape(value) for name, value in rows.items()}
    st.table(pd.DataFrame({"": list(shown), "Fact": list(shown.values())}).set_index(""))


def shape_in_words(model: str, classes: int) -> str:
    """A network in a sentence; "" where it cannot be described here."""
    try:
        return alt_text(cache.shape(model, classes))
    except LowshotError:
        return ""


def network(model: str, classes: int, trained: str, file: str) -> None:
    """The drawing of a network, its numbers and the table of its stages.

    Args:
        model: its name.
        classes: of its head.
        trained: what was trained of it: `head` or `all`; "" where nothing was yet, and both are told.
        file: name of the table's download, without its ending.
    """
    try:
        found = cache.shape(model, classes)
    except LowshotError as error:
        st.info(text.escape(str(error)))
        return
    st.image(diagram(found), alt=alt_text(found), width="stretch")
    st.caption(text.escape(alt_text(found)))
    if trained:
        learns = found.trainable(trained == "head")
        st.write(f"**{found.parameters:,} parameters**, of which this way of training learns {learns:,}.")
    else:
        facts(shape_facts(MODELS[model], found))
    rows = [
        {
            "Stage": one.name, "Output": as_text(one.shape), "Parameters": one.parameters,
            "Multiply-adds": short(one.macs), "Layers": one.layers,
        }
        for one in found.stages
    ]  # fmt: skip
    rows.append({"Stage": "in all", "Parameters": found.parameters, "Multiply-adds": short(found.macs)})
    table(pd.DataFrame(rows).fillna(""), "Stages of the network", file)


def figures(meta: RunMeta, here: Mapping[str, Estimate], over: Mapping[str, SeriesEstimate]) -> None:
    """Every metric of the run with its interval, at 0.5, and as the mean over seeds with both intervals.

    Args:
        meta: the run.
        here: its metrics with intervals over test patients.
        over: those of all seeds of its series and size.
    """
    seeds = next(iter(over.values())).seeds.seeds
    rows = [
        {
            "Metric": METRICS[name].title, "This run": one.value, "patients from": one.low, "patients to": one.high,
            "At 0.5": meta.metrics_at_half.get(name), f"Mean over {seeds} seeds": over[name].value,
            "mean: patients from": over[name].patients.low, "mean: patients to": over[name].patients.high,
            "mean: seeds from": over[name].seeds.low, "mean: seeds to": over[name].seeds.high,
        }
        for name, one in here.items()
    ]  # fmt: skip
    frame = pd.DataFrame(rows).round(4)
    numbers = {name: st.column_config.NumberColumn(format="%.3f") for name in frame.columns if name != "Metric"}
    st.dataframe(
        frame, hide_index=True, width="stretch", height="content", column_config=numbers,
        alt="Metrics on the test images with intervals",
    )  # fmt: skip
    st.caption(
        f"On {next(iter(here.values())).n:,} test images, at the run's operating point, with 95% intervals. "
        "Patients: the test patients vary, resampled whole, and the trained networks stay as they are. Seeds: the "
        "training images vary (Student's t over seeds), and the test patients stay as they are."
    )


def calibration(scores: Scores, measured: Estimate | None, key: str) -> None:
    """The reliability diagram, and whether the error is more than chance would show."""
    bins = bins_of(scores)
    chance = chance_error(scores)
    shown = [one for one in bins if one.n]
    charts.draw(
        run_card.reliability(bins), key=key,
        alt="Reliability diagram: " + "; ".join(
            f"stated {one.stated:.2f}, came true {one.happened.value:.2f} of {one.n}" for one in shown
        ),
    )  # fmt: skip
    if measured:
        more = "more than" if measured.value > chance.high else "no more than"
        st.write(
            f"Expected calibration error **{measured.value:.3f}** ({measured.low:.3f} to {measured.high:.3f} over test "
            f"patients): {more} "
            f"the {chance.high:.3f} that perfectly calibrated probabilities of so many images reach by chance in 5% of "
            "cases."
        )
    st.caption("Numbers: images in each range of probabilities. Bars: 95% intervals, images taken for independent.")


def listed(sentences: Sequence[str]) -> None:
    """Sentences as a list."""
    st.markdown("\n".join(f"- {text.escape(one)}" for one in sentences))


def checklist(subject: Subject) -> None:
    """A reporting checklist with what the record answers; the rest is open."""
    name = st.segmented_control(
        "Guideline", list(GUIDELINES), default=next(iter(GUIDELINES)), required=True, key="models_guideline",
        format_func=lambda one: GUIDELINES[one].title,
    )  # fmt: skip
    guideline = GUIDELINES[name]
    rows = answered(guideline, subject)
    known = sum(bool(answer) for _, answer in rows)
    st.write(
        f"**{known} of {len(rows)}** items are answered from the run's record. The others are open: a person has to "
        f"answer them. {text.escape(guideline.citation)}; items in the words of this program, the published text "
        "counts."
    )
    shown = [
        {"Item": item.number, "Section": item.section, "Asks for": item.topic, "Answer": answer or OPEN}
        for item, answer in rows
    ]
    st.dataframe(pd.DataFrame(shown), hide_index=True, width="stretch", alt=f"{guideline.title} with answers")
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
    """What is stored about an encoder that this program pretrained."""
    st.subheader("Known limits")
    listed(encoder_limits(card))
    st.subheader("Facts")
    facts({
        "Started from": str(card.get("start", "not recorded")), "Licence": str(card["licence"]),
        "Has seen": ", ".join(card["seen"]), "Left out, with copies": ", ".join(card["left_out"]),
        "Left out, with their patients": ", ".join(card.get("excluded_patients_of", ())) or "not recorded",
        "Made on": f"{card.get('device', 'not recorded')}, in {card.get('seconds', 0) / 60:.0f} minutes",
        "SHA-256": str(card["sha256"]),
    })  # fmt: skip
    st.subheader("Training data")
    corpus = [
        {
            "Set": one["title"], "Images": one["images"], "Held out": one.get("held_out"), "Licence": one["licence"],
            "Citation": one.get("citation", ""),
            "Copies removed": _counts(one.get("copies_removed", {})),
            "Others of the same people removed": _counts(one.get("people_removed", {})),
        }
        for one in card.get("corpus", ())
    ]  # fmt: skip
    st.dataframe(pd.DataFrame(corpus), hide_index=True, width="stretch", alt="Sets that the encoder learnt from")
    _judged(card)
    if curve := card.get("training_curve"):
        st.subheader("Training curve")
        alt = f"Loss of the pretraining, from {curve[0]['loss']:.2f} to {curve[-1]['loss']:.2f}"
        charts.draw(run_card.pretraining(curve), key="models_pretraining", alt=alt)
    if recipe := card.get("recipe"):
        st.subheader("Recipe")
        facts({name.replace("_", " ").capitalize(): _plain(value) for name, value in recipe.items()})


def _judged(card: Mapping[str, Any]) -> None:
    rows = [
        {
            "Judged on": f"{gate.images:,} images of {gate.patients:,} patients of {gate.dataset} that it never saw",
            "Read": READS.get(gate.read, gate.read), "Start": gate.start, "Encoder": gate.encoder,
            "Difference (95% interval)": "{:+.3f} ({:+.3f} to {:+.3f})".format(*gate.difference),
        }
        for gate in gates_of(card)
    ]  # fmt: skip
    rows += [
        {"Judged on": name, "Start": row["start"], "Encoder": row["encoder"]}
        for name, row in card.get("transfer", {}).items()
    ]
    if rows:
        st.subheader("What pretraining changed")
        st.write("AUROC of a logistic regression on embeddings, of the start and of the encoder.")
        st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", alt="AUROC of start and encoder by data set")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return _counts(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _counts(of: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in of.items())


def reliability(bins: Sequence[Bin]) -> go.Figure:
    """Share that came true against stated probability, with Wilson intervals and counts of images."""
    shown = [one for one in bins if one.n]
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": "#767676", "dash": "dot", "width": 1.5}, name="perfect"
    )
    figure.add_scatter(
        x=[one.stated for one in shown], y=[one.happened.value for one in shown], mode="lines+markers+text",
        name="measured",
        text=[f"{one.n}" for one in shown], textposition="bottom right", textfont={"color": "#31333F", "size": 12},
        line={"color": COLOURS[0], "width": 2}, marker={"symbol": "circle", "size": 9, "color": COLOURS[0]},
        error_y={
            "type": "data", "symmetric": False, "color": COLOURS[0],
            "array": [one.happened.high - one.happened.value for one in shown],
            "arrayminus": [one.happened.value - one.happened.low for one in shown],
        },
        customdata=[[one.n] for one in shown],
        hovertemplate="stated %{x:.2f}, came true %{y:.2f}, %{customdata[0]} images<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="Stated probability", range=[-0.02, 1.02])
    figure.update_yaxes(title="Share for which it came true", range=[-0.02, 1.02])
    figure.update_layout(height=380, margin_t=10, legend={"orientation": "h", "yanchor": "bottom", "y": 1.02})
    return figure


def pretraining(curve: Sequence[dict[str, Any]]) -> go.Figure:
    """Loss against step of an encoder's pretraining."""
    figure = go.Figure()
    figure.add_scatter(
        x=[row["step"] for row in curve], y=[row["loss"] for row in curve], mode="lines+markers", name="loss",
        line={"color": COLOURS[0], "width": 2}, marker={"symbol": "circle", "size": 5},
        hovertemplate="step %{x}: %{y:.3f}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="Step")
    figure.update_yaxes(title="Loss", rangemode="tozero")
    figure.update_layout(height=300, margin_t=10, showlegend=False)
    return figure
