"""An item of a reporting checklist, and a checklist as Markdown or CSV."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from core.cards.answers import answers_of
from core.cards.subject import Subject

OPEN = "open"


@dataclass(frozen=True)
class Item:
    """A row of a checklist.

    Attributes:
        number: number in the guideline.
        section: section of a report.
        topic: what is asked for, in a few words.
        answer: name of the answer in `answers_of`; "" leaves the item open.
    """

    number: str
    section: str
    topic: str
    answer: str = ""


@dataclass(frozen=True)
class Guideline:
    """A reporting guideline.

    Attributes:
        name: key in the registry.
        title: display name.
        citation: its publication.
        items: its checklist.
    """

    name: str
    title: str
    citation: str
    items: Sequence[Item]


def answered(guideline: Guideline, subject: Subject) -> list[tuple[Item, str]]:
    """Return every item with its answer; "" is open."""
    answers = answers_of(subject)
    return [(item, answers[item.answer] if item.answer else "") for item in guideline.items]


def as_markdown(guideline: Guideline, subject: Subject) -> str:
    """Format the checklist as a document to be completed by hand."""
    rows = answered(guideline, subject)
    known = sum(bool(answer) for _, answer in rows)
    lines = [
        f"# {guideline.title}: {subject.meta.run}",
        "",
        f"{guideline.citation}. Items are paraphrased; the published text is authoritative.",
        "",
        f"{known} of {len(rows)} items are answered from the run's record. The others are **{OPEN}**: no record of "
        "this program contains the answer, so a person has to give it.",
        "",
        "| item | section | asks for | answer |",
        "|---|---|---|---|",
    ]
    lines += [f"| {item.number} | {item.section} | {item.topic} | {_cell(answer)} |" for item, answer in rows]
    return "\n".join([*lines, ""])


def as_csv(guideline: Guideline, subject: Subject) -> str:
    """Format the checklist as CSV; open items are marked."""
    rows = [(item.number, item.section, item.topic, answer or OPEN) for item, answer in answered(guideline, subject)]
    return pd.DataFrame(rows, columns=["item", "section", "asks for", "answer"]).to_csv(index=False)


def _cell(answer: str) -> str:
    return answer.replace("|", "\\|").replace("\n", " ") if answer else f"**{OPEN}**"
