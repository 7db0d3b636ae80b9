"""The commands that train: `run` one cell, `curve` over sizes and seeds. `ablate` is in `trainer.commands.ablate`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.data.dataset import Dataset, load_dataset
from core.data.image_cache import Progress
from core.data.preprocessing import preparation
from core.errors import BadRequest, LowshotError, WeightsUnavailable
from core.metrics import METRICS
from core.models import MODELS
from core.models.weights import weights_of
from core.paths import pick_device
from core.runs import RunMeta, as_stored, open_store, read_predictions, read_run
from trainer.commands.data import asked_for
from trainer.flags import asked as asked_of
from trainer.progress import bar, say, tell
from trainer.reporting.document_tables import print_runs
from trainer.training import run_cell
from trainer.training.completion import complete_external
from trainer.training.external import with_external
from trainer.training.run_plan import Prepared, pairs_that_go, prepare, unfit
from trainer.training.settings import Cell


@dataclass(frozen=True)
class Asked:
    """A cell with the settings in which it departs from its strategy's own."""

    cell: Cell
    options: dict[str, Any]

    @property
    def title(self) -> str:
        """For progress lines."""
        stated = ", ".join(f"{name} {value}" for name, value in self.options.items() if value)
        return f"{self.cell.title} {stated}".strip()


def dataset_of(arguments: argparse.Namespace) -> Dataset:
    """The data set that is asked for, with what is to be known about it said."""
    spec = asked_for(arguments)
    if spec.corpus_only:
        raise BadRequest(f"{spec.name} serves for pretraining only: {spec.corpus_only}.")
    with bar(f"{spec.name}: reading") as show:
        dataset = load_dataset(spec, show, arguments.allow_leaks)
    for name, why in dataset.unreadable.items():
        say(f"{spec.name}: left out: {name}: {why}")
    for note in dataset.parts.notes:
        say(f"{spec.name}: {note}")
    if spec.positive is not None:
        say(f"{spec.name}: the positive class is {dataset.labels[spec.positive]!r}")
    return dataset


def run(arguments: argparse.Namespace) -> int:
    """`run`."""
    if len(arguments.size) != 1 or len(arguments.seed) != 1:
        raise BadRequest("run takes one size and one seed; use curve for several.")
    dataset = with_external(dataset_of(arguments), arguments)
    cell = Cell(dataset.spec.name, arguments.model, arguments.strategy, arguments.size[0], arguments.seed[0])
    asked = Asked(cell, asked_of(arguments))
    prepared = prepare(cell, dataset, asked.options)
    store = open_store()
    stored = {folder.name: folder for folder in (*store.runs, *store.failed)}.get(prepared.meta.run)
    device = pick_device(arguments.device)
    if stored and not arguments.again:
        if arguments.external:
            with bar(asked.title, "step") as show:
                complete_external(stored, prepared, dataset, bank_of(prepared, dataset), device, show)
        return _tell(read_run(stored), arguments.json)
    bank = bank_of(prepared, dataset)
    with bar(asked.title, "step") as show:
        if stored:
            return _compare(prepared, dataset, bank, stored, device, show, arguments.json)
        folder = run_cell.run_cell(prepared, dataset, bank, "all", device, progress=show)
    return _tell(read_run(folder), arguments.json)


def _tell(meta: RunMeta, as_json: bool) -> int:
    """Prints a run; one whose training failed is a "no"."""
    if meta.failed:
        say(f"failed: {meta.run}: {meta.failed}")
        return 1
    print_runs([meta], as_json)
    return 0


def bank_of(prepared: Prepared, dataset: Dataset) -> np.ndarray:
    """The images of a data set as a cell's model takes them; decoded first where they are not yet."""
    size, steps = prepared.spec.image.size, preparation(prepared.settings.preparation).for_encoder(prepared.spec.image)
    with bar(f"{dataset.spec.name}: decoding at {size} px") as show:
        return dataset.bank(size, show, steps).images


def _compare(
    prepared: Prepared,
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
    say(f"Against the stored run: largest change of a metric {changed:.6f} ({worst}), of a logit {moved:.6f}.")
    return 0 if changed < 0.005 else 1


def pairs_of(models: list[str] | None, strategies: list[str]) -> list[tuple[str, str]]:
    """The models and strategies that are asked for and go together; those that do not are said."""
    pairs, skipped = pairs_that_go(models or list(MODELS), strategies)
    for model, strategy in skipped if models else []:
        say(f"skipped: {model} does not go with {strategy}")
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
        if why := unfit(MODELS[model], dataset):
            left_out[model] = "" if every_model else why
            continue
        try:
            weights_of(MODELS[model], dataset.spec.name)
        except WeightsUnavailable as error:
            left_out[model] = str(error)
    for model, why in left_out.items():
        if why:
            say(f"left out: {model}: {why}")
    found = [(model, strategy) for model, strategy in pairs if model not in left_out]
    if not found:
        raise BadRequest(
            f"None of these models can be trained on {dataset.spec.name} here; see python -m trainer list."
        )
    return found


def answers(
    every: list[Asked],
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
    with bar(arguments.command, "run") as show:
        for place, asked in enumerate(every):
            show(place, len(every))
            cell = asked.cell
            if (cell.model, cell.strategy) in stopped:
                continue
            try:
                prepared = prepare(cell, dataset, asked.options)
                folder = folders.get(prepared.meta.run)
                is_new = folder is None
                if folder is None:
                    bank = bank_of(prepared, dataset)
                    keep = run_cell.what_to_keep(keep_weights, cell, seeds, sizes)
                    with bar(asked.title, "step") as steps:
                        folder = run_cell.run_cell(prepared, dataset, bank, keep, device, progress=steps)
                    folders[folder.name] = folder
                elif complete:
                    with bar(asked.title, "step") as steps:
                        complete_external(folder, prepared, dataset, bank_of(prepared, dataset), device, steps)
            except LowshotError as error:
                stopped[cell.model, cell.strategy] = f"{asked.title}: {error}"
                say(f"stopped: {asked.title}: {error} The rest of it is left out.")
                continue
            meta = read_run(folder)
            _tell_run(asked.title, meta, is_new)
            if meta.failed:
                say(f"failed: {asked.title}: {meta.failed}")
            else:
                yield place, folder, meta
        show(len(every), len(every))


def _tell_run(title: str, meta: RunMeta, is_new: bool) -> None:
    """Tells who follows of a run: what it is, whether it was trained just now, and how good it is."""
    metrics = {METRICS[name].title: round(meta.metrics[name], 4) for name in ("auroc", "balanced_accuracy")}
    tell(
        "run", title=title, run=meta.run, trained=is_new, seconds=meta.seconds, failed=meta.failed, metrics=metrics,
        model=meta.model, strategy=meta.strategy, train_size=meta.train_size, seed=meta.seed,
    )  # fmt: skip


def curve(arguments: argparse.Namespace) -> int:
    """`curve`.

    Raises:
        BadRequest: once all else is trained, if a model and strategy could not go on, or every training failed.
    """
    pairs = pairs_of(arguments.models, arguments.strategies)
    dataset, options = with_external(dataset_of(arguments), arguments), asked_of(arguments)
    pairs = ready(pairs, dataset, arguments.models is None)
    every = [
        Asked(Cell(dataset.spec.name, model, strategy, size, seed), options)
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
