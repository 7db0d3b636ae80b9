"""The card of a network: facts on a row of `MODELS`, whether or not a run uses it."""

import streamlit as st

from core.cards.networks import encoder_training_data, input_facts, title_of, weights_facts
from core.models import FAMILY_TITLES, MODELS
from core.models.specs import ModelSpec, by_family
from core.ui import address, cache, text
from core.ui.model_cards import run_card
from core.ui.tables import table

_CLASSES = 2


def pick() -> ModelSpec:
    """Pick a network; they are ordered by family."""
    bound = address.choice("network", "models_network", [spec.name for spec in by_family()])
    return MODELS[st.selectbox("Network", format_func=lambda model: title_of(MODELS[model]), **bound)]


def card(spec: ModelSpec) -> None:
    """Show the card of a network."""
    st.header(text.escape(spec.title))
    st.caption(f"{text.escape(FAMILY_TITLES[spec.family])}. Name in commands: {text.escape(spec.name)}.")
    st.write(text.escape(spec.summary))
    st.subheader("What the encoder has seen")
    text.show_list(encoder_training_data(spec))
    st.subheader("Weights")
    # a list, because a table truncates addresses and paths, which do not wrap
    text.show_list(f"{name}: {fact}" for name, fact in weights_facts(spec).items())
    st.subheader("Input")
    run_card.show_facts(input_facts(spec.image))
    st.subheader("Architecture")
    st.write(f"With a head for {_CLASSES} classes.")
    run_card.network(spec.name, _CLASSES, "", f"{spec.name}-stages")
    st.subheader("Training strategies")
    _strategies(spec)


@text.show_errors()
def _strategies(spec: ModelSpec) -> None:
    """Show the supported training strategies as the trainer lists them; shown last because the trainer starts first."""
    catalog = cache.catalog()
    rows = catalog.of("strategy")
    shown = [
        {"Strategy": rows[name]["title"], "In commands": name, "What is trained": rows[name]["meaning"]}
        for name in catalog.strategies_for([spec.name])
    ]
    table(shown, f"Training strategies for {spec.title}", f"{spec.name}-strategies")
