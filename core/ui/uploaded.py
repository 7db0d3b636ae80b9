"""Keeps what was taken apart of the files that are uploaded, so that archives are not unpacked at every click."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from core.data.uploads import Upload, take_apart

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

_TAKEN_APART = "diagnose_taken_apart"


def taken_apart(files: Sequence[UploadedFile]) -> tuple[list[Upload], int]:
    """Uploaded files as `take_apart` gives them, kept in memory until other files, or none, are uploaded."""
    named = tuple(file.file_id for file in files)
    before, found = st.session_state.get(_TAKEN_APART, (None, ([], 0)))
    if before != named:
        found = take_apart((file.name, file.getvalue()) for file in files)
        st.session_state[_TAKEN_APART] = (named, found)
    images, more = found
    return list(images), more
