"""`curve`: learning curves over models, strategies, sizes and seeds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from core.data.dataset import Dataset
from core.errors import BadRequest, LowshotError, WeightsUnavailable
from core.metrics import METRICS
from core.models import MODELS
from core.models.weights import weights_of
from core.paths import pick_device
from core.runs import RunMeta, open_store, read_run
from trainer.commands.run import Request, bank_of, dataset_of
from trainer.flags import DEFAULT_SEEDS, add_data, add_external, add_settings, add_training, names, seeds, sizes
from trainer.flags import asked as asked_of
from trainer.progress import print_status, progress_bar, write_event
from trainer.reporting.document_tables import print_runs
from trainer.training import run_cell
from trainer.training.added_predictions import complete_external
from trainer.training.external import with_external
from trainer.training.run_plan import compatible_pairs, incompatibility, plan_run
from trainer.training.settings import Cell

DEFAULT_SIZES = "10,25,50,100,200"


def pairs_of(models: list[str] | None, strategies: list[str]) -> list[tuple[str, str]]:
    """The models and strategies that are asked for and go together; those that do not are said."""
    pairs, skipped = compatible_pairs(models or list(MODELS), strategies)
    for model, strategy in skipped if models else []:
        print_status(f"skipped: {model} does not go with {strategy}")
    if not pairs:
        raise BadRequest("None of these models goes with any of these strategies; see python -m trainer list.")
    return pairs


def ready(pairs: list[tuple[str, str]], dataset: Dataset, every_model: bool) -> list[tuple[str, str]]:
    """The pairs whose model takes these images and whose weights are here; what is left out is said, a line a model.

    Args:
        pairs: models and strategies that go together.
        dataset: what they are to learn.
        every_model: all models were meant, so that those of the other dimension are left out without a word.
    Raises:
        BadRequest: if none is left.
    """
    left_out = {}
    for model in dict.fromkeys(model for model, _ in pairs):
        if why := incompatibility(MODELS[model], dataset):
            left_out[model] = "" if every_model else why
            continue
        try:
            weights_of(MODELS[model], dataset.spec.name)
        except WeightsUnavailable as error:
            left_out[model] = str(error)
    for model, why in left_out.items():
        if why:
            print_status(f"left out: {model}: {why}")
    found = [(model, strategy) for model, strategy in pairs if model not in left_out]
    if not found:
        raise BadRequest(
            f"None of these models can be trained on {dataset.spec.name} here; see python -m trainer list."
        )
    return found


def answers(
    every: list[Request],
    dataset: Dataset,
    arguments: argparse.Namespace,
    keep_weights: run_cell.Keep,
    stopped: dict[tuple[str, str], str],
    complete: bool = False,
) -> Iterator[tuple[int, Path, RunMeta]]:
    """Trains what the store does not hold yet: the place in the list, the run's folder and its record.

    A run whose training failed is said and left out.

    Args:
        every: the cells, in the order in which they are trained.
        dataset: what they learn.
        arguments: of the command.
        keep_weights: of which runs.
        stopped: takes the models and strategies that cannot go on, the rest of which is left out, with where and why.
        complete: evaluate stored runs on the external test sets that they lack.
    """
    device = pick_device(arguments.device)
    store = open_store()
    folders = {folder.name: folder for folder in (*store.runs, *store.failed)}
    seeds, sizes = sorted({row.cell.seed for row in every}), list({row.cell.train_size: 0 for row in every})
    with progress_bar(arguments.command, "run") as show:
        for place, asked in enumerate(every):
            show(place, len(every))
            cell = asked.cell
            if (cell.model, cell.strategy) in stopped:
                continue
            try:
                prepared = plan_run(cell, dataset, asked.options)
                folder = folders.get(prepared.meta.run)
                is_new = folder is None
                if folder is None:
                    bank = bank_of(prepared, dataset)
                    keep = run_cell.resolve_keep(keep_weights, cell, seeds, sizes)
                    with progress_bar(asked.title, "step") as steps:
                        folder = run_cell.run_cell(prepared, dataset, bank, keep, device, progress=steps)
                    folders[folder.name] = folder
                elif complete:
                    with progress_bar(asked.title, "step") as steps:
                        complete_external(folder, prepared, dataset, bank_of(prepared, dataset), device, steps)
            except LowshotError as error:
                stopped[cell.model, cell.strategy] = f"{asked.title}: {error}"
                print_status(f"stopped: {asked.title}: {error} The rest of it is left out.")
                continue
            meta = read_run(folder)
            _tell_run(asked.title, meta, is_new)
            if meta.failed:
                print_status(f"failed: {asked.title}: {meta.failed}")
            else:
                yield place, folder, meta
        show(len(every), len(every))


def _tell_run(title: str, meta: RunMeta, is_new: bool) -> None:
    """Tells who follows of a run: what it is, whether it was trained just now, and how good it is."""
    metrics = {METRICS[name].title: round(meta.metrics[name], 4) for name in ("auroc", "balanced_accuracy")}
    write_event(
        "run", title=title, run=meta.run, trained=is_new, seconds=meta.seconds, failed=meta.failed, metrics=metrics,
        model=meta.model, strategy=meta.strategy, train_size=meta.train_size, seed=meta.seed,
    )  # fmt: skip


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_data(parser)
    parser.add_argument("--models", type=names, default=None, help="joined by commas (default: all)")
    parser.add_argument("--strategies", type=names, default=["scratch", "frozen"], help="(default: scratch,frozen)")
    parser.add_argument("--sizes", type=sizes, default=sizes(DEFAULT_SIZES), help=f"(default: {DEFAULT_SIZES})")
    parser.add_argument("--seeds", type=seeds, default=seeds(DEFAULT_SEEDS), help=f"(default: {DEFAULT_SEEDS})")
    parser.add_argument("--keep-weights", choices=("served", "all", "none"), default="served")
    add_training(parser)
    add_external(parser)
    add_settings(parser)
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """`curve`.

    Raises:
        BadRequest: once all else is trained, if a model and strategy could not go on, or every training failed.
    """
    pairs = pairs_of(arguments.models, arguments.strategies)
    dataset, options = with_external(dataset_of(arguments), arguments), asked_of(arguments)
    pairs = ready(pairs, dataset, arguments.models is None)
    every = [
        Request(Cell(dataset.spec.name, model, strategy, size, seed), options)
        for model, strategy in pairs
        for size in arguments.sizes
        for seed in arguments.seeds
    ]
    answered, stopped = 0, dict[tuple[str, str], str]()
    for _, _, meta in answers(every, dataset, arguments, arguments.keep_weights, stopped, bool(arguments.external)):
        answered += 1
        print_runs([meta], arguments.json)
    if stopped:
        raise BadRequest(
            f"{len(stopped)} of {len(pairs)} pairs of model and strategy could not go on, and the rest of them is left "
            f"out; finished runs are kept. {' '.join(stopped.values())}"
        )
    if not answered:
        raise BadRequest(
            f"The training of {'the run' if len(every) == 1 else f'all {len(every)} runs'} failed, and there are no "
            "results; why is said of each above. Lower the learning rate (--lr), or remove the settings that were "
            "stated."
        )
    return 0
