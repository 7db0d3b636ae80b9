"""Results of many images: a table for reading, the most urgent first, and a CSV file with everything."""

from collections.abc import Sequence

import pandas as pd

from core.inference.case import Case
from core.inference.conclusion import ORDER, conclude
from core.inference.sentences import check_text, decision, is_near, percent
from core.inference.two_stage import outcome
from core.models import FAMILY_TITLES

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_SHORT = 12


def by_urgency(cases: Sequence[Case]) -> list[Case]:
    """Sort cases: disagreements, uncertain cases, those without a prediction, those in agreement, unreadable files."""
    return sorted(cases, key=lambda case: (bool(case.problem), ORDER.index(conclude(case).status)))


def overview_of(case: Case) -> dict[str, str]:
    """Return what a reader of the table needs of a case: its verdict, what speaks against it, and each prediction."""
    if case.problem:
        return {"Verdict": "Unreadable", "Why": case.problem, "File": case.name}
    conclusion = conclude(case)
    doubts = "; ".join(conclusion.doubts)
    row = {"Verdict": conclusion.title, "Why": doubts[:1].upper() + doubts[1:], "File": case.name}
    for result in case.results.values():
        meta, prediction = result.meta, result.prediction
        answer = result.problem
        if prediction is not None:
            chance = percent(prediction.probabilities[prediction.target])
            answer = f"{decision(meta, prediction)} ({chance} {meta.titles[prediction.target]})"
        row[FAMILY_TITLES[meta.family]] = answer  # type: ignore[index]
    return row


def rows_of(cases: Sequence[Case], names: bool = True) -> list[dict[str, str]]:
    """Return one row per image; files that could not be read come last.

    Args:
        cases: cases in the order of the uploads.
        names: whether to include the uploads' names.
    """
    rows = []
    for number, case in enumerate((case for case in cases if not case.problem), start=1):
        row = {"Image": str(number)} | ({"File": case.name} if names else {}) | {"Pixels SHA-256": case.pixels[:_SHORT]}
        conclusion, near = conclude(case), False
        row |= {"Verdict": conclusion.title, "Details": conclusion.details}
        for result in case.results.values():
            meta, prediction = result.meta, result.prediction
            family = FAMILY_TITLES[meta.family]  # type: ignore[index]
            if prediction is None:
                row[family] = result.problem
                continue
            row[family] = decision(meta, prediction)
            row[f"{family}: probability"] = f"{prediction.probabilities[prediction.target]:.4f}"
            row[f"{family}: class"] = meta.titles[prediction.target]
            near |= is_near(meta, prediction)
        decisions = {decision(meta, prediction) for meta, prediction in case.predictions}
        row["Families agree"] = _yes(len(decisions) == 1) if len(case.predictions) > 1 else ""
        row["Near a threshold"] = _yes(near) if case.predictions else ""
        if case.verdict:
            row["Two stages"] = outcome(case.verdict)
        row["Image check"] = check_text(case)
        rows.append(row)
    for case in cases:
        if case.problem:
            rows.append(
                {"Image": "unreadable"} | ({"File": case.name} if names else {}) | {"Image check": case.problem}
            )
    return rows


def as_csv(rows: Sequence[dict[str, str]]) -> bytes:
    """Format rows as a CSV file whose cells no spreadsheet interprets as formulas."""
    cells = pd.DataFrame(rows).fillna("").map(lambda cell: f"'{cell}" if cell.startswith(_FORMULA) else cell)
    return cells.to_csv(index=False, lineterminator="\r\n").encode("utf-8-sig")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
