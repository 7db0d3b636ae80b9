"""`calibrate`: add predictions for conformal calibration to runs that were stored without them.

Runs with saved weights are evaluated with them; runs without are trained again. In both cases the test predictions must
equal the stored ones. Nothing else in the run changes.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch

from core.data.dataset import Dataset
from core.errors import BadRequest, LowshotError
from core.paths import pick_device
from core.runs import Predictions, RunMeta, add_part, open_store, read_predictions, stored_parts
from core.types import EvaluatedPart
from trainer.flags import add_data, names, requested_dataset
from trainer.progress import print_status, progress_bar
from trainer.training import run_cell
from trainer.training.added_predictions import check_same
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell
from trainer.training.sweep import load_for_training

PART: EvaluatedPart = "calibration"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_data(parser)
    parser.add_argument("--models", type=names, default=None, help="joined by commas (default: all)")
    parser.add_argument("--strategies", type=names, default=None, help="joined by commas (default: all)")
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """Complete the runs; return 1 if one could not be reproduced."""
    dataset, store = load_for_training(requested_dataset(arguments)), open_store()
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
    device, refused = pick_device("auto"), 0
    with progress_bar("calibrate", "run") as show:
        for index, (folder, meta) in enumerate(lacking):
            show(index, len(lacking))
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
    """Reproduce the test predictions of a run and add its predictions for the calibration part.

    Raises:
        BadRequest: if the run cannot be reproduced, or its test predictions differ.
    """
    reproduce = _with_weights if meta.has_weights else _trained_again
    test, calibration = reproduce(folder, meta, dataset, device)
    check_same(meta, read_predictions(folder), test)
    add_part(folder, calibration)


def _with_weights(
    folder: Path, meta: RunMeta, dataset: Dataset, device: torch.device
) -> tuple[Predictions, Predictions]:
    predict = partial(run_cell.predict_with_stored_weights, folder, meta, dataset, device=device, progress=None)
    return predict("test"), predict(PART)


def _trained_again(
    folder: Path, meta: RunMeta, dataset: Dataset, device: torch.device
) -> tuple[Predictions, Predictions]:
    plan = plan_run(Cell(meta.dataset, meta.model, meta.strategy, meta.train_size, meta.seed), dataset)
    if plan.setup.run != meta.run:
        raise BadRequest(f"The images, settings or weights on this machine make another run, {plan.setup.run}.")
    with tempfile.TemporaryDirectory() as temporary, progress_bar(meta.run, "step") as show:
        again, _ = run_cell.run_cell(plan, dataset, "none", device, Path(temporary), show)
        return read_predictions(again), read_predictions(again, PART)
