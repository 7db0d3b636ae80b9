"""`shortcuts`: test a data set for shortcut learning, with frozen probes of the border and of the corners alone."""

import argparse
from dataclasses import asdict

from core.analysis.shortcuts import STEPS, shortcuts_of
from core.errors import BadRequest
from core.paths import pick_device
from core.runs import Store
from trainer.flags import add_data, add_training, requested_dataset, seeds, sizes
from trainer.reporting.run_lines import print_row, print_runs
from trainer.training.engines import LocalEngine
from trainer.training.settings import Cell
from trainer.training.sweep import RunRequest, available_pairs, compatible_pairs, load_for_training, run_sweep

STRATEGY = "frozen"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_data(parser)
    parser.add_argument("--model", default="imagenet-efficientnet-lite0", help="(default: %(default)s), frozen")
    parser.add_argument("--size", type=sizes, default="50", help="labeled images per class (default: %(default)s)")
    parser.add_argument("--seeds", type=seeds, default="0,1,2,3,4", help="(default: %(default)s)")
    add_training(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train the probes that the store lacks; return 1 if a region without disease separates the classes.

    Raises:
        BadRequest: if several sizes are given, or a training fails.
    """
    if len(arguments.size) != 1:
        raise BadRequest(f"A shortcut test takes one size, but {len(arguments.size)} were given.")
    dataset = load_for_training(requested_dataset(arguments), arguments.allow_leaks)
    pairs = available_pairs(compatible_pairs([arguments.model], [STRATEGY]), dataset)
    requests = [
        RunRequest(Cell(dataset.spec.name, model, strategy, arguments.size[0], seed), {"preparation": step})
        for model, strategy in pairs
        for step in ("", *STEPS)
        for seed in arguments.seeds
    ]
    failures: dict[tuple[str, str], str] = {}
    sweep = run_sweep(requests, dataset, LocalEngine(pick_device(arguments.device)), "shortcuts", failures)
    runs = {folder: meta for _, folder, meta in sweep}
    if failures or len(runs) < len(requests):
        raise BadRequest(f"The test is incomplete, because a training failed. {' '.join(failures.values())}".strip())
    if arguments.json:
        print_runs(runs.values(), True)
    shortcuts = shortcuts_of(Store(runs, {}), dataset.spec.name, dataset.split_hash)
    for row in shortcuts:
        print_row(asdict(row) | {"words": row.sentence}, row.sentence, arguments.json)
    return int(any(row.detected for row in shortcuts))
