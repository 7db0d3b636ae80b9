"""Progress: for people a bar with time left on standard error, silent where nobody watches; for programs JSON lines.

The lines go to the file that `LOWSHOT_PROGRESS` names; what they hold is said in `core.jobs.events`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from core.data.image_cache import Progress
from core.jobs import events

_EVERY = 1.0  # seconds between two lines of a bar


def is_followed() -> bool:
    """Whether a program reads the progress."""
    return bool(os.environ.get(events.VARIABLE))


def tell(kind: str, **facts: Any) -> None:
    """Adds a line to the file of who follows; nothing where nobody does."""
    if is_followed():
        events.append(Path(os.environ[events.VARIABLE]), kind, **facts)


@contextmanager
def bar(title: str, unit: str = "image") -> Iterator[Progress]:
    """Gives a function (done, in all) that draws a bar; nothing is drawn where it is never called."""
    drawn: list[tqdm] = []
    told = [0.0]

    def show(done: int, total: int) -> None:
        if is_followed():
            now = time.monotonic()
            if unit == events.RUNS or now - told[0] >= _EVERY or done >= total:
                told[0] = now
                tell("bar", title=title, unit=unit, done=done, total=total)
            return
        if not drawn:
            drawn.append(tqdm(total=total, desc=title, unit=f" {unit}", file=sys.stderr, mininterval=0.5))
        drawn[0].total = total
        drawn[0].update(done - drawn[0].n)

    tell("begin", title=title, unit=unit)
    try:
        yield show
    finally:
        for each in drawn:
            each.close()


def say(text: str) -> None:
    """Tells a person something that is not a result: on standard error."""
    tell("say", text=text)
    print(text, file=sys.stderr)
