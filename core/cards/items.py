"""An item of a reporting checklist, and a checklist as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.cards.subject import Subject

OPEN = "open"


def _open(subject: Subject) -> str:
    return ""


@dataclass(frozen=True)
class Item:
    """A row of a checklist.

    Attributes:
        number: as the guideline has it.
        section: of a report.
        topic: what is asked, in few words.
        answer: what the record says; "" where it does not, and the item is open.
    """

    number: str
    section: str
    topic: str
    answer: Callable[[Subject], str] = _open


@dataclass(frozen=True)
class Guideline:
    """A reporting guideline.

    Attributes:
        name: key in the registry.
        title: for people.
        citation: where it is published.
        items: its checklist.
    """

    name: str
    title: str
    citation: str
    items: Sequence[Item]


def answered(guideline: Guideline, subject: Subject) -> list[tuple[Item, str]]:
    """Every item with its answer; "" is open."""
    return [(item, item.answer(subject)) for item in guideline.items]


def as_markdown(guideline: Guideline, subject: Subject) -> str:
    """The checklist as a document to be completed by hand."""
    rows = answered(guideline, subject)
    known = sum(bool(answer) for _, answer in rows)
    lines = [
        f"# {guideline.title}: {subject.meta.run}",
        "",
        f"{guideline.citation}. Items in the words of this program; the published text counts.",
        "",
        f"{known} of {len(rows)} items are answered from the run's record. The others are **{OPEN}**: no record of "
        "this program holds what they ask for, and a person has to answer them.",
        "",
        "| item | section | asks for | answer |",
        "|---|---|---|---|",
    ]
    lines += [f"| {item.number} | {item.section} | {item.topic} | {_cell(answer)} |" for item, answer in rows]
    return "\n".join([*lines, ""])


def as_csv(guideline: Guideline, subject: Subject) -> str:
    """The checklist as a table for other programs; open items say so."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["item", "section", "asks for", "answer"])
    rows.writerows(
        [item.number, item.section, item.topic, answer or OPEN] for item, answer in answered(guideline, subject)
    )
    return text.getvalue()


def _cell(answer: str) -> str:
    return answer.replace("|", "\\|").replace("\n", " ") if answer else f"**{OPEN}**"
