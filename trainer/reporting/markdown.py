"""Formatting of stored estimates, series and tables as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.metrics.bootstrap import interval_text, number_text

Data = Mapping[str, Any]


def series_name(series: Data) -> str:
    """Format a series: model, strategy and variant."""
    variant = f" [{series['variant']}]" if series.get("variant") else ""
    return f"{series['model']} {series['strategy']}{variant}"


def with_interval(estimate: Data, value: str = "value", form: str = ".3f") -> str:
    """Format a value with its interval; `value` is the key of the value itself."""
    return f"{number_text(estimate[value], form)} ({interval_text(estimate['low'], estimate['high'], form)})"


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
