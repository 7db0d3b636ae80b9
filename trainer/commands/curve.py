"""`curve`: learning curves over models, strategies, sizes and seeds; by default a short study of own images."""

import argparse

from core.errors import BadRequest
from core.jobs.own_study import STUDY_MODELS, STUDY_SEEDS, STUDY_STRATEGIES, study_sizes
from core.paths import pick_device
from trainer import flags
from trainer.commands.image_check import store_image_check
from trainer.progress import print_status
from trainer.reporting.run_lines import print_runs
from trainer.training.external import with_external
from trainer.training.ray_engine import open_engine
from trainer.training.settings import Cell
from trainer.training.sweep import RunRequest, available_pairs, compatible_pairs, load_for_training, run_sweep

STRATEGIES, SIZES, SEEDS = ("scratch", "frozen"), (10, 25, 50, 100, 200), (0, 1, 2, 3, 4)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    flags.add_data(parser)
    own = "; with --folder: "
    parser.add_argument(
        "--models", type=flags.names, default=None, help=f"joined by commas (default: all{own}{','.join(STUDY_MODELS)})"
    )
    parser.add_argument(
        "--strategies", type=flags.names, default=None,
        help=f"(default: {','.join(STRATEGIES)}{own}{','.join(STUDY_STRATEGIES)})",
    )  # fmt: skip
    parser.add_argument(
        "--sizes", type=flags.sizes, default=None,
        help=f"(default: {','.join(map(str, SIZES))}{own}sizes up to the images of the smallest class)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=flags.seeds, default=None,
        help=f"(default: {','.join(map(str, SEEDS))}{own}{','.join(map(str, STUDY_SEEDS))})",
    )  # fmt: skip
    parser.add_argument("--image-check", action="store_true", help="also make the image check of the Diagnose page")
    parser.add_argument("--keep-weights", choices=("served", "all", "none"), default="served")
    flags.add_training(parser)
    flags.add_engine(parser)
    flags.add_external(parser)
    flags.add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train the runs that the store lacks, and print all.

    Raises:
        BadRequest: at the end, if a model that was named is not available, a model and strategy could not continue, or
            every training failed.
    """
    # Train the short study on images of one's own, else the whole comparison, where nothing else is stated
    own = bool(arguments.folder)
    models = arguments.models or (STUDY_MODELS if own else None)
    pairs = compatible_pairs(models, arguments.strategies or (STUDY_STRATEGIES if own else STRATEGIES))
    dataset = load_for_training(flags.requested_dataset(arguments), arguments.allow_leaks)
    sizes = arguments.sizes or (study_sizes(dataset) if own else SIZES)
    dataset = with_external(dataset, arguments.external, arguments.external_classes)
    options = flags.stated_settings(arguments)

    # Leave out models that cannot be trained here; if they were named, say so at the end
    available = available_pairs(pairs, dataset, arguments.models is None)
    left_out = [] if arguments.models is None else [pair for pair in pairs if pair not in available]
    requests = [
        RunRequest(Cell(dataset.spec.name, model, strategy, size, seed), options)
        for model, strategy in available
        for size in sizes
        for seed in arguments.seeds or (STUDY_SEEDS if own else SEEDS)
    ]

    # Train what the store lacks, and print each run as it finishes
    count, failures = 0, dict[tuple[str, str], str]()
    with open_engine(arguments) as engine:
        for _, _, meta in run_sweep(
            requests, dataset, engine, "curve", failures, arguments.keep_weights, bool(arguments.external)
        ):
            count += 1
            print_runs([meta], arguments.json)
    if arguments.image_check and count:
        try:
            store_image_check(dataset, pick_device(arguments.device))
        except BadRequest as error:
            print_status(f"no image check: {error}")

    # Finished runs are stored by now, whatever failed
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
