"""Formatting of numbers, intervals and tables as Markdown."""

from __future__ import annotations

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


def with_interval(one: Data, digits: int = 3) -> str:
    """Format a value with its interval."""
    return f"{number(one['value'], digits)} ({number(one['low'], digits)} to {number(one['high'], digits)})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def with_interval_of(values: Sequence[float | None]) -> str:
    """Format the sequence (value, low, high) as `with_interval` does."""
    return with_interval(dict(zip(("value", "low", "high"), values, strict=True)))


def section(title: str, paragraphs: Sequence[str]) -> str:
    """Format a section of plain paragraphs; "" if there are none."""
    return "\n\n".join([f"## {title}", *paragraphs]) if paragraphs else ""
