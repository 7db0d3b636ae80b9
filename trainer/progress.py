"""Progress reports: a progress bar on standard error for people, JSON lines for programs.

The lines go to the file that `LOWSHOT_PROGRESS` names, in place of the bar; `core.jobs.events` defines their content.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import Timeout
from tqdm import tqdm

from core.data.image_cache import Progress
from core.files import locked
from core.jobs import events

_INTERVAL = 1.0  # seconds between two progress lines of a bar
_senders: list[Callable[[str, dict[str, Any]], None]] = []


@contextmanager
def sent_to(send: Callable[[str, dict[str, Any]], None]) -> Iterator[None]:
    """Send every progress line, as kind and facts, to a function instead of the file, the bar and standard error."""
    _senders.append(send)
    try:
        yield
    finally:
        _senders.pop()


def is_followed() -> bool:
    """Return whether a program reads the progress."""
    return bool(_senders or os.environ.get(events.VARIABLE))


def write_event(kind: str, **facts: Any) -> None:
    """Append a line to the progress file, if a program reads it."""
    if _senders:
        _senders[-1](kind, facts)
    elif is_followed():
        events.append(Path(os.environ[events.VARIABLE]), kind, **facts)


@contextmanager
def progress_bar(title: str, unit: str = "image") -> Iterator[Progress]:
    """Yield a function of (done, total) that draws a progress bar; nothing is drawn until its first call."""
    bars: list[tqdm] = []
    last_written = [0.0]

    def show(done: int, total: int) -> None:
        if is_followed():
            now = time.monotonic()
            if unit == events.RUNS or now - last_written[0] >= _INTERVAL or done >= total:
                last_written[0] = now
                write_event("bar", title=title, unit=unit, done=done, total=total)
            return
        if not bars:
            bars.append(tqdm(total=total, desc=title, unit=f" {unit}", file=sys.stderr, mininterval=0.5))
        bars[0].total = total
        bars[0].update(done - bars[0].n)

    write_event("begin", title=title, unit=unit)
    try:
        yield show
    finally:
        for opened in bars:
            opened.close()


def print_status(text: str) -> None:
    """Print a message that is not a result on standard error."""
    write_event("say", text=text)
    if not _senders:
        print(text, file=sys.stderr)


@contextmanager
def locked_in_turn(target: Path, title: str) -> Iterator[None]:
    """Hold the lock of a file or folder; if another process holds it, say so and wait."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(target, timeout=0))
        except Timeout:
            print_status(f"waiting: {title}: another process works on it")
            stack.enter_context(locked(target))
        yield
