"""`ablate`: the effect of each ingredient of a training, alone and with others, on the same subsets.

An ingredient is an augmentation, a preprocessing step, or a setting with a value, such as `loss=focal`; for losses and
ways to handle imbalance the name is enough. Models are compared with the first one. Verdicts are corrected by Holm over
all contrasts of the command, so rows are printed at its end.
"""

import argparse
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import combinations
from typing import Any

import numpy as np

from core.analysis.comparison import compare_runs, correct
from core.data.augmentation import AUGMENTATIONS, JOINED
from core.data.preprocessing import PREPROCESSING
from core.errors import BadRequest, LowshotError
from core.metrics import METRICS
from core.metrics.comparisons import Difference
from core.runs import Run
from trainer import flags
from trainer.progress import print_status
from trainer.reporting.run_lines import print_row
from trainer.training.class_balance import IMBALANCE
from trainer.training.losses import LOSSES
from trainer.training.ray_engine import open_engine
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell
from trainer.training.sweep import RunRequest, available_pairs, compatible_pairs, load_for_training, run_sweep

NONE = "none"
SHOWN = ("auroc", "balanced_accuracy")
DIFFERENCES = ("difference", "difference_of_models")
_STARTS = {"imagenet": "ImageNet"}
Runs = list[Run]
Options = dict[str, Any]


def setting_of(ingredient: str) -> tuple[str, Any] | None:
    """Return the setting and value of an ingredient; None for augmentations and preprocessing steps.

    Raises:
        BadRequest: if it is not an ingredient.
        UnknownName: if it names an unknown setting.
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
            f"{ingredient!r} is not an ingredient. Name augmentations, preprocessing steps, ways to handle imbalance, "
            f"losses ({', '.join(known)}) or any setting with a value, such as depth=2."
        )
    option = flags.OPTIONS[name]
    typed: Any = value
    with suppress(ValueError):  # `check` refuses text that is not a number
        typed = option.kind(value)
    return option.name, option.check(typed)


def combinations_of(ingredients: list[str], orders: list[str]) -> dict[str, Options]:
    """Return no ingredient first, then each alone, pairs, and as many together as possible.

    Two values of one setting exclude each other.

    Args:
        ingredients: their names.
        orders: any of `each`, `pairs` and `all`.
    Returns:
        the ingredients joined by `+`, or `none` -> the settings that they change, with the other ingredients left out.
    Raises:
        BadRequest: if an ingredient is unknown or named twice, or an order is unknown.
    """
    settings = {name: setting_of(name) for name in ingredients}
    if len(settings) < len(ingredients):
        raise BadRequest(f"An ingredient is named twice in {', '.join(ingredients)}.")
    stated = [setting[0] for setting in settings.values() if setting]
    most = len(ingredients) - len(stated) + len(set(stated))
    counts = {"each": 1, "pairs": 2, "all": most}
    if unknown := [name for name in orders if name not in counts]:
        raise BadRequest(f"Expected {', '.join(counts)}, but got {unknown[0]!r}.")
    numbers = sorted({counts[name] for name in orders if counts[name] <= most})
    subsets = [(), *(subset for number in numbers for subset in combinations(ingredients, number))]
    options_of = {JOINED.join(names) or NONE: _options(names, settings) for names in subsets}
    return {title: options for title, options in options_of.items() if options is not None}


def _options(names: tuple[str, ...], settings: dict[str, tuple[str, Any] | None]) -> Options | None:
    """Return the settings of some ingredients, which switch off the others; None if two exclude each other.

    Where an augmentation or a preprocessing step is evaluated, all other augmentation is switched off.
    """
    stated = [setting for name in names if (setting := settings[name])]
    options: Options = dict(stated)
    if len(options) < len(stated):
        return None
    if not all(settings.values()):
        steps = [name for name in names if name in PREPROCESSING]
        left_out = [PREPROCESSING[name].replaced_by for name in settings if name in PREPROCESSING and name not in names]
        options["augment"] = JOINED.join(name for name in names if name in AUGMENTATIONS) or NONE
        options["preparation"] = JOINED.join(filter(None, [*steps, *left_out]))
    return options


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    flags.add_data(parser)
    parser.add_argument(
        "--of", type=flags.names, required=True,
        help="joined by commas: augmentations, preprocessing steps, losses, ways to handle imbalance, settings with a "
        "value; such as horizontal-flip,clahe,class-weights,focal,depth=2",
    )  # fmt: skip
    parser.add_argument("--orders", type=flags.names, default="each,pairs,all", help="(default: %(default)s)")
    parser.add_argument(
        "--models", type=flags.names, required=True, help="joined by commas; the first is the reference"
    )
    parser.add_argument("--strategies", type=flags.names, default="scratch,frozen", help="(default: %(default)s)")
    parser.add_argument("--sizes", type=flags.sizes, default="50", help="(default: %(default)s)")
    parser.add_argument("--seeds", type=flags.seeds, default="0,1,2", help="(default: %(default)s)")
    flags.add_training(parser)
    flags.add_engine(parser)
    flags.add_settings(parser, leave_out=("augment", "preparation"))


def run(arguments: argparse.Namespace) -> int:
    """Compare each combination with no ingredient, and each model with the first; return 2 if a run is missing."""
    options_of = combinations_of(arguments.of, arguments.orders)
    pairs = compatible_pairs(arguments.models, arguments.strategies)
    dataset = load_for_training(flags.requested_dataset(arguments), arguments.allow_leaks)
    pairs = available_pairs(pairs, dataset)
    options = flags.stated_settings(arguments)
    requests: list[RunRequest] = []
    groups: list[tuple[Cell, list[range]]] = []  # a cell, and the positions of the requests for each combination
    for size in arguments.sizes:
        for model, strategy in sorted(pairs, key=lambda pair: arguments.strategies.index(pair[1])):
            cells = [Cell(dataset.spec.name, model, strategy, size, seed) for seed in arguments.seeds]
            try:  # check all combinations before training one
                for changed in options_of.values():
                    plan_run(cells[0], dataset, {**options, **changed})
            except LowshotError as error:
                print_status(f"left out: {model} {strategy}: {error}")
                continue
            starts = range(len(requests), len(requests) + len(options_of) * len(cells), len(cells))
            groups.append((cells[0], [range(start, start + len(cells)) for start in starts]))
            requests += [RunRequest(cell, {**options, **changed}) for changed in options_of.values() for cell in cells]
    done: dict[int, Run] = {}
    failures: dict[tuple[str, str], str] = {}
    with open_engine(arguments) as engine:
        for index, folder, meta in run_sweep(requests, dataset, engine, "ablate", failures):
            done[index] = Run(folder, meta)
    rows: list[dict[str, Any]] = []
    first: dict[tuple[int | None, str], list[Runs]] = {}
    for cell, positions in groups:
        combined = [[done[index] for index in indices if index in done] for indices in positions]
        if not all(combined):
            print_status(
                f"incomplete: {cell.model} {cell.strategy} n={cell.train_size or 'full'}: a combination has no run, so "
                "none is compared."
            )
            continue
        rows += _rows(options_of, combined, first.setdefault((cell.train_size, cell.strategy), combined))
    correct([row[kind] for row in rows for kind in DIFFERENCES if row[kind]], SHOWN)
    for row in rows:
        plain = row | {kind: {name: value.record() for name, value in row[kind].items()} for kind in DIFFERENCES}
        print_row(plain, _line(row), arguments.json)
    complete = len(rows) == len(pairs) * len(arguments.sizes) * len(options_of)
    return 0 if complete and not failures else 2


def _rows(titles: Iterable[str], runs: list[Runs], first: list[Runs]) -> Iterator[dict[str, Any]]:
    """Yield a row per combination: means over seeds, and differences that are not yet corrected.

    Args:
        titles: titles of the combinations, none of the ingredients first.
        runs: the runs of each combination.
        first: the runs of the first model.
    """
    is_first = runs is first
    for title, these, reference in zip(titles, runs, first, strict=True):
        meta = these[0][1]
        start = "random" if meta.encoder.get("kind") == "random" else _STARTS.get(meta.family, meta.family)
        yield {
            "dataset": meta.dataset, "model": meta.model, "family": meta.family, "start": f"{start} start",
            "strategy": meta.strategy, "train_size": meta.train_size, "seeds": [meta.seed for _, meta in these],
            "combination": title, "variant": meta.variant, "leaks": max(meta.leaks for _, meta in these),
            "metrics": {name: float(np.mean([meta.metrics[name] for _, meta in these])) for name in METRICS},
            "difference": {} if these is runs[0] else _differences(these, runs[0]),
            "against": "" if is_first else reference[0][1].model,
            "difference_of_models": {} if is_first else _differences(these, reference),
        }  # fmt: skip


def _differences(runs: Runs, others: Runs) -> dict[str, Difference]:
    """Return the difference in each metric over the seeds that both have; empty if they share no seed."""
    if not {meta.seed for _, meta in runs} & {meta.seed for _, meta in others}:
        return {}
    return compare_runs(runs, others, SHOWN)


def _line(row: dict[str, Any]) -> str:
    """Return a row as text."""
    figures = []
    for name in SHOWN:
        figure = f"{METRICS[name].title} {row['metrics'][name]:.3f}"
        for kind, first, second in (
            ("difference", row["combination"], NONE),
            ("difference_of_models", row["model"], row["against"]),
        ):
            if name in row[kind]:
                difference = row[kind][name]
                figure += f" (from {second} {difference.interval_text()}: {difference.verdict_text(first, second)})"
        figures.append(figure)
    size = row["train_size"] or "full"
    leaks = f"  (LEAKS ALLOWED: {row['leaks']} images)" if row["leaks"] else ""
    series = f"{row['model']} ({row['start']}) {row['strategy']}  n={size}"
    return f"{series}  {row['combination']:42} {'  '.join(figures)}{leaks}"
