"""`run`: train one cell of the comparison, or read it from the store."""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from core.data.dataset import Dataset
from core.data.image_cache import Progress
from core.errors import BadRequest
from core.metrics import METRICS
from core.paths import pick_device
from core.runs import Run, RunMeta, as_stored, read_predictions
from trainer import flags
from trainer.progress import locked_in_turn, print_status, progress_bar
from trainer.reporting.run_lines import print_runs
from trainer.training.added_predictions import complete_external
from trainer.training.external import with_external
from trainer.training.run_cell import run_cell
from trainer.training.run_plan import RunPlan, plan_run
from trainer.training.settings import Cell
from trainer.training.sweep import RunRequest, folder_of, load_for_training, stored_run

MAX_CHANGE = 0.005  # of a metric when a run is trained again


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    flags.add_data(parser)
    parser.add_argument("--model", required=True, help="a model's name, or weights by path: FAMILY:ARCHITECTURE@PATH")
    parser.add_argument("--strategy", required=True)
    parser.add_argument("--size", type=flags.sizes, required=True, help="labeled images per class, or full")
    parser.add_argument("--seed", type=flags.seeds, default=[0])
    parser.add_argument("--again", action="store_true", help="train again and compare with the stored run")
    flags.add_training(parser)
    flags.add_external(parser)
    flags.add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train or read a run; return 1 if its training failed, or if training again changed its metrics."""
    if len(arguments.size) != 1 or len(arguments.seed) != 1:
        raise BadRequest("run takes one size and one seed; use curve for several.")
    dataset = load_for_training(flags.requested_dataset(arguments), arguments.allow_leaks)
    dataset = with_external(dataset, arguments.external, arguments.external_classes)
    cell = Cell(dataset.spec.name, arguments.model, arguments.strategy, arguments.size[0], arguments.seed[0])
    request = RunRequest(cell, flags.stated_settings(arguments))
    plan, device = plan_run(cell, dataset, request.options), pick_device(arguments.device)
    with locked_in_turn(folder_of(plan), request.title), progress_bar(request.title, "step") as show:
        stored = stored_run(plan)
        if stored and arguments.again:
            return _compare(stored, plan, dataset, device, show, arguments.json)
        if stored is None:
            _, meta = run_cell(plan, dataset, "all", device, progress=show)
        elif arguments.external:
            _, meta = complete_external(stored, plan, dataset, device, show)
        else:
            _, meta = stored
    if meta.failed:
        print_status(f"failed: {meta.run}: {meta.failed}")
        return 1
    print_runs([meta], arguments.json)
    return 0


def _compare(stored: Run, plan: RunPlan, dataset: Dataset, device: torch.device, show: Progress, as_json: bool) -> int:
    """Train a stored run again in a temporary folder, and print how far metrics and logits moved."""
    with tempfile.TemporaryDirectory() as temporary:
        again: tuple[Path, RunMeta] = run_cell(plan, dataset, "none", device, Path(temporary), show)
        logits = [as_stored(read_predictions(folder).logits, meta.multilabel) for folder, meta in (again, stored)]
    (_, after), (_, before) = again, stored
    print_runs([after], as_json)
    worst = max(METRICS, key=lambda name: abs(after.metrics[name] - before.metrics[name]))
    change = abs(after.metrics[worst] - before.metrics[worst])
    print_status(
        f"Against the stored run: largest change of a metric {change:.6f} ({worst}), of a logit "
        f"{np.abs(logits[0] - logits[1]).max():.6f}."
    )
    return 0 if change < MAX_CHANGE else 1
