"""Progress on pages: what is being done, how far it is, and about how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from core.data.image_cache import Progress
from core.ui.text import escape


@contextmanager
def bar(title: str) -> Iterator[Progress]:
    """Gives a function (done, in all) that draws a bar; nothing is drawn where it is never called."""
    place, began = st.empty(), time.monotonic()

    def show(done: int, total: int) -> None:
        left = (time.monotonic() - began) / max(1, done) * (total - done)
        place.progress(min(1.0, done / max(1, total)), f"{escape(title)}: {done:,} of {total:,}, {in_words(left)} left")

    try:
        yield show
    finally:
        place.empty()


def in_words(seconds: float) -> str:
    """A duration as a person would say it."""
    if seconds >= 5400:
        return f"about {seconds / 3600:.1f} h"
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
