"""Recipes against untuned baselines on development images, from the logs of `python -m trainer baselines`.

A row of a log is one training: `contender`, `model`, `set`, `size` and `seed` say which, `clean` and `spoilt` are its
AUROC on clean and corrupted images, `log_loss` and `log_loss_at_1` its log-loss after and before calibration. The first
contender of a log is the recipe.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import BadRequest
from core.metrics import Spread, between_seeds
from core.metrics.bootstrap import with_interval
from core.models import MODELS
from core.paths import PROJECT
from trainer.reporting.markdown import table

FOLDER = PROJECT / "docs/protocol"
LOOP, EARLIER_HEADS = "plain loop", ("old MLP", "its frozen head")  # titles of contenders
Rows = Sequence[Mapping[str, Any]]


def log_of(family: str) -> Path:
    """Return the path of a family's log."""
    return FOLDER / f"baselines-{family}.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a log; none if there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def gain(rows: Rows, first: str, second: str, size: int, value: str = "clean") -> Spread | None:
    """Return how much better one contender is than another, paired by data set and seed, which are its seeds.

    Args:
        rows: rows of a log.
        first: title of the contender.
        second: title of the other.
        size: labeled images per class.
        value: key of the score.
    Returns:
        mean and 95% interval; None if the two share no cell.
    """
    sides = [
        {(row["set"], row["seed"]): row[value] for row in rows if (row["contender"], row["size"]) == (title, size)}
        for title in (first, second)
    ]
    differences = [sides[0][key] - sides[1][key] for key in sides[0] if key in sides[1]]
    return between_seeds(differences) if differences else None


def summary(rows: Rows) -> str:
    """Return Markdown: the recipe of a log against each baseline, by size, on clean and on corrupted images."""
    first, *others = dict.fromkeys(row["contender"] for row in rows)
    cells = []
    for size in sorted({row["size"] for row in rows}):
        for other in others:
            clean, corrupted = (gain(rows, first, other, size, value) for value in ("clean", "spoilt"))
            if clean and corrupted:
                cells.append([str(size), other, _text(clean), _text(corrupted), str(clean.seeds)])
    head = ["size", f"{first} minus", "AUROC, clean images", "AUROC, corrupted images", "cells"]
    return f"{table(head, cells)}\n\n{_NOTE} {log_loss_sentence(rows)}\n"


_NOTE = "Mean over data sets and subsets (cells), with Student's 95% interval over these."


def baseline_table(families: Sequence[str], sizes: Sequence[int]) -> str:
    """Return Markdown: the recipes of several families against the plain loop and the old MLP, on clean images.

    Raises:
        BadRequest: if a family has no log.
    """
    cells, sentences = [], []
    for family in families:
        rows = read_log(log_of(family))
        if not rows:
            raise BadRequest(f"There is no log of {family}. Run python -m trainer baselines --family {family} first.")
        first, title = rows[0]["contender"], MODELS[rows[0]["model"]].title
        for size in sizes:
            gains = [gain(rows, first, other, size) for other in (LOOP, second_of(rows))]
            count = max((spread.seeds for spread in gains if spread), default=0)
            texts = [f"{_text(spread)}, {_order(spread)}" if spread else "not compared" for spread in gains]
            cells.append([title, first, str(size), *texts, str(count)])
        sentences.append(f"- {title}: {log_loss_sentence(rows)}")
    head = ["model", "recipe", "images per class", "minus its plain loop", "minus the earlier head", "cells"]
    note = (
        f"AUROC on development images. {_NOTE} *Ahead* or *behind*: the interval is on one side of zero. The earlier "
        "head is the old MLP; for fine-tuning, the frozen head of the same encoder."
    )
    return "\n\n".join([table(head, cells), note, "\n".join(sentences)]) + "\n"


def second_of(rows: Rows) -> str:
    """Return the title of the head that a recipe was to improve; "" if its log has none."""
    titles = {row["contender"] for row in rows}
    return next((title for title in EARLIER_HEADS if title in titles), "")


def log_loss_sentence(rows: Rows) -> str:
    """Return by how much calibration changes the log-loss of each contender, at most and on average."""
    parts = []
    for title in dict.fromkeys(row["contender"] for row in rows):
        excess = [row["log_loss"] - row["log_loss_at_1"] for row in rows if row["contender"] == title]
        parts.append(f"{title} {sum(excess) / len(excess):+.3f} and {max(excess):+.3f}")
    return f"log-loss after calibration minus that at temperature 1, mean and largest: {'; '.join(parts)}."


def _text(spread: Spread) -> str:
    return with_interval(spread.mean, spread.low, spread.high, "+.3f")


def _order(spread: Spread) -> str:
    return "ahead" if spread.low > 0 else "behind" if spread.high < 0 else "not told apart"
