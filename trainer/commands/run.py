"""`run`: train one cell of the comparison, or read it from the store. Here is also what commands that train share."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.data.dataset import Dataset, load_dataset
from core.data.image_cache import Progress
from core.data.preprocessing import preparation
from core.errors import BadRequest
from core.metrics import METRICS
from core.paths import pick_device
from core.runs import RunMeta, as_stored, open_store, read_predictions, read_run
from trainer.commands.data import asked_for
from trainer.flags import add_data, add_external, add_settings, add_training, seeds, sizes
from trainer.flags import asked as asked_of
from trainer.progress import print_status, progress_bar
from trainer.reporting.document_tables import print_runs
from trainer.training import run_cell
from trainer.training.added_predictions import complete_external
from trainer.training.external import with_external
from trainer.training.run_plan import RunPlan, plan_run
from trainer.training.settings import Cell


@dataclass(frozen=True)
class Request:
    """A cell with the settings in which it departs from its strategy's own."""

    cell: Cell
    options: dict[str, Any]

    @property
    def title(self) -> str:
        """For progress lines."""
        stated = ", ".join(f"{name} {value}" for name, value in self.options.items() if value)
        return f"{self.cell.title} {stated}".strip()


def dataset_of(arguments: argparse.Namespace) -> Dataset:
    """Load the data set of the flags and print what a user should know about it."""
    spec = asked_for(arguments)
    if spec.corpus_only:
        raise BadRequest(f"{spec.name} serves for pretraining only: {spec.corpus_only}.")
    with progress_bar(f"{spec.name}: reading") as show:
        dataset = load_dataset(spec, show, arguments.allow_leaks)
    for name, why in dataset.unreadable.items():
        print_status(f"{spec.name}: left out: {name}: {why}")
    for note in dataset.parts.notes:
        print_status(f"{spec.name}: {note}")
    if spec.positive is not None:
        print_status(f"{spec.name}: the positive class is {dataset.labels[spec.positive]!r}")
    return dataset


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_data(parser)
    parser.add_argument("--model", required=True, help="a model's name, or weights by path: FAMILY:ARCHITECTURE@PATH")
    parser.add_argument("--strategy", required=True)
    parser.add_argument("--size", type=sizes, required=True, help="labelled images a class, or full")
    parser.add_argument("--seed", type=seeds, default=[0])
    parser.add_argument("--again", action="store_true", help="train anew and compare with the stored run")
    add_training(parser)
    add_external(parser)
    add_settings(parser)
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """`run`."""
    if len(arguments.size) != 1 or len(arguments.seed) != 1:
        raise BadRequest("run takes one size and one seed; use curve for several.")
    dataset = with_external(dataset_of(arguments), arguments)
    cell = Cell(dataset.spec.name, arguments.model, arguments.strategy, arguments.size[0], arguments.seed[0])
    asked = Request(cell, asked_of(arguments))
    prepared = plan_run(cell, dataset, asked.options)
    store = open_store()
    stored = {folder.name: folder for folder in (*store.runs, *store.failed)}.get(prepared.meta.run)
    device = pick_device(arguments.device)
    if stored and not arguments.again:
        if arguments.external:
            with progress_bar(asked.title, "step") as show:
                complete_external(stored, prepared, dataset, bank_of(prepared, dataset), device, show)
        return _tell(read_run(stored), arguments.json)
    bank = bank_of(prepared, dataset)
    with progress_bar(asked.title, "step") as show:
        if stored:
            return _compare(prepared, dataset, bank, stored, device, show, arguments.json)
        folder = run_cell.run_cell(prepared, dataset, bank, "all", device, progress=show)
    return _tell(read_run(folder), arguments.json)


def _tell(meta: RunMeta, as_json: bool) -> int:
    """Prints a run; one whose training failed is a "no"."""
    if meta.failed:
        print_status(f"failed: {meta.run}: {meta.failed}")
        return 1
    print_runs([meta], as_json)
    return 0


def bank_of(prepared: RunPlan, dataset: Dataset) -> np.ndarray:
    """The images of a data set as a cell's model takes them; decoded first where they are not yet."""
    size, steps = prepared.spec.image.size, preparation(prepared.settings.preparation).for_encoder(prepared.spec.image)
    with progress_bar(f"{dataset.spec.name}: decoding at {size} px") as show:
        return dataset.bank(size, show, steps).images


def _compare(
    prepared: RunPlan,
    dataset: Dataset,
    bank: np.ndarray,
    stored: Path,
    device: torch.device,
    show: Progress,
    as_json: bool,
) -> int:
    with tempfile.TemporaryDirectory() as aside:
        again = run_cell.run_cell(prepared, dataset, bank, "none", device, Path(aside), show)
        meta, before = read_run(again), read_run(stored)
        sides = [as_stored(read_predictions(one).logits, meta.multilabel) for one in (again, stored)]
        moved = np.abs(sides[0] - sides[1]).max()
        print_runs([meta], as_json)
    worst = max(METRICS, key=lambda name: abs(meta.metrics[name] - before.metrics[name]))
    changed = abs(meta.metrics[worst] - before.metrics[worst])
    print_status(f"Against the stored run: largest change of a metric {changed:.6f} ({worst}), of a logit {moved:.6f}.")
    return 0 if changed < 0.005 else 1
