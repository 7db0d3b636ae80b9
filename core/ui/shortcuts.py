"""What every page says where the border or the corners of a data set's images tell its classes apart."""

from __future__ import annotations

import streamlit as st

from core.checkpoints import Store
from core.errors import LowshotError
from core.shortcuts import STEPS, shortcuts_of, warning_of
from core.storage import sha256_of
from core.ui.words import escape


def warn(store: Store, dataset: str) -> None:
    """A warning where a shortcut was found."""
    if said := told(store, dataset):
        st.warning(escape(said), icon=":material/crop_free:")


def told(store: Store, dataset: str) -> str:
    """What was found, in sentences; "" where nothing was, or nobody looked."""
    metas = store.metas(dataset)
    if not any(meta.preparation in STEPS for meta in metas):
        return ""
    return _told(sha256_of(f"{meta.run} {meta.made} {sorted(meta.hashes.items())}" for meta in metas), store, dataset)


@st.cache_data(max_entries=32, show_spinner="Measuring what borders and corners give away")
def _told(key: str, _store: Store, _dataset: str) -> str:
    try:
        return warning_of(shortcuts_of(_store, _dataset))
    except LowshotError as error:
        return f"Whether borders or corners tell the classes apart cannot be said: {error}"
