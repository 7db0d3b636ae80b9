"""Text shared by several pages: Markdown escaping, damaged runs, and the color bar."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import streamlit as st

from core.errors import LowshotError, disk_problem
from core.explain.overlay import color_table
from core.runs import Store

LEAK_MARK = "⚠ leaks allowed"  # follows the name of every run made with leaks allowed


def escape(text: str) -> str:
    """Escape text for Markdown, so that it is shown literally and never as a link, an image or markup."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>$:~&^])", r"\\\1", text.replace("\n", " "))


def show_list(sentences: Iterable[str]) -> None:
    """Show sentences as a list."""
    st.markdown("\n".join(f"- {escape(sentence)}" for sentence in sentences))


@contextmanager
def stop_on_error() -> Iterator[None]:
    """Show the text of a `LowshotError` and stop the page, or the fragment, there."""
    try:
        yield
    except LowshotError as error:
        st.error(escape(str(error)))
        st.stop()


@contextmanager
def show_errors(*others: type[Exception]) -> Iterator[None]:
    """Show the text of a `LowshotError` and skip the rest of the block; a decorated function returns None.

    Args:
        others: further types of errors to show.
    """
    shown: tuple[type[Exception], ...] = (LowshotError, *others)
    try:
        yield
    except shown as error:
        st.error(escape(str(error)))


def rerun_after(act: Callable[..., object], *arguments: object) -> None:
    """Call a function and rerun the page, or show why the call failed."""
    try:
        act(*arguments)
        st.rerun()
    except (LowshotError, OSError) as error:
        st.error(escape(disk_problem(error) or str(error)))


def show_problems(store: Store) -> None:
    """List the runs that are left out because they are damaged or their training failed."""
    if store.problems:
        lines = "\n".join(f"- {escape(name)}: {escape(why)}" for name, why in store.problems.items())
        st.warning(f"Some stored runs are damaged or failed and are left out:\n{lines}", icon=":material/warning:")


def color_bar() -> None:
    """Show the colors of the heatmaps: the brighter, the more a region raised the score."""
    strip = np.repeat(color_table()[None], 12, axis=0)
    left, middle, right = st.columns([1, 4, 1], vertical_alignment="center")
    left.caption("no effect")
    middle.image(strip, alt="Color bar from dark (no effect) to bright yellow (raised the score most)", width="stretch")
    right.caption("raised the score most")
