"""The commands that train: `run` one cell, `curve` over sizes and seeds, `ablate` over combinations of settings."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from core.checkpoints import RunMeta, open_store, read_predictions, read_run
from core.data.banks import Progress
from core.data.dataset import Dataset, load_dataset
from core.data.own import own_images
from core.data.preprocessing import preparation
from core.data.specs import find_dataset
from core.errors import BadRequest, LowshotError, WeightsUnavailable
from core.metrics import METRICS
from core.models import MODELS
from core.models.sources import weights_of
from core.results import difference
from core.runtime import pick_device
from trainer import sweep
from trainer.ablations import combinations_of
from trainer.cells import Prepared, pairs_that_go, prepare, unfit
from trainer.config import Cell
from trainer.progress import bar, say
from trainer.tables import print_runs

SHOWN = ("auroc", "balanced_accuracy")


@dataclass(frozen=True)
class Asked:
    """A cell with the settings in which it departs from its strategy's own."""

    cell: Cell
    options: dict[str, str]

    @property
    def title(self) -> str:
        """For progress lines."""
        stated = ", ".join(f"{name} {value}" for name, value in self.options.items() if value)
        return f"{self.cell.title} {stated}".strip()


def dataset_of(arguments: argparse.Namespace) -> Dataset:
    """The data set that is asked for, with what is to be known about it said."""
    spec = own_images(arguments.folder) if arguments.folder else find_dataset(arguments.dataset)
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


def _options(arguments: argparse.Namespace) -> dict[str, str]:
    return {name: getattr(arguments, name) or "" for name in ("augment", "preparation", "imbalance")}


def run(arguments: argparse.Namespace) -> int:
    """`run`."""
    if len(arguments.size) != 1 or len(arguments.seed) != 1:
        raise BadRequest("run takes one size and one seed; use curve for several.")
    dataset = dataset_of(arguments)
    cell = Cell(dataset.spec.name, arguments.model, arguments.strategy, arguments.size[0], arguments.seed[0])
    asked = Asked(cell, _options(arguments))
    prepared = prepare(cell, dataset, asked.options)
    stored = open_store().folder_of(prepared.meta.run)
    if stored and not arguments.again:
        print_runs([read_run(stored)], arguments.json)
        return 0
    device = pick_device(arguments.device)
    bank = _bank(prepared, dataset)
    with bar(asked.title, "step") as show:
        if stored:
            return _compare(prepared, dataset, bank, stored, device, show, arguments.json)
        folder = sweep.run_cell(prepared, dataset, bank, "all", device, progress=show)
    print_runs([read_run(folder)], arguments.json)
    return 0


def _bank(prepared: Prepared, dataset: Dataset) -> np.ndarray:
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
        again = sweep.run_cell(prepared, dataset, bank, "none", device, Path(aside), show)
        meta, before = read_run(again), read_run(stored)
        moved = np.abs(read_predictions(again).logits - read_predictions(stored).logits).max()
        print_runs([meta], as_json)
    worst = max(METRICS, key=lambda name: abs(meta.metrics[name] - before.metrics[name]))
    changed = abs(meta.metrics[worst] - before.metrics[worst])
    say(f"Against the stored run: largest change of a metric {changed:.6f} ({worst}), of a logit {moved:.6f}.")
    return 0 if changed < 0.005 else 1


def _pairs(models: list[str] | None, strategies: list[str]) -> list[tuple[str, str]]:
    pairs, skipped = pairs_that_go(models or list(MODELS), strategies)
    for model, strategy in skipped if models else []:
        say(f"skipped: {model} does not go with {strategy}")
    if not pairs:
        raise BadRequest("None of these models goes with any of these strategies; see python -m trainer list.")
    return pairs


def _ready(pairs: list[tuple[str, str]], dataset: Dataset, every_model: bool) -> list[tuple[str, str]]:
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


def _answer(
    every: list[Asked], dataset: Dataset, arguments: argparse.Namespace, keep_weights: sweep.Keep
) -> Iterator[tuple[Asked, Path]]:
    """Trains what the store does not hold yet; a model and strategy that cannot go on are said and left out."""
    device = pick_device(arguments.device)
    folders = {folder.name: folder for folder in open_store().runs}
    failed = set()
    seeds, sizes = sorted({row.cell.seed for row in every}), list({row.cell.train_size: 0 for row in every})
    with bar(arguments.command, "run") as show:
        for done, asked in enumerate(every):
            show(done, len(every))
            cell = asked.cell
            if (cell.model, cell.strategy) in failed:
                continue
            try:
                prepared = prepare(cell, dataset, asked.options)
                folder = folders.get(prepared.meta.run)
                if folder is None:
                    bank = _bank(prepared, dataset)
                    keep = sweep.what_to_keep(keep_weights, cell, seeds, sizes)
                    with bar(asked.title, "step") as steps:
                        folder = sweep.run_cell(prepared, dataset, bank, keep, device, progress=steps)
                    folders[folder.name] = folder
            except LowshotError as error:
                failed.add((cell.model, cell.strategy))
                say(f"stopped: {asked.title}: {error} The rest of it is left out.")
                continue
            yield asked, folder
        show(len(every), len(every))


def curve(arguments: argparse.Namespace) -> int:
    """`curve`."""
    pairs = _pairs(arguments.models, arguments.strategies)
    dataset = dataset_of(arguments)
    pairs = _ready(pairs, dataset, arguments.models is None)
    every = [
        Asked(Cell(dataset.spec.name, model, strategy, size, seed), _options(arguments))
        for model, strategy in pairs
        for size in arguments.sizes
        for seed in arguments.seeds
    ]
    answered = 0
    for _, folder in _answer(every, dataset, arguments, arguments.keep_weights):
        answered += 1
        print_runs([read_run(folder)], arguments.json)
    return 0 if answered else 2


def ablate(arguments: argparse.Namespace) -> int:
    """`ablate`: the comparison of combinations, each against none of its ingredients, on the same subsets."""
    combinations = combinations_of(arguments.of, arguments.orders)
    pairs = _pairs(arguments.models, arguments.strategies)
    dataset = dataset_of(arguments)
    pairs = _ready(pairs, dataset, arguments.models is None)
    for model, strategy in pairs:
        for size in arguments.sizes:
            every = [
                Asked(
                    Cell(dataset.spec.name, model, strategy, size, seed),
                    {**combination.options, "imbalance": arguments.imbalance or ""},
                )
                for combination in combinations
                for seed in arguments.seeds
            ]
            found: dict[int, list[tuple[Path, RunMeta]]] = {}
            for place, (_, folder) in enumerate(_answer(every, dataset, arguments, "none")):
                found.setdefault(place // len(arguments.seeds), []).append((folder, read_run(folder)))
            if len(found) < len(combinations):
                return 2
            for index, combination in enumerate(combinations):
                _print_ablation(found[index], found[0], combination.title, arguments.json)
    return 0


def _print_ablation(
    runs: list[tuple[Path, RunMeta]], baseline: list[tuple[Path, RunMeta]], title: str, as_json: bool
) -> None:
    """One combination: mean over seeds, and the difference from the baseline with its interval over test images."""
    meta = runs[0][1]
    values = {name: float(np.mean([one.metrics[name] for _, one in runs])) for name in METRICS}
    against = {} if runs is baseline else difference(runs, baseline, SHOWN)
    if as_json:
        row = {
            "dataset": meta.dataset, "model": meta.model, "strategy": meta.strategy, "train_size": meta.train_size,
            "seeds": [one.seed for _, one in runs], "combination": title, "variant": meta.variant, "metrics": values,
            "difference": {name: [e.value, e.low, e.high] for name, e in against.items()},
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        return
    figures = []
    for name in SHOWN:
        change = f" ({e.value:+.3f}, {e.low:+.3f} to {e.high:+.3f})" if (e := against.get(name)) else ""
        figures.append(f"{METRICS[name].title} {values[name]:.3f}{change}")
    print(f"{meta.model} {meta.strategy}  n={meta.train_size or 'full'}  {title:42} {'  '.join(figures)}", flush=True)
