"""Progress bars with the remaining time, and durations in words."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import streamlit as st

from core.ui.text import escape


@contextmanager
def bar(title: str) -> Iterator[Callable[[float, int], None]]:
    """Yield a function (done, total) that draws a progress bar; no bar appears if it is never called.

    The number done may include a fraction of the current item.
    """
    place, began = st.empty(), time.monotonic()

    def show(done: float, total: int) -> None:
        left = f", {duration_text((time.monotonic() - began) / done * (total - done))} left" if done else ""
        place.progress(min(1.0, done / max(1, total)), f"{escape(title)}: {int(done):,} of {total:,}{left}")

    try:
        yield show
    finally:
        place.empty()


def duration_text(seconds: float) -> str:
    """Return a duration in words, rounded."""
    if seconds >= 5400:
        return f"about {seconds / 3600:.1f} h"
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
