"""What every page says where the border or the corners of a data set's images tell its classes apart."""

from __future__ import annotations

import streamlit as st

from core.checkpoints import Store
from core.errors import LowshotError
from core.shortcuts import STEPS, shortcuts_of, warning_of
from core.storage import sha256_of
from core.ui.words import escape


def warn(store: Store, dataset: str, split: str | None = None) -> None:
    """A warning where a shortcut was found, or where that cannot be said.

    Args:
        store: the run store.
        dataset: name.
        split: hash of the split that is shown; None for that of the run made last.
    """
    try:
        said = told(store, dataset, split)
    except LowshotError as error:
        said = f"Whether borders or corners tell the classes apart cannot be said: {error}"
    if said:
        st.warning(escape(said), icon=":material/crop_free:")


def told(store: Store, dataset: str, split: str | None = None) -> str:
    """What was found, in a sentence; "" where nothing was, or nobody looked.

    Raises:
        LowshotError: if stored runs cannot be read.
    """
    metas = store.metas(dataset)
    if not any(meta.preparation in STEPS for meta in metas):
        return ""
    stated = (f"{meta.run} {meta.made} {sorted(meta.hashes.items())}" for meta in metas)
    return _told(sha256_of([split or "", *stated]), store, dataset, split)


@st.cache_data(max_entries=32, show_spinner="Measuring what borders and corners give away")
def _told(key: str, _store: Store, _dataset: str, _split: str | None) -> str:
    return warning_of(shortcuts_of(_store, _dataset, _split))
