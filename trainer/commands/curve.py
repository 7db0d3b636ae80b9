"""`curve`: learning curves over models, strategies, sizes and seeds."""

from __future__ import annotations

import argparse

from core.errors import BadRequest
from core.paths import pick_device
from trainer import flags
from trainer.reporting.run_lines import print_runs
from trainer.training.external import with_external
from trainer.training.settings import Cell
from trainer.training.sweep import RunRequest, available_pairs, compatible_pairs, load_for_training, run_sweep


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    flags.add_data(parser)
    parser.add_argument("--models", type=flags.names, default=None, help="joined by commas (default: all)")
    parser.add_argument("--strategies", type=flags.names, default="scratch,frozen", help="(default: %(default)s)")
    parser.add_argument("--sizes", type=flags.sizes, default="10,25,50,100,200", help="(default: %(default)s)")
    parser.add_argument("--seeds", type=flags.seeds, default="0,1,2,3,4", help="(default: %(default)s)")
    parser.add_argument("--keep-weights", choices=("served", "all", "none"), default="served")
    flags.add_training(parser)
    flags.add_external(parser)
    flags.add_settings(parser)
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """Train the runs that the store lacks, and print all.

    Raises:
        BadRequest: at the end, if a model that was named is not available, a model and strategy could not continue, or
            every training failed.
    """
    pairs = compatible_pairs(arguments.models, arguments.strategies)
    dataset = load_for_training(flags.requested_dataset(arguments), arguments.allow_leaks)
    dataset = with_external(dataset, arguments.external, arguments.external_classes)
    options = flags.stated_settings(arguments)
    available = available_pairs(pairs, dataset, arguments.models is None)
    left_out = [] if arguments.models is None else [pair for pair in pairs if pair not in available]
    requests = [
        RunRequest(Cell(dataset.spec.name, model, strategy, size, seed), options)
        for model, strategy in available
        for size in arguments.sizes
        for seed in arguments.seeds
    ]
    count, failures = 0, dict[tuple[str, str], str]()
    for _, _, meta in run_sweep(
        requests, dataset, pick_device(arguments.device), "curve", failures, arguments.keep_weights,
        bool(arguments.external),
    ):  # fmt: skip
        count += 1
        print_runs([meta], arguments.json)
    if failures:
        raise BadRequest(
            f"{len(failures)} of {len(pairs)} pairs of model and strategy could not continue, and their remaining runs "
            f"are left out; finished runs are kept. {' '.join(failures.values())}"
        )
    if not count:
        raise BadRequest(
            f"The training of {'the run' if len(requests) == 1 else f'all {len(requests)} runs'} failed, for the "
            "reasons printed above, so there are no results. Lower the learning rate (--lr), or remove the settings "
            "that were stated."
        )
    if left_out:
        raise BadRequest(
            f"{', '.join(sorted({model for model, _ in left_out}))} could not be trained here, for the reasons "
            "printed above; the other runs are stored. Follow the advice there, or name other models."
        )
    return 0
