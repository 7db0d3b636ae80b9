"""The command `ablate`: what each ingredient of a training is worth, alone and with others, on the same subsets.

An ingredient is an augmentation, a preprocessing step, or a setting with a value, such as `loss=focal`; for losses and
ways to meet imbalance their name will do. What encoders start from is a matter of models: those that are named are
compared with the first. Verdicts are corrected by Holm over all contrasts of the command, so that rows are printed at
its end.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from core.analysis.comparison import compare_runs
from core.data.augmentation import AUGMENTATIONS, JOINED
from core.data.preprocessing import PREPROCESSING
from core.errors import BadRequest, LowshotError
from core.metrics import METRICS
from core.metrics.comparisons import Difference, holm_corrected
from core.runs import RunMeta
from trainer.commands.curve import answers, pairs_of, ready
from trainer.commands.run import Request, dataset_of
from trainer.flags import OPTIONS, add_data, add_settings, add_training, names, seeds, sizes
from trainer.flags import asked as asked_of
from trainer.progress import print_status
from trainer.training.class_balance import IMBALANCE
from trainer.training.losses import LOSSES
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell

NONE, EACH, PAIRS, ALL = "none", "each", "pairs", "all"
ORDERS = (EACH, PAIRS, ALL)
SHOWN = ("auroc", "balanced_accuracy")
DIFFERENCES = ("difference", "difference_of_models")
_STARTS = {"imagenet": "ImageNet"}
Runs = list[tuple[Path, RunMeta]]


@dataclass(frozen=True)
class Combination:
    """Ingredients used together; the others of the ablation are left out.

    Attributes:
        title: the ingredients joined by `+`, or `none`.
        options: the settings that make it.
    """

    title: str
    options: dict[str, Any]


def setting_of(ingredient: str) -> tuple[str, Any] | None:
    """The setting and value that an ingredient states; None for augmentations and preprocessing steps.

    Raises:
        BadRequest: if it is no ingredient.
        UnknownName: if it names a setting that does not exist.
    """
    if ingredient in AUGMENTATIONS or ingredient in PREPROCESSING:
        return None
    for name, rows in (("imbalance", IMBALANCE), ("loss", LOSSES)):
        if ingredient in rows and ingredient != NONE:
            return name, ingredient
    name, equals, value = ingredient.partition("=")
    if not equals:
        known = (*AUGMENTATIONS, *PREPROCESSING, *(row for row in IMBALANCE if row != NONE), *LOSSES)
        raise BadRequest(
            f"{ingredient!r} is no ingredient. Name augmentations, preprocessing steps, ways to meet imbalance or "
            f"losses ({', '.join(known)}), or any setting with a value, such as depth=2."
        )
    option = OPTIONS[name]
    try:
        return option.name, option.check(option.kind(value))
    except ValueError:
        raise BadRequest(f"Expected {name} to have a value that {option.flag} takes, but got {value!r}.") from None


def combinations_of(ingredients: list[str], orders: list[str]) -> list[Combination]:
    """None of the ingredients first, then each alone, pairs, and as many together as can be, as asked for.

    Two values of one setting exclude one another.

    Args:
        ingredients: their names.
        orders: which of `each`, `pairs` and `all`.
    Raises:
        BadRequest: if an ingredient is unknown or named twice, or an order is.
    """
    settings = {name: setting_of(name) for name in ingredients}
    if len(settings) < len(ingredients):
        raise BadRequest(f"An ingredient is named twice in {', '.join(ingredients)}.")
    if unknown := [name for name in orders if name not in ORDERS]:
        raise BadRequest(f"Expected {', '.join(ORDERS)}, but got {unknown[0]!r}.")
    stated = [setting[0] for setting in settings.values() if setting]
    most = len(ingredients) - len(stated) + len(set(stated))
    counts = {EACH: 1, PAIRS: 2, ALL: most}
    wanted = sorted({counts[name] for name in orders if counts[name] <= most})
    chosen = [(), *(together for count in wanted for together in combinations(ingredients, count))]
    return [_combination(together, settings) for together in chosen if _together(together, settings)]


def _together(names: tuple[str, ...], settings: dict[str, tuple[str, Any] | None]) -> bool:
    stated = [setting[0] for name in names if (setting := settings[name])]
    return len(stated) == len(set(stated))


def _combination(names: tuple[str, ...], settings: dict[str, tuple[str, Any] | None]) -> Combination:
    """What is left out is truly left out: no augmentation where one of them or a preprocessing step is judged."""
    options: dict[str, Any] = dict(setting for name in names if (setting := settings[name]))
    if not all(settings.values()):
        steps = [name for name in names if name in PREPROCESSING]
        left_out = [PREPROCESSING[name].replaced_by for name in settings if name in PREPROCESSING and name not in names]
        options["augment"] = JOINED.join(name for name in names if name in AUGMENTATIONS) or NONE
        options["preparation"] = JOINED.join(filter(None, [*steps, *left_out]))
    return Combination(JOINED.join(names) or NONE, options)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_data(parser)
    parser.add_argument(
        "--of", type=names, required=True,
        help="joined by commas: augmentations, preprocessing steps, losses, ways to meet imbalance, settings with a "
        "value; such as horizontal-flip,clahe,class-weights,focal,depth=2",
    )  # fmt: skip
    parser.add_argument("--orders", type=names, default=["each", "pairs", "all"], help="(default: each,pairs,all)")
    parser.add_argument("--models", type=names, required=True, help="joined by commas; each is compared with the first")
    parser.add_argument("--strategies", type=names, default=["scratch", "frozen"], help="(default: scratch,frozen)")
    parser.add_argument("--sizes", type=sizes, default=sizes("50"), help="(default: 50)")
    parser.add_argument("--seeds", type=seeds, default=seeds("0,1,2"), help="(default: 0,1,2)")
    add_training(parser)
    add_settings(parser, leave_out=("augment", "preparation"))
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """`ablate`: each combination against none of its ingredients, and each model against the first."""
    every = combinations_of(arguments.of, arguments.orders)
    pairs = pairs_of(arguments.models, arguments.strategies)
    dataset = dataset_of(arguments)
    pairs = ready(pairs, dataset, arguments.models is None)
    complete = True
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes:
        first: dict[str, list[Runs]] = {}
        for model, strategy in sorted(pairs, key=lambda pair: arguments.strategies.index(pair[1])):
            asked = [
                Request(
                    Cell(dataset.spec.name, model, strategy, size, seed), {**asked_of(arguments), **combination.options}
                )
                for combination in every
                for seed in arguments.seeds
            ]
            try:
                for one in asked[:: len(arguments.seeds)]:
                    plan_run(one.cell, dataset, one.options)
            except LowshotError as error:
                print_status(f"left out: {model} {strategy}: {error}")
                complete = False
                continue
            found: list[Runs] = [[] for _ in every]
            stopped: dict[tuple[str, str], str] = {}
            for place, folder, meta in answers(asked, dataset, arguments, "none", stopped):
                found[place // len(arguments.seeds)].append((folder, meta))
            complete = complete and not stopped
            if not all(found):
                print_status(
                    f"incomplete: {model} {strategy} n={size or 'full'}: a combination has no run, so none is compared."
                )
                complete = False
                continue
            rows += _rows(every, found, first.setdefault(strategy, found))
    _correct(rows)
    for row in rows:
        print(json.dumps(_plain(row)) if arguments.json else _line(row), flush=True)
    return 0 if complete else 2


def _rows(every: list[Combination], found: list[Runs], first: list[Runs]) -> Iterator[dict[str, Any]]:
    """A row a combination: mean over seeds, and differences with intervals over seeds and patients, not corrected yet.

    Args:
        every: the combinations, none of the ingredients first.
        found: the runs of each.
        first: those of the model that was named first.
    """
    for place, combination in enumerate(every):
        runs, meta = found[place], found[place][0][1]
        yield {
            "dataset": meta.dataset, "model": meta.model, "family": meta.family, "start": _start(meta),
            "strategy": meta.strategy, "train_size": meta.train_size, "seeds": [one.seed for _, one in runs],
            "combination": combination.title, "variant": meta.variant, "leaks": max(one.leaks for _, one in runs),
            "metrics": {name: float(np.mean([one.metrics[name] for _, one in runs])) for name in METRICS},
            "difference": _differences(runs, found[0]) if place else {},
            "against": first[place][0][1].model if found is not first else "",
            "difference_of_models": _differences(runs, first[place]) if found is not first else {},
        }  # fmt: skip


def _differences(runs: Runs, others: Runs) -> dict[str, Difference]:
    """The difference in each metric over the seeds that both have; none where they share no seed."""
    if not {meta.seed for _, meta in runs} & {meta.seed for _, meta in others}:
        return {}
    return compare_runs(runs, others, SHOWN)


def _correct(rows: list[dict[str, Any]]) -> None:
    """Correct every difference of a metric by Holm over all of them, in place."""
    every = [row[kind] for row in rows for kind in DIFFERENCES if row[kind]]
    for name in SHOWN:
        for differences, one in zip(every, holm_corrected([of[name] for of in every]), strict=True):
            differences[name] = one


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row as plain data."""
    return row | {kind: {name: one.record() for name, one in row[kind].items()} for kind in DIFFERENCES}


def _start(meta: RunMeta) -> str:
    """Where the weights began, in words."""
    kind = "random" if meta.encoder.get("kind") == "random" else _STARTS.get(meta.family, meta.family)
    return f"{kind} start"


def _line(row: dict[str, Any]) -> str:
    """A row for people."""
    figures = []
    for name in SHOWN:
        said = f"{METRICS[name].title} {row['metrics'][name]:.3f}"
        for kind, first, second in (
            ("difference", row["combination"], NONE),
            ("difference_of_models", row["model"], row["against"]),
        ):
            if name in row[kind]:
                one = row[kind][name]
                said += f" (from {second} {one.interval_text()}: {one.verdict_text(first, second)})"
        figures.append(said)
    size = row["train_size"] or "full"
    leaks = f"  (LEAKS ALLOWED: {row['leaks']} images)" if row["leaks"] else ""
    who = f"{row['model']} ({row['start']}) {row['strategy']}  n={size}"
    return f"{who}  {row['combination']:42} {'  '.join(figures)}{leaks}"
