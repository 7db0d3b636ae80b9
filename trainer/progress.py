"""Progress for people: a bar with time left on standard error, silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from core.data.banks import Progress


@contextmanager
def bar(title: str, unit: str = "image") -> Iterator[Progress]:
    """Gives a function (done, in all) that draws a bar; nothing is drawn where it is never called."""
    drawn: list[tqdm] = []

    def show(done: int, total: int) -> None:
        if not drawn:
            drawn.append(tqdm(total=total, desc=title, unit=f" {unit}", file=sys.stderr, mininterval=0.5))
        drawn[0].total = total
        drawn[0].update(done - drawn[0].n)

    try:
        yield show
    finally:
        for each in drawn:
            each.close()


def say(text: str) -> None:
    """Tells a person something that is not a result: on standard error."""
    print(text, file=sys.stderr)
