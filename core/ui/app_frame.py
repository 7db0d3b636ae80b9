"""The frame around every page: navigation, the notice, and the guard for deep links on a fresh server."""

from __future__ import annotations

import gc
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st
from PIL import Image
from starlette.formparsers import MultiPartParser

from core.paths import LIMITS, MIB
from core.ui import cache, login, pickers  # noqa: F401  with `cached` come the libraries: see below

if TYPE_CHECKING:
    from streamlit.navigation.page import StreamlitPage

NOTICE = "Research use only. Not a medical device: do not base decisions about a patient on these predictions."
_FRAMED, _WANTED = "framed", "wanted"

MultiPartParser.spool_max_size = LIMITS.file_bytes + 2 * MIB  # above it, uploads would be written to disk

# Streamlit collects garbage after every rerun, and the page ends when that is done. The libraries, most of what it
# would look through, are taken out of that once, before any page has run: nothing of a visitor may ever be among them,
# or it would stay.
for _library in ("captum.attr", "timm"):  # others import them only when they are first needed
    import_module(_library)
gc.collect()
gc.freeze()


def _icon() -> Image.Image:
    """Three bars, one a family. A Material symbol as a page icon would be fetched from the internet."""
    icon = Image.new("RGB", (48, 48), "white")
    for place, (colour, height) in enumerate((("#0072B2", 20), ("#D55E00", 32), ("#009E73", 44))):
        icon.paste(Image.new("RGB", (12, height), colour), (3 + 15 * place, 48 - height))
    return icon


def require(file: str) -> None:
    """First statement of every page: sends a page opened without the frame through the entry script, and keeps what
    was chosen on other pages.

    The first request after a server's start still finds pages by folder, before `st.navigation` has run once.
    """
    if _FRAMED not in st.session_state:
        st.session_state[_WANTED] = (f"pages/{Path(file).name}", dict(st.query_params))
        st.switch_page("streamlit_app.py")
    pickers.keep_choices()


def show(pages: list[StreamlitPage]) -> None:
    """Draws the frame and runs the page that was asked for; the first page is where "/" leads."""

    def start() -> None:
        st.switch_page(pages[0])

    # Before navigation, which would fetch the chosen page's Material symbol from the internet for the tab.
    st.set_page_config(page_icon=_icon(), layout="wide")
    # A default page answers at "/" only; with a hidden one in front, "/diagnose" is a link as good as any.
    hidden = st.Page(start, title="Lowshot", default=True, visibility="hidden")
    locked = login.is_needed()
    chosen = st.navigation([hidden, *pages], position="hidden" if locked else "top")
    name = "Lowshot" if chosen == hidden else f"{chosen.title} · Lowshot"
    st.set_page_config(page_title=name)
    if locked:  # before the page counts as framed: nothing of any page runs
        st.caption(f":material/info: **Lowshot** · {NOTICE}")
        login.ask()
        st.stop()
    st.session_state[_FRAMED] = True
    if wanted := st.session_state.pop(_WANTED, None):
        page, parameters = wanted
        st.switch_page(page, query_params=parameters)
    st.caption(f":material/info: **Lowshot** · {NOTICE}")
    login.offer_logout()
    chosen.run()
