"""Numbers as flags take them, refused in words where they make no sense."""

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
