"""`baselines`: compare each family's recipes with untuned loops, on development images.

Test images are not read. Subsets have seeds that neither the search nor a reported run uses. All contenders of a cell
are trained on the same subset. Scores of every cell are in a log, from which the summary is computed.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.errors import BadRequest
from core.files import sole_writer, write_atomically
from core.models import MODELS
from core.paths import pick_device
from trainer.commands.search import SETS, SHORT, Development, development_of, score
from trainer.flags import add_training, minutes
from trainer.progress import print_status
from trainer.reporting.baselines import log_of, read_log, summary
from trainer.training.recipes import best_model, recipe_for
from trainer.training.settings import Cell

SIZES = (10, 50, 100)
SEEDS = (110, 111, 112)
COSTLY = ("frozen-dinov2", "frozen-joined", "finetune", "scratch")  # compared up to the sizes in `SHORT`

# The head that was shipped before the protocol: features standardized one by one, settings searched on Kermany alone.
_OLD_MLP = {
    "scaling": "standard", "augment": "aggressive", "views": 4, "epochs": 10, "min_steps": 30, "lr": 1e-3,
    "weight_decay": 0.01, "label_smoothing": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Contender:
    """A way of training a model.

    Attributes:
        title: name in the log and the summary.
        model: name of the model.
        strategy: name of the strategy.
        options: settings that differ from the recipe.
    """

    title: str
    model: str
    strategy: str
    options: Mapping[str, Any]


def _frozen(model: str) -> tuple[Contender, ...]:
    return (
        Contender("logistic regression", model, "frozen-logistic", {}),
        Contender("MLP", model, "frozen", {}),
        Contender("old MLP", model, "frozen", _OLD_MLP),
        Contender("plain loop", model, "plain-loop", {}),
        Contender("class means", model, "protonet", {}),
    )


def contenders_of(name: str) -> tuple[Contender, ...]:
    """Return the contenders of a family: its recipes first, then the baselines.

    Raises:
        BadRequest: if there is no such family.
    """
    lite0 = "imagenet-efficientnet-lite0"
    families = {
        "frozen": _frozen(lite0),
        "frozen-stages": _frozen(f"{lite0}-stages"),
        "frozen-dinov2": _frozen("generic-dinov2-vits14-imgfocus"),
        "frozen-joined": _frozen("generic-joined-lite0-stages-dinov2-vits14"),
        "finetune": (
            Contender("fine-tuned", lite0, "finetune", {}),
            Contender("its frozen head", lite0, "frozen-logistic", {}),
            Contender("plain loop", lite0, "plain-loop", {}),
        ),
        "scratch": (
            Contender("from scratch", best_model("scratch"), "scratch", {}),
            Contender("plain loop", best_model("scratch"), "plain-scratch", {}),
        ),
    }
    if name not in families:
        raise BadRequest(f"Expected --family to be one of {', '.join(families)}, but got {name!r}.")
    return families[name]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        "--family", required=True, help="frozen, frozen-stages, frozen-dinov2, frozen-joined, finetune or scratch"
    )
    parser.add_argument(
        "--minutes", type=minutes, default=110.0, help="minutes to run (default: 110); the same command continues"
    )
    parser.add_argument("--summary", action="store_true", help="print the summary of the log and train nothing")
    parser.add_argument("--log", type=Path, default=None, help="(default: docs/protocol/baselines-FAMILY.jsonl)")
    add_training(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score the cells that the log lacks or has with other settings, then print the summary of all it has."""
    contenders, device = contenders_of(arguments.family), pick_device(arguments.device)
    path = arguments.log or log_of(arguments.family)
    if not arguments.summary:
        with sole_writer(path):
            _score_missing(contenders, path, arguments.family in COSTLY, 60 * arguments.minutes, device)
    rows = read_log(path)
    if not rows:
        raise BadRequest(f"{path.name} has no rows yet. Leave out --summary to score some.")
    print(summary(rows))
    return 0


def _score_missing(
    contenders: Sequence[Contender], path: Path, costly: bool, seconds: float, device: torch.device
) -> None:
    """Score the cells that a log lacks until time is up; rows of other settings are replaced."""
    settings = {(each.title, size): _settings(each, size) for each in contenders for size in SIZES}
    rows = [row for row in read_log(path) if row["settings"] == settings.get((row["contender"], row["size"]))]
    done = {(row["contender"], row["set"], row["size"], row["seed"]) for row in rows}
    until = time.monotonic() + seconds
    developments: dict[tuple[str, str], Development] = {}
    for size in SIZES:
        for name in SETS:
            if costly and size > SHORT.get(name, size):
                continue
            for seed in SEEDS:
                for contender in contenders:
                    if (contender.title, name, size, seed) in done:
                        continue
                    if time.monotonic() > until:
                        print_status("Time is up; the same command continues.")
                        return
                    at = (name, contender.model)
                    if at not in developments:
                        developments[at] = development_of(load_dataset(DATASETS[name]), contender.model)
                    cell = Cell(name, contender.model, contender.strategy, size, seed)
                    scores = score(developments[at], cell, contender.options, device)
                    rows.append(
                        {"contender": contender.title, "model": contender.model, "strategy": contender.strategy,
                         "set": name, "size": size, "seed": seed, "settings": settings[contender.title, size],
                         **{k: round(v, 5) for k, v in scores.items()}}
                    )  # fmt: skip
                    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
                    print_status(f"{cell.title}, {contender.title}: {scores['clean']:.4f}")


def _settings(contender: Contender, size: int) -> dict[str, Any]:
    """Return the settings of a contender at a size that differ from the strategy's own."""
    return {**recipe_for(MODELS[contender.model], contender.strategy, size), **contender.options}
