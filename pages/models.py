"""Model cards: facts on every stored run, every encoder pretrained here, and every registered network."""

import streamlit as st

from core.analysis.external import external_sets, refusals
from core.cards.subject import Subject, encoder_training_data, limits, operating_point, training_data
from core.models import MODELS
from core.models.medical_encoders import CARD_FILE, read_card
from core.paths import encoders_folder
from core.runs import Run
from core.runs.series import runs_by_series
from core.ui import address, app_frame, cache, charts, external, pickers, text
from core.ui.model_cards import checks, network_card, run_card
from core.ui.network_download import offer_download
from core.ui.tables import table

app_frame.require(__file__)

RUNS, ENCODERS, NETWORKS = SECTIONS = ("Runs", "Encoders", "Networks")

st.title("Model cards")
st.write("What to know about a model before trusting it. Items without a record are listed as open.")
first = NETWORKS if address.is_given("network") else RUNS  # a link may name only a network
kind = address.segments("Show", "section", "models_kind", SECTIONS, first, address.slug)


def size_text(size: int) -> str:
    """Return a training-set size as text; 0 stands for all images, as a list cannot hold None."""
    return str(size or "all")


def seed_text(run: Run) -> str:
    """Return the seed of a run as text."""
    return str(run.meta.seed)


@text.show_errors()
def runs() -> None:
    """Show the card of a stored run."""
    # Pick a run by data set, series, size and seed.
    store = cache.store()
    text.show_problems(store)
    metas = pickers.comparable_runs(store, "models")
    dataset, series = metas[0].dataset, runs_by_series(store, metas)
    left, middle, right = st.columns([3, 1, 1])
    bound = address.choice("series", f"models_series_{dataset}", series, text=pickers.series_text)
    chosen = left.selectbox("Series", format_func=lambda name: charts.series_title(*name), **bound)
    sizes = sorted({run.meta.train_size or 0 for run in series[chosen]}, reverse=True)
    bound = address.choice("size", f"models_size_{dataset}_{chosen}", sizes, text=size_text)
    size = middle.selectbox("Images per class", format_func=size_text, **bound)
    same = [run for run in series[chosen] if (run.meta.train_size or 0) == size]
    bound = address.choice("seed", f"models_seed_{dataset}_{chosen}_{size}", same, text=seed_text)
    run = right.selectbox("Seed", format_func=seed_text, **bound)
    meta = run.meta
    finding = pickers.pick_finding(meta, "models") if meta.multilabel else None
    # Compute all results first, so that an error replaces the whole card.
    scores = cache.run_scores(run).scores
    estimates = cache.estimates([run], finding=finding)
    summaries = cache.summaries(same, finding=finding)
    groups = checks.subgroups(run, finding)
    shortcuts = pickers.shortcut_warning(store, meta.dataset, meta.split_hash)
    compared = {name: cache.external_results([run], name) for name in external_sets([run])}
    # Draw the card, section by section.
    shape = run_card.shape_in_words(meta.model, len(meta.labels))
    elsewhere = [result for views in compared.values() for result in views]
    subject = Subject(meta, estimates, len(scores), len(same), shape, run.folder, groups, shortcuts, elsewhere)
    st.header(text.escape(charts.series_title(*chosen)))
    st.caption(
        f"Run {text.escape(meta.run)}, created {text.escape(meta.made)} on {text.escape(meta.device)} in "
        f"{meta.seconds:.0f} s"
    )
    st.subheader("Known limits")
    text.show_list(limits(subject))
    st.subheader("Training data")
    run_card.show_facts(training_data(subject))
    st.subheader("What the encoder has seen")
    st.write(text.escape(encoder_training_data(subject)))
    st.caption(
        f"License of the pretrained weights: {text.escape(meta.encoder.get('licence') or 'none, not pretrained')}"
    )
    st.subheader("Operating point")
    run_card.show_facts(operating_point(subject))
    st.subheader("Performance")
    run_card.show_metrics(meta, estimates, summaries)
    st.subheader("External test")
    if not meta.external:
        st.write("This run was not evaluated on an external test set.")
    external.show_refused(refusals([run]))
    for name, views in compared.items():
        external.show_facts(views[0])
        rows = external.frame({"This run": views}).drop(columns="Series")
        table(rows, "Internal test and external test", f"{meta.run}-{name}")
        st.caption(external.CAPTION + (f" {external.VIEWS}" if len(views) > 1 else ""))
        if (reading := cache.radiologist_reading([run], name)) is not None:
            external.show_radiologist(reading)
    st.subheader("By sex and age")
    checks.show_subgroups(groups, meta)
    st.subheader("Calibration")
    if meta.multilabel and finding is None:
        st.info("Choose a finding to see its calibration.")
    else:
        known = scores.known_finding(finding) if finding is not None else scores
        run_card.calibration(
            known, estimates.get("ece"), charts.style_of(*chosen), f"models_reliability_{meta.run}_{finding}"
        )
    st.subheader("Architecture")
    run_card.network(meta.model, len(meta.labels), meta.trained, f"{meta.run}-stages")
    st.subheader("Sanity checks of heatmaps")
    checks.sanity(run)
    st.subheader("Export")
    if meta.has_weights:
        st.write(
            "As ONNX and safetensors files, each with a card. Every file is read back and compared with the run. The "
            "document docs/command-line.md lists further formats."
        )
        offer_download(meta, "models")
    else:
        st.write(
            "This run has no stored weights and cannot be exported. The first seed of the same size may have weights."
        )
    st.subheader("Reporting checklist")
    run_card.checklist(subject)


@text.show_errors()
def encoders() -> None:
    """Show the card of an encoder pretrained here."""
    folders = [path.parent for path in sorted(encoders_folder().glob(f"*/*/{CARD_FILE}")) if path.parent.name[0] != "."]
    if not folders:
        st.info("No encoder was pretrained here yet. The document docs/command-line.md explains how to pretrain one.")
        return
    bound = address.choice("encoder", "models_encoder", folders, text=lambda path: f"{path.parent.name}.{path.name}")
    folder = st.selectbox("Encoder", format_func=lambda path: f"{path.parent.name}, {path.name}", **bound)
    card = read_card(folder)
    st.header(text.escape(card.get("title", folder.parent.name)))
    run_card.encoder(card)
    st.subheader("Export")
    st.write("The weights are stored as safetensors. The download on the card of a run includes its encoder.")
    if folder.parent.name in MODELS:
        st.subheader("Architecture")
        run_card.network(folder.parent.name, 2, "", f"{folder.parent.name}-stages")


if kind == RUNS:
    runs()
elif kind == ENCODERS:
    encoders()
else:
    network_card.card(network_card.pick())
