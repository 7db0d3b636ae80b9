"""What the session keeps of uploaded images, so that a slider does not run the networks again.

The session keeps thumbnails, hashes and results under the SHA-256 of the upload, and the unpacked archives. It keeps no
decoded image. Entries of images that are no longer uploaded are dropped. The file uploader forgets its files when the
visitor leaves the page; the images stay here until the visitor removes them or the session ends.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import streamlit as st

from core.data.uploads import Upload, unpack
from core.explain.quality import faithfulness
from core.inference import Case
from core.inference.analyze import Settings
from core.paths import LIMITS

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

_UNPACKED, _RESULTS = "diagnose_unpacked", "diagnose_results"
_KEPT, _CHANGED = "diagnose_kept", "diagnose_changed"


def unpacked_uploads(files: Sequence[UploadedFile]) -> tuple[list[Upload], int]:
    """Return the uploads from `unpack`, which runs again only when the uploaded files change.

    Images that the uploader has lost come first, with a button that removes them.
    """
    file_ids = [file.file_id for file in files]
    before, unpacked = st.session_state.get(_UNPACKED, ([], ([], 0)))
    kept: list[Upload] = st.session_state.get(_KEPT, [])
    by_visitor = st.session_state.pop(_CHANGED, False)
    if before != file_ids:
        if not file_ids and not by_visitor:  # the page was left, or the uploader was exchanged
            kept = list({upload.digest: upload for upload in [*unpacked[0], *kept]}.values())[: LIMITS.images]
            st.session_state[_KEPT] = kept
        unpacked = unpack([(file.name, file.getvalue()) for file in files])
        st.session_state[_UNPACKED] = (file_ids, unpacked)
    uploads, unread = unpacked
    new = {upload.digest for upload in uploads}
    old = [upload for upload in kept if upload.digest not in new]
    shown = old[: max(0, LIMITS.images - len(uploads))]
    if shown:
        st.caption(f"Uploaded earlier and still shown: {len(shown)}. New files are added to them.")
        st.button(
            "Remove them", key="diagnose_remove", icon=":material/delete:", on_click=st.session_state.pop,
            args=(_KEPT, None),
        )  # fmt: skip
    return [*shown, *uploads], unread + len(old) - len(shown)


def note_change() -> None:
    """Note that the visitor added or removed files; the uploader also empties when the page is left."""
    st.session_state[_CHANGED] = True


def drop_missing(uploads: Sequence[Upload]) -> None:
    """Drop the results of images that are no longer uploaded."""
    st.session_state[_RESULTS] = {upload.digest: results_of(upload) for upload in uploads}


def results_of(upload: Upload) -> dict[Hashable, Any]:
    """Return the session's results for an image; a result added to it is kept."""
    by_image: dict[str, dict[Hashable, Any]] = st.session_state.setdefault(_RESULTS, {})
    return by_image.setdefault(upload.digest, {})


def measure_heatmaps(upload: Upload, settings: Settings, case: Case) -> None:
    """Measure deletion and insertion for every heatmap of an image and keep the results in the session."""
    image = upload.decode()
    for family, result in case.results.items():
        if result.heatmap:
            measured = faithfulness(image, result.heatmap, settings.networks[family].probabilities)
            results_of(upload)[settings.key(family)] = replace(result, faithfulness=measured)
