"""Progress bars with the remaining time, and durations in words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from core.data.image_cache import Progress
from core.ui.text import escape


@contextmanager
def bar(title: str) -> Iterator[Progress]:
    """Yield a function (done, total) that draws a progress bar; no bar appears if it is never called."""
    place, began = st.empty(), time.monotonic()

    def show(done: int, total: int) -> None:
        left = (time.monotonic() - began) / max(1, done) * (total - done)
        place.progress(
            min(1.0, done / max(1, total)), f"{escape(title)}: {done:,} of {total:,}, {duration_text(left)} left"
        )

    try:
        yield show
    finally:
        place.empty()


def duration_text(seconds: float) -> str:
    """Return a duration in words, rounded."""
    if seconds >= 5400:
        return f"about {seconds / 3600:.1f} h"
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
