"""The command `shortcuts`: frozen probes of the border and of the corners alone, and what they say of a data set."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from core.analysis.shortcuts import STEPS, shortcuts_of
from core.errors import BadRequest
from core.runs import open_store
from trainer.commands.curve import answers, pairs_of, ready
from trainer.commands.run import Request, dataset_of
from trainer.flags import DEFAULT_SEEDS, add_data, add_training, seeds, sizes
from trainer.reporting.document_tables import print_runs
from trainer.training.settings import Cell

STRATEGY = "frozen"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_data(parser)
    parser.add_argument("--model", default="imagenet-efficientnet-lite0", help="(default: %(default)s), frozen")
    parser.add_argument("--size", type=sizes, default=sizes("50"), help="labelled images a class (default: 50)")
    parser.add_argument("--seeds", type=seeds, default=seeds(DEFAULT_SEEDS), help=f"(default: {DEFAULT_SEEDS})")
    add_training(parser)
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """`shortcuts`: 1 if a part without disease tells the classes apart. Runs are answered from the store.

    Raises:
        BadRequest: if several sizes are asked for, or a training could not go on.
    """
    if len(arguments.size) != 1:
        raise BadRequest(f"A shortcut check is about one size, but {len(arguments.size)} were asked for.")
    dataset = dataset_of(arguments)
    pairs = ready(pairs_of([arguments.model], [STRATEGY]), dataset, False)
    every = [
        Request(Cell(dataset.spec.name, model, strategy, arguments.size[0], seed), {"preparation": step})
        for model, strategy in pairs
        for step in ("", *STEPS)
        for seed in arguments.seeds
    ]
    stopped: dict[tuple[str, str], str] = {}
    made = [meta for _, _, meta in answers(every, dataset, arguments, "none", stopped)]
    if stopped or len(made) < len(every):
        raise BadRequest(f"The check is incomplete: a training could not go on. {' '.join(stopped.values())}".strip())
    if arguments.json:
        print_runs(made, True)
    names = {meta.run for meta in made}
    store = open_store()
    here = type(store)({folder: meta for folder, meta in store.runs.items() if meta.run in names}, {})
    found = shortcuts_of(here, dataset.spec.name, dataset.split_hash)
    for one in found:
        print(json.dumps(asdict(one) | {"words": one.sentence}) if arguments.json else one.sentence, flush=True)
    return int(any(one.found for one in found))
