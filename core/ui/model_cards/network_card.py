"""The card of a network: what is known of a row of `MODELS`, whether anything was trained with it or not."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from core.cards.networks import has_seen, input_facts, title_of, weights_facts
from core.errors import LowshotError
from core.models import FAMILY_TITLES, MODELS
from core.models.specs import ModelSpec, by_family
from core.ui import cache, text
from core.ui.model_cards import run_card

_CLASSES = 2


def pick(linked: str) -> ModelSpec:
    """Picks one of all networks, which are ordered by family.

    Args:
        linked: name of the one to begin with; any other text begins with the first.
    """
    names = [spec.name for spec in by_family()]
    name = st.selectbox(
        "Network", names, index=names.index(linked) if linked in names else 0,
        format_func=lambda one: title_of(MODELS[one]), key="models_network",
    )  # fmt: skip
    return MODELS[name]


def card(spec: ModelSpec) -> None:
    """All that is known of a network."""
    st.header(text.escape(spec.title))
    st.caption(f"{text.escape(FAMILY_TITLES[spec.family])}. Its name in commands is `{spec.name}`.")
    st.write(text.escape(spec.summary))
    st.subheader("What the encoder has seen")
    run_card.listed(has_seen(spec))
    st.subheader("Weights")
    # a list: in a table addresses and paths, which have no place to break, would be cut off
    run_card.listed([f"{name}: {fact}" for name, fact in weights_facts(spec).items()])
    st.subheader("Input")
    run_card.facts(input_facts(spec.image))
    st.subheader("Architecture")
    st.write(f"With a head for {_CLASSES} classes.")
    run_card.network(spec.name, _CLASSES, "", f"{spec.name}-stages")
    st.subheader("Ways of training")
    _ways(spec)


def _ways(spec: ModelSpec) -> None:
    """The ways of training that go with it, as the trainer says them: the last thing shown, because it is asked."""
    try:
        catalogue = cache.catalogue()
    except LowshotError as error:
        st.error(text.escape(str(error)))
        return
    rows = catalogue.of("strategy")
    shown = [
        {"Way of training": rows[name]["title"], "In commands": name, "What learns": rows[name]["meaning"]}
        for name in catalogue.strategies_for([spec.name])
    ]
    st.dataframe(pd.DataFrame(shown), hide_index=True, width="stretch", alt=f"Ways of training {spec.title}")
