"""Batches of images: predictions with a progress bar that can be stopped, then a table and its CSV file."""

from __future__ import annotations

import streamlit as st

from core.inference import Case
from core.inference.batch_table import as_csv, rows_of
from core.ui.diagnose.answers import Item, PageSettings, Picture, case_of, is_kept
from core.ui.progress import bar

_STOPPED = "diagnose_stopped"


def _stop(batch: str) -> None:
    st.session_state[_STOPPED] = batch


def _continue() -> None:
    st.session_state.pop(_STOPPED, None)


def predict_all(asked: PageSettings, pictures: list[tuple[Item, Picture]], batch: str, overridden: bool) -> list[Case]:
    """Return the cases of all processed images, without heatmaps, while a bar shows the remaining time.

    Args:
        asked: settings of the page.
        pictures: the images.
        batch: key of this set of images; stopping applies to this set only.
        overridden: whether the user overrides refusals of the gate.
    """
    waiting = sum(not is_kept(asked, item, overridden) for item, _ in pictures)
    stopped = st.session_state.get(_STOPPED) == batch
    place = st.empty()
    if waiting and not stopped:
        place.button("Stop", key="diagnose_stop", icon=":material/stop:", on_click=_stop, args=(batch,))
    cases, done = [], 0
    with bar("Running the networks") as progress:
        for item, picture in pictures:
            if not is_kept(asked, item, overridden):
                if stopped:
                    continue
                progress(done, waiting)
                done += 1
            cases.append(case_of(asked, item, picture, overridden, explained=False))
    place.empty()
    if stopped and waiting:
        st.warning(f"Stopped: {len(cases)} of {len(pictures)} images were processed.", icon=":material/stop:")
        st.button("Continue", key="diagnose_go_on", on_click=_continue)
    return cases


def show_table(cases: list[Case], problems: list[tuple[str, str]]) -> None:
    """Show the summary table and its download."""
    rows = rows_of(cases, problems)
    st.dataframe(
        rows, hide_index=True, width="stretch", alt="One row per image: each family's decision and probability"
    )
    named = st.checkbox("Include file names in the CSV file", key="diagnose_csv_names")
    st.download_button(
        "Download CSV", lambda: as_csv(rows_of(cases, problems, named)), "lowshot-batch.csv", "text/csv",
        key="diagnose_csv", on_click="ignore", icon=":material/download:",
    )  # fmt: skip
