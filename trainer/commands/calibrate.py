"""The command `calibrate`: gives runs that were stored without them the answers for conformal calibration.

A run that keeps weights is asked by them. Another keeps no state from which it could answer anew as it did, so it is
trained again. In both cases its test answers must come out as they are stored. Nothing else of the run changes: not its
name, not a number.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from core.data.dataset import Dataset
from core.errors import BadRequest, LowshotError
from core.paths import pick_device
from core.runs import Predictions, RunMeta, add_part, open_store, read_predictions, stored_parts
from core.types import EvaluatedPart
from trainer.commands.run import bank_of, dataset_of
from trainer.flags import add_data, names
from trainer.progress import print_status, progress_bar
from trainer.training import run_cell
from trainer.training.added_predictions import check_same
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell

PART: EvaluatedPart = "calibration"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_data(parser)
    parser.add_argument("--models", type=names, default=None, help="joined by commas (default: all)")
    parser.add_argument("--strategies", type=names, default=None, help="joined by commas (default: all)")
    parser.set_defaults(allow_leaks=False, device="auto")
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """`calibrate`: 1 if a run could not be made again."""
    dataset, store = dataset_of(arguments), open_store()
    lacking = [
        (folder, meta)
        for folder, meta in store.runs.items()
        if meta.dataset == dataset.spec.name
        and meta.model in (arguments.models or (meta.model,))
        and meta.strategy in (arguments.strategies or (meta.strategy,))
        and not meta.variant
        and not meta.leaks
        and PART not in stored_parts(folder)
    ]
    device, refused = pick_device(arguments.device), 0
    with progress_bar("calibrate", "run") as show:
        for place, (folder, meta) in enumerate(lacking):
            show(place, len(lacking))
            try:
                _add(folder, meta, dataset, device)
                print(f"{meta.run}: added", flush=True)
            except LowshotError as error:
                refused += 1
                print(f"{meta.run}: left as it is: {error}", flush=True)
        show(len(lacking), len(lacking))
    print_status(f"{len(lacking) - refused} of {len(lacking)} runs without calibration images have them now.")
    return int(refused > 0)


def _add(folder: Path, meta: RunMeta, dataset: Dataset, device: torch.device) -> None:
    """Asks a run again, compares, and adds what it answers for the validation part.

    Raises:
        BadRequest: if the run cannot be asked again, or its test answers come out otherwise.
    """
    ask = _by_its_weights if meta.has_weights else _trained_again
    anew, calibration = ask(folder, meta, dataset, device)
    check_same(meta, read_predictions(folder), anew)
    add_part(folder, calibration)


def _by_its_weights(
    folder: Path, meta: RunMeta, dataset: Dataset, device: torch.device
) -> tuple[Predictions, Predictions]:
    listing, found = dataset.listing, []
    asked: tuple[tuple[EvaluatedPart, np.ndarray], ...] = (("test", dataset.parts.test), (PART, dataset.calibration))
    for part, rows in asked:
        logits = run_cell.predict_with_stored_weights(folder, meta, dataset, rows, device, None)
        found.append(Predictions(listing.ids[rows], dataset.parts.groups[rows], listing.labels[rows], logits, part))
    return found[0], found[1]


def _trained_again(
    folder: Path, meta: RunMeta, dataset: Dataset, device: torch.device
) -> tuple[Predictions, Predictions]:
    prepared = plan_run(Cell(meta.dataset, meta.model, meta.strategy, meta.train_size, meta.seed), dataset)
    if prepared.meta.run != meta.run:
        raise BadRequest(f"The images, settings or weights that are here now make another run, {prepared.meta.run}.")
    with tempfile.TemporaryDirectory() as aside, progress_bar(meta.run, "step") as show:
        again = run_cell.run_cell(prepared, dataset, bank_of(prepared, dataset), "none", device, Path(aside), show)
        return read_predictions(again), read_predictions(again, PART)
