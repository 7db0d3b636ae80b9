"""Entry point of the app: list its pages. Start it with `streamlit run streamlit_app.py`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import streamlit as st


@asynccontextmanager
async def loaded(app: st.App) -> AsyncIterator[None]:
    """Load the libraries and the records of runs before the server answers its first visitor."""
    from core.runs import open_store
    from core.ui import app_frame  # noqa: F401

    with suppress(OSError):  # pages report it
        open_store()  # caches each record
    yield


if __name__ == "__main__":  # for each visitor
    from core.ui import app_frame

    app_frame.show(
        [
            st.Page("pages/start.py", title="Start", icon=":material/home:"),
            st.Page("pages/diagnose.py", title="Diagnose", icon=":material/radiology:"),
            st.Page("pages/learning_curves.py", title="Learning curves", icon=":material/show_chart:"),
            st.Page("pages/compare.py", title="Compare", icon=":material/balance:"),
            st.Page("pages/data.py", title="Data", icon=":material/dataset:"),
            st.Page("pages/models.py", title="Model cards", icon=":material/badge:"),
            st.Page("pages/train.py", title="Train", icon=":material/model_training:"),
        ]
    )
else:  # once, by the server
    app = st.App(__file__, lifespan=loaded)
