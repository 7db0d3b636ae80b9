"""Batches of images: predictions with a progress bar that can be stopped, then a table and its CSV file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from core.data.uploads import Upload
from core.inference import Case
from core.inference.analyze import Settings, analyze, is_known
from core.inference.batch_table import as_csv, rows_of
from core.ui.diagnose.session import results_of
from core.ui.progress import bar

_STOPPED = "diagnose_stopped"


def show_batch(settings: Settings, uploads: Sequence[Upload]) -> list[Upload]:
    """Show a table of all images, and return the image to show in full, if any."""
    overridden = settings.gatekeeper is not None and st.toggle(
        "Also predict images that fail the image check", key="diagnose_override_all"
    )
    batch = "-".join(upload.digest[:8] for upload in uploads)
    rows = replace(settings, explainer=None, target=None, uncertainty=False)
    cases = predict_all(rows, uploads, batch, overridden)
    show_table([case for case in cases if case])
    readable = [upload for upload, case in zip(uploads, cases, strict=True) if case is None or not case.problem]
    names = [f"{number}: {upload.name}" for number, upload in enumerate(readable, start=1)]
    position = st.selectbox(
        "Image to show in full", range(len(readable)), format_func=names.__getitem__, key="diagnose_pick"
    )
    return [] if position is None else [readable[position]]


def _stop(batch: str) -> None:
    st.session_state[_STOPPED] = batch


def _continue() -> None:
    st.session_state.pop(_STOPPED, None)


def predict_all(settings: Settings, uploads: Sequence[Upload], batch: str, overridden: bool) -> list[Case | None]:
    """Return the case of each image, None for those not processed, while a bar shows the remaining time.

    Args:
        settings: settings that apply to every image.
        uploads: the images.
        batch: key of this set of images; stopping applies to this set only.
        overridden: whether the user overrides rejections by the input check.
    """
    kept = [is_known(settings, overridden, results_of(upload)) for upload in uploads]
    missing = kept.count(False)
    stopped = st.session_state.get(_STOPPED) == batch
    place = st.empty()
    if missing and not stopped:
        place.button("Stop", key="diagnose_stop", icon=":material/stop:", on_click=_stop, args=(batch,))
    cases: list[Case | None] = []
    with bar("Running the networks") as progress:
        for position, upload in enumerate(uploads):
            if stopped and not kept[position]:
                cases.append(None)
                continue
            if not kept[position]:
                progress(kept[:position].count(False), missing)
            cases.append(analyze(upload, settings, overridden, results_of(upload)))
    place.empty()
    if stopped and missing:
        processed = len(uploads) - missing
        st.warning(f"Stopped: {processed} of {len(uploads)} images were processed.", icon=":material/stop:")
        st.button("Continue", key="diagnose_go_on", on_click=_continue)
    return cases


def show_table(cases: Sequence[Case]) -> None:
    """Show the summary table and its download."""
    st.dataframe(
        rows_of(cases), hide_index=True, width="stretch",
        alt="One row per image: each family's decision and probability",
    )  # fmt: skip
    named = st.checkbox("Include file names in the CSV file", key="diagnose_csv_names")
    st.download_button(
        "Download CSV", lambda: as_csv(rows_of(cases, named)), "lowshot-batch.csv", "text/csv",
        key="diagnose_csv", on_click="ignore", icon=":material/download:",
    )  # fmt: skip
