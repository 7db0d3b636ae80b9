"""Numbers and names as flags take them, refused in words where they make no sense."""

from __future__ import annotations

import argparse


def minutes(text: str) -> float:
    """A number of minutes above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of minutes above 0, but got {text!r}")
    return found


def count(text: str) -> int:
    """A whole number of 1 or more."""
    try:
        found = int(text)
    except ValueError:
        found = 0
    if found < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, but got {text!r}")
    return found


def names(text: str) -> list[str]:
    """Names joined by commas."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"expected names joined by commas, but got {text!r}")
    return found


def pairs(text: str) -> dict[str, str]:
    """Names with an equals sign between them, joined by commas."""
    found = {}
    for part in names(text):
        there, sign, here = (word.strip() for word in part.partition("="))
        if not (there and sign and here):
            raise argparse.ArgumentTypeError(f"expected THERE=HERE joined by commas, but got {part!r}")
        if there in found:
            raise argparse.ArgumentTypeError(f"{there!r} is mapped twice; a class there is one class here")
        found[there] = here
    return found


def sizes(text: str) -> list[int | None]:
    """Labelled images a class, joined by commas; None for `full`."""
    try:
        found = [None if part == "full" else int(part) for part in text.split(",") if part]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers or 'full' joined by commas, but got {text!r}") from None
    if not found or any(size is not None and size < 1 for size in found):
        raise argparse.ArgumentTypeError(f"expected at least 1 image a class, but got {text!r}")
    return found


def seeds(text: str) -> list[int]:
    """Seeds joined by commas."""
    try:
        found = [int(part) for part in text.split(",") if part]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers joined by commas, but got {text!r}") from None
    if not found or min(found) < 0:
        raise argparse.ArgumentTypeError(f"expected seeds of 0 or more, but got {text!r}")
    return found
