"""Results of many images as one table, and the table as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from core.inference.case import Case
from core.inference.text import agree, check_text, decision, is_near
from core.inference.two_stage import outcome
from core.models import FAMILY_TITLES

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_SHORT = 12


def rows_of(
    cases: Sequence[Case], problems: Sequence[tuple[str, str]] = (), names: bool = True
) -> list[dict[str, str]]:
    """Return one row per image; files that could not be read come last.

    Args:
        cases: in the order of the uploads.
        problems: (name, reason) of files that could not be read.
        names: whether to include the uploads' names.
    """
    rows = []
    for number, case in enumerate(cases, start=1):
        row = {"Image": str(number)} | ({"File": case.name} if names else {}) | {"Pixels SHA-256": case.pixels[:_SHORT]}
        near = False
        for answer in case.answers.values():
            family = FAMILY_TITLES[answer.meta.family]  # type: ignore[index]
            if answer.prediction is None:
                row[family] = answer.problem
                continue
            target = answer.prediction.target
            chance = answer.prediction.probabilities[target]
            row[family] = decision(answer.meta, answer.prediction)
            row[f"{family}: probability"] = f"{chance:.4f}"
            row[f"{family}: of"] = answer.meta.titles[target]
            near |= is_near(answer.meta, answer.prediction)
        row["Families agree"] = _yes(agree(case)) if len(case.answered) > 1 else ""
        row["Near a threshold"] = _yes(near) if case.answered else ""
        if case.verdict:
            row["Two stages"] = outcome(case.verdict)
        row["Input gate"] = check_text(case)
        rows.append(row)
    for name, problem in problems:
        rows.append({"Image": "not read"} | ({"File": name} if names else {}) | {"Input gate": problem})
    return rows


def as_csv(rows: Sequence[dict[str, str]]) -> bytes:
    """Format rows as a CSV file whose cells no spreadsheet interprets as formulas."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"'{value}" if value.startswith(_FORMULA) else value for name, value in row.items()})
    return buffer.getvalue().encode("utf-8-sig")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
