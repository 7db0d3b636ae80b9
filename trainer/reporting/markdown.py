"""Formatting of numbers, intervals and tables as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

Data = Mapping[str, Any]


def series_name(series: Data) -> str:
    """Format a series: model, strategy and variant."""
    variant = f" [{series['variant']}]" if series.get("variant") else ""
    return f"{series['model']} {series['strategy']}{variant}"


def number(value: float | None, digits: int = 3) -> str:
    """Format a number, or a dash where it is undefined."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """Format a difference with its sign, or a dash where it is undefined."""
    return "–" if value is None else f"{value:+.3f}"


def with_interval(estimate: Data) -> str:
    """Format a value with its interval."""
    return f"{number(estimate['value'])} ({number(estimate['low'])} to {number(estimate['high'])})"


def signed_interval(difference: Data, value: str = "effect") -> str:
    """Format a difference with its interval; `value` is the key of the difference itself."""
    return f"{signed(difference[value])} ({signed(difference['low'])} to {signed(difference['high'])})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def section(title: str, *paragraphs: str) -> str:
    """Format a section with a heading."""
    return "\n\n".join([f"## {title}", *paragraphs])
