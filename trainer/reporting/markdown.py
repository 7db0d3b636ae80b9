"""Formatting of numbers, intervals and tables as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

Data = Mapping[str, Any]


def series_name(series: Data) -> str:
    """Format a series: model, strategy and variant."""
    variant = f" [{series['variant']}]" if series.get("variant") else ""
    return f"{series['model']} {series['strategy']}{variant}"


def number(value: float | None, form: str = ".3f") -> str:
    """Format a number, or a dash where it is undefined."""
    return "–" if value is None else format(value, form)


def with_interval(estimate: Data, value: str = "value", form: str = ".3f") -> str:
    """Format a value with its interval; `value` is the key of the value itself."""
    center, low, high = (number(estimate[key], form) for key in (value, "low", "high"))
    return f"{center} ({low} to {high})"


def signed_interval(difference: Data, value: str = "effect") -> str:
    """Format a difference with its interval and signs; `value` is the key of the difference itself."""
    return with_interval(difference, value, "+.3f")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def section(title: str, *paragraphs: str) -> str:
    """Format a section with a heading."""
    return "\n\n".join([f"## {title}", *paragraphs])
