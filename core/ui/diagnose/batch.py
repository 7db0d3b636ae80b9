"""Batches of images: predictions with a progress bar that can be stopped, then a table and its CSV file."""

from collections import Counter
from collections.abc import Sequence

import streamlit as st

from core.data.images import reduced
from core.data.uploads import Upload
from core.inference import Case
from core.inference.analyze import Settings, analyze, is_known
from core.inference.batch_table import as_csv, by_urgency, overview_of, rows_of
from core.inference.conclusion import Status, conclude
from core.ui.diagnose.display import data_uri
from core.ui.diagnose.session import results_of
from core.ui.progress import bar
from core.ui.tables import table

_STOPPED, _TABLE, _PICK = "diagnose_stopped", "diagnose_table", "diagnose_pick"
_SIDE, _ROW, _HEADER, _TALLEST = 64, 56, 40, 640  # pixels
_TITLES: dict[Status, str] = {
    "disagree": "on which the networks disagree",
    "unsure": "uncertain",
    "unchecked": "analyzed although the image check rejected them",
    "none": "without a prediction",
    "clear": "in agreement",
}


def show_batch(settings: Settings, uploads: Sequence[Upload]) -> list[Upload]:
    """Show a table of all images, and return the image to show in full, if any.

    Args:
        settings: settings that apply to every image, without an explainer.
        uploads: the images.
    """
    overridden = settings.image_checker is not None and st.toggle(
        "Also predict images that fail the image check", key="diagnose_override_all"
    )
    batch = "-".join(upload.digest[:8] for upload in uploads)
    cases = predict_all(settings, uploads, batch, overridden)
    digest_of = {id(case): upload.digest for upload, case in zip(uploads, cases, strict=True) if case}
    done = [case for case in cases if case]
    known = by_urgency(done)
    digests = [digest_of[id(case)] for case in known]
    if known:
        _summary(known)
        _table(known, digests)
        names_too = st.checkbox("Include file names in the CSV file", key="diagnose_csv_names")
        st.download_button(
            "Download CSV", lambda: as_csv(rows_of(done, names_too)), "lowshot-batch.csv", "text/csv",
            key="diagnose_csv", on_click="ignore", icon=":material/download:",
        )  # fmt: skip
    by_digest = {upload.digest: upload for upload in uploads}
    problems = {digest for digest, case in zip(digests, known, strict=True) if case.problem}
    options = [digest for digest in dict.fromkeys([*digests, *by_digest]) if digest not in problems]
    if st.session_state.get(_PICK) not in options:
        st.session_state.pop(_PICK, None)
    named = {digest: upload.name for digest, upload in by_digest.items()}
    chosen = st.selectbox("Case shown in full", options, format_func=named.__getitem__, key=_PICK)
    return [] if chosen is None else [by_digest[chosen]]


def predict_all(settings: Settings, uploads: Sequence[Upload], batch: str, overridden: bool) -> list[Case | None]:
    """Return the case of each image, None for those not processed, while a bar shows the remaining time.

    Args:
        settings: settings that apply to every image.
        uploads: the images.
        batch: key of this set of images; stopping applies to this set only.
        overridden: whether the user overrides rejections by the image check.
    """
    kept = [is_known(settings, overridden, results_of(upload)) for upload in uploads]
    missing = kept.count(False)
    stopped = st.session_state.get(_STOPPED) == batch
    place = st.empty()
    if missing and not stopped:
        place.button(
            "Stop", key="diagnose_stop", icon=":material/stop:", on_click=st.session_state.update,
            args=({_STOPPED: batch},),
        )  # fmt: skip
    cases: list[Case | None] = []
    with bar("Running the networks") as progress:
        for position, upload in enumerate(uploads):
            is_new = not kept[position]
            if is_new and not stopped:
                progress(kept[:position].count(False), missing)
            cases.append(None if is_new and stopped else analyze(upload, settings, overridden, results_of(upload)))
    place.empty()
    if stopped and missing:
        processed = len(uploads) - missing
        st.warning(f"Stopped: {processed} of {len(uploads)} images were processed.", icon=":material/stop:")
        st.button("Continue", key="diagnose_go_on", on_click=st.session_state.pop, args=(_STOPPED, None))
    return cases


def _summary(cases: Sequence[Case]) -> None:
    """State how many cases need attention."""
    counts = Counter(conclude(case).status for case in cases if not case.problem)
    unread = sum(bool(case.problem) for case in cases)
    parts = [f"{counts[status]} {title}" for status, title in _TITLES.items() if counts[status]]
    parts += [f"{unread} unreadable"] if unread else []
    st.header(f"{len(cases)} images: {', '.join(parts)}")


def _table(cases: Sequence[Case], digests: Sequence[str]) -> None:
    """Show one row per case; a click on a row opens the case."""
    rows = [
        {"Image": data_uri(reduced(case.thumbnail, _SIDE)) if case.thumbnail else None, **overview_of(case)}
        for case in cases
    ]

    def open_case() -> None:
        cells = st.session_state[_TABLE].selection.cells
        if cells and not cases[cells[0][0]].problem:
            st.session_state[_PICK] = digests[cells[0][0]]

    alt = "One row per image, the most urgent first: verdict, what speaks against it, and each network's prediction"
    table(
        rows, alt, key=_TABLE, on_select=open_case, selection_mode="single-cell", row_height=_ROW,
        height=min(_TALLEST, _ROW * len(rows) + _HEADER),
        column_config={
            "Image": st.column_config.ImageColumn(width="small"),
            "Verdict": st.column_config.TextColumn(width="large"),
        },
    )  # fmt: skip
    st.caption("Disagreements and uncertain cases come first. Click a row to show the case in full below.")
