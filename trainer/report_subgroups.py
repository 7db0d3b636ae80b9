"""The section of a report on figures by sex and by age: as data, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from core.cards.subgroups import LEAST_OF_CLASS, by_subgroup, title_of
from trainer.markdown import ranged, said, table
from trainer.report_sections import Runs

Data = Mapping[str, Any]


def subgroups(series: Runs, finding: int | None) -> list[dict[str, Any]]:
    """Every series by sex and by age, mean over seeds; none where ages and sexes are not kept beside the runs."""
    rows = [{**key._asdict(), "groups": by_subgroup(runs, finding)} for key, runs in series.items()]
    return [{**row, "groups": [asdict(one) for one in row["groups"]]} for row in rows if row["groups"]]


def as_text(rows: Sequence[Data]) -> str:
    """The section as Markdown."""
    if not rows:
        return ""
    parts = [
        "## By sex and by age",
        "Mean over seeds with 95% intervals over test patients or lesions (resampled whole), not corrected for "
        "the number of groups; differences are from the largest group. Means over classes are given only where a "
        "group has "
        f"{LEAST_OF_CLASS} images of each class. Groups differ in their classes and in much that is not recorded: a "
        "difference says nothing about its cause.",
    ]
    for row in rows:
        figures = list(dict.fromkeys(name for one in row["groups"] for name in one["figures"]))
        head = ["group", "images", "patients or lesions", *map(title_of, figures)]
        parts += [said(row), table(head, [_line(one, figures) for one in row["groups"]])]
    return "\n\n".join(parts)


def _line(one: Data, figures: Sequence[str]) -> list[str]:
    return [
        f"{one['by'].lower()} {one['name']}", f"{one['images']}", f"{one['groups']}",
        *(_cell(one, name) for name in figures),
    ]  # fmt: skip


def _cell(one: Data, name: str) -> str:
    if name not in one["figures"]:
        return one["too_few"] or "too few of a class"
    minus = one["differences"].get(name)
    change = f"; {minus['value']:+.3f} ({minus['low']:+.3f} to {minus['high']:+.3f})" if _known(minus) else ""
    return ranged(one["figures"][name]) + change


def _known(minus: Data | None) -> bool:
    return minus is not None and all(minus[end] is not None for end in ("value", "low", "high"))
