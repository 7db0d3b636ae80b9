"""The frame around every page: navigation, the notice, and the guard for deep links on a fresh server."""

from __future__ import annotations

import gc
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st
from PIL import Image
from starlette.formparsers import MultiPartParser
from streamlit.runtime.scriptrunner import StopException

from core.errors import disk_problem
from core.paths import LIMITS, MIB
from core.ui import address, cache, login  # `cache` imports the libraries that are frozen below

if TYPE_CHECKING:
    from streamlit.navigation.page import StreamlitPage

NOTICE = "Research use only. Not a medical device: do not base decisions about a patient on these predictions."
_FRAMED, _WANTED = "framed", "wanted"
# Streamlit's own ring is half transparent, with a contrast of 2.1:1 on white; this one has 5.2:1.
# Frames clip the inputs of boxes, and the inputs of toggles and sliders are hidden, so the frame, label or handle gets
# the ring. A segment has its ring inside, because the row of segments clips its outside. Hashes in tables wrap, because
# a cell cannot be scrolled by keyboard. Streamlit's own color of a pressed segment or pill under the pointer has a
# contrast of 3.9:1.
_STYLE = """<style>
:focus-visible,
label:has(input:focus-visible),
.react-aria-ComboBox [role=group]:has(input:focus-visible),
.stSlider div:has(> div > input:focus-visible) { outline: 3px solid #0072B2 !important; outline-offset: 2px; }
.react-aria-ComboBox input:focus-visible { outline: none !important; }
[data-variant=segmented_control]:focus-visible { outline-offset: -3px !important; }
[role=radio][aria-checked=true]:hover { color: #0F1115 !important; }
[data-testid=stTable] td p { overflow-wrap: anywhere !important; }
</style>"""
# Streamlit adds an entry to the browser's history for a page, and another when the page writes its kept choices into
# the address. Here the second entry replaces the first; otherwise going back would take two steps. Every later choice
# of the visitor adds an entry.
_ONE_ENTRY_A_PAGE = """<script>
if (!window.lowshotEntries) {
    window.lowshotEntries = true;
    const push = history.pushState.bind(history);
    let arriving = false;
    for (const action of ["pointerdown", "keydown"]) {
        addEventListener(action, () => { arriving = false; }, true);
    }
    history.pushState = (state, title, url) => {
        const same = new URL(url, location.href).pathname === location.pathname;
        if (same && arriving) { history.replaceState(state, title, url); } else { push(state, title, url); }
        arriving = !same;
    };
}
</script>"""

MultiPartParser.spool_max_size = LIMITS.file_bytes + 2 * MIB  # above it, uploads would be written to disk

# Streamlit collects garbage after every rerun, and the page is finished only then. Most tracked objects belong to the
# libraries, so these are excluded from collection once, before any page runs: visitor data must never be frozen, or it
# would stay in memory.
for _library in ("captum.attr", "timm"):  # other modules import these lazily
    import_module(_library)
gc.collect()
gc.freeze()


def _icon() -> Image.Image:
    """Return an icon of three bars, one per family. A Material symbol would be fetched from the internet."""
    icon = Image.new("RGB", (48, 48), "white")
    for position, (color, bar_height) in enumerate((("#0072B2", 20), ("#D55E00", 32), ("#009E73", 44))):
        icon.paste(Image.new("RGB", (12, bar_height), color), (3 + 15 * position, 48 - bar_height))
    return icon


def require(file: str) -> None:
    """Redirect a page opened without the frame through the entry script.

    Every page calls this first. On the first request after a server start, before `st.navigation` has run, Streamlit
    still finds pages by folder.

    Args:
        file: path of the page's script.
    """
    if _FRAMED not in st.session_state:
        st.session_state[_WANTED] = (f"pages/{Path(file).name}", address.parameters())
        st.switch_page("streamlit_app.py")


def show(pages: list[StreamlitPage]) -> None:
    """Draw the frame and run the requested page; "/" leads to the first of the pages, "/?task=NAME" to Diagnose."""

    def root() -> None:  # its name is its path, so no page may have the same name
        parameters = address.parameters()
        st.switch_page("pages/diagnose.py" if "task" in parameters else pages[0], query_params=parameters)

    # Set the icon before navigation, which would otherwise fetch the page's Material symbol from the internet.
    st.set_page_config(page_icon=_icon(), layout="wide")
    # A default page is reachable at "/" only. A hidden default page keeps links such as "/diagnose" working.
    hidden = st.Page(root, title="Lowshot", default=True, visibility="hidden")
    locked = login.is_needed()
    chosen = st.navigation([hidden, *pages], position="hidden" if locked else "top")
    name = "Lowshot" if chosen == hidden else f"{chosen.title} · Lowshot"
    st.set_page_config(page_title=name)
    if locked:  # before the session counts as framed, so that no page can run
        st.caption(f":material/info: **Lowshot** · {NOTICE}")
        login.show()
        st.stop()
    cache.delete_expired_images()
    st.session_state[_FRAMED] = True
    if wanted := st.session_state.pop(_WANTED, None):
        page, parameters = wanted
        st.switch_page(page, query_params=parameters)
    st.caption(f":material/info: **Lowshot** · {NOTICE}")
    login.offer_logout()
    st.html(_STYLE)
    st.html(_ONE_ENTRY_A_PAGE, unsafe_allow_javascript=True)
    address.start(chosen.url_path)
    try:
        with suppress(StopException):  # a page that stops early has choices too
            chosen.run()
    except OSError as error:
        if not (problem := disk_problem(error)):
            raise
        st.error(problem)
    address.finish()
