"""What the commands of the command line do."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.checkpoints import RunMeta, open_store, read_predictions, read_run
from core.data import DATASETS
from core.data.audit import find_copies
from core.data.banks import Progress
from core.data.dataset import Dataset, load_dataset, scan
from core.data.own import own_images
from core.data.specs import family_of, find_dataset, is_present
from core.errors import BadRequest, CorruptRun, LowshotError
from core.metrics import METRICS, Scores, bootstrap
from core.metrics.calibration import probabilities_of
from core.models import MODELS
from core.results import by_series
from core.runtime import pick_device
from trainer.answers import find_run, predict
from trainer.datasets import data_get, data_list
from trainer.pretraining import pretrain
from trainer.progress import bar
from trainer.strategies import STRATEGIES
from trainer.sweep import Prepared
from trainer.tables import write_tables

ROW = ("dataset", "model", "family", "strategy", "train_size", "seed", "subset_hash", "metrics", "metrics_at_half")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def as_row(meta: RunMeta) -> dict[str, Any]:
    """A stored run as one JSON object."""
    return {**{name: getattr(meta, name) for name in ROW}, "run": meta.run, "threshold": meta.threshold}


def _print_runs(metas: list[RunMeta], as_json: bool) -> None:
    for meta in metas:
        if as_json:
            print(json.dumps(as_row(meta)), flush=True)
            continue
        shown = ("auroc", "balanced_accuracy", "accuracy", "sensitivity", "specificity")
        figures = "  ".join(f"{METRICS[name].title} {meta.metrics[name]:.3f}" for name in shown)
        short = f"  (too few images of {', '.join(meta.short)})" if meta.short else ""
        size = meta.train_size or "full"
        print(f"{meta.model} {meta.strategy}  n={size}  seed {meta.seed}  {figures}{short}", flush=True)


def list_all(arguments: argparse.Namespace) -> int:
    """`list`."""
    print("Data sets")
    for data in DATASETS.values():
        where = "generated" if data.synthetic else "present" if is_present(data) else "not on this machine"
        use = "corpus only" if data.corpus_only else data.task
        print(f"  {data.name:28} {use:12} {where:20} {data.title}; {data.licence}")
    print("Models")
    for model in MODELS.values():
        print(f"  {model.name:28} {model.family:12} {', '.join(model.strategies)}")
    print("Strategies")
    for strategy in STRATEGIES.values():
        print(f"  {strategy.name:28} {strategy.meaning}")
    return 0


def _dataset(arguments: argparse.Namespace) -> Dataset:
    spec = own_images(arguments.folder) if arguments.folder else find_dataset(arguments.dataset)
    if spec.corpus_only:
        raise BadRequest(f"{spec.name} serves for pretraining only: {spec.corpus_only}.")
    with bar(f"{spec.name}: reading") as show:
        dataset = load_dataset(spec, show)
    for name, why in dataset.unreadable.items():
        _say(f"{spec.name}: left out: {name}: {why}")
    for note in dataset.parts.notes:
        _say(f"{spec.name}: {note}")
    if spec.positive is not None:
        _say(f"{spec.name}: the positive class is {dataset.labels[spec.positive]!r}")
    return dataset


def run(arguments: argparse.Namespace) -> int:
    """`run`."""
    from trainer import sweep
    from trainer.config import Cell

    if len(arguments.size) != 1 or len(arguments.seed) != 1:
        raise BadRequest("run takes one size and one seed; use curve for several.")
    dataset = _dataset(arguments)
    cell = Cell(dataset.spec.name, arguments.model, arguments.strategy, arguments.size[0], arguments.seed[0])
    prepared = sweep.prepare(cell, dataset)
    stored = open_store().folder_of(prepared.meta.run)
    if stored and not arguments.again:
        _print_runs([read_run(stored)], arguments.json)
        return 0
    device = pick_device(arguments.device)
    with bar(f"{dataset.spec.name}: decoding") as show:
        bank = dataset.bank(prepared.spec.image.size, show).images
    with bar(cell.title, "step") as show:
        if stored:
            return _compare(prepared, dataset, bank, stored, device, show, arguments.json)
        folder = sweep.run_cell(prepared, dataset, bank, "all", device, progress=show)
    _print_runs([read_run(folder)], arguments.json)
    return 0


def _compare(
    prepared: Prepared,
    dataset: Dataset,
    bank: np.ndarray,
    stored: Path,
    device: torch.device,
    show: Progress,
    as_json: bool,
) -> int:
    import tempfile

    from trainer.sweep import run_cell

    with tempfile.TemporaryDirectory() as aside:
        again = run_cell(prepared, dataset, bank, "none", device, Path(aside), show)
        meta, before = read_run(again), read_run(stored)
        moved = np.abs(read_predictions(again).logits - read_predictions(stored).logits).max()
        _print_runs([meta], as_json)
    worst = max(METRICS, key=lambda name: abs(meta.metrics[name] - before.metrics[name]))
    difference = abs(meta.metrics[worst] - before.metrics[worst])
    _say(f"Against the stored run: largest change of a metric {difference:.6f} ({worst}), of a logit {moved:.6f}.")
    return 0 if difference < 0.005 else 1


def curve(arguments: argparse.Namespace) -> int:
    """`curve`."""
    from trainer import sweep
    from trainer.config import Cell

    models = arguments.models or list(MODELS)
    pairs, skipped = sweep.pairs_that_go(models, arguments.strategies)
    for model, strategy in skipped:
        _say(f"skipped: {model} does not go with {strategy}")
    if not pairs:
        raise BadRequest("None of these models goes with any of these strategies; see python -m trainer list.")
    dataset = _dataset(arguments)
    device = pick_device(arguments.device)
    cells = [
        Cell(dataset.spec.name, model, strategy, size, seed)
        for model, strategy in pairs
        for size in arguments.sizes
        for seed in arguments.seeds
    ]
    folders = {folder.name: folder for folder in open_store().runs}
    answered, failed = 0, set()
    with bar("curve", "run") as show:
        for done, cell in enumerate(cells):
            show(done, len(cells))
            if (cell.model, cell.strategy) in failed:
                continue
            try:
                prepared = sweep.prepare(cell, dataset)
                folder = folders.get(prepared.meta.run)
                if folder is None:
                    size = prepared.spec.image.size
                    with bar(f"{dataset.spec.name}: decoding at {size} px") as reading:
                        bank = dataset.bank(size, reading).images
                    keep = sweep.what_to_keep(arguments.keep_weights, cell, arguments.seeds, arguments.sizes)
                    with bar(cell.title, "step") as steps:
                        folder = sweep.run_cell(prepared, dataset, bank, keep, device, progress=steps)
            except LowshotError as error:
                failed.add((cell.model, cell.strategy))
                _say(f"stopped: {cell.title}: {error} The rest of its curve is left out.")
                continue
            answered += 1
            _print_runs([read_run(folder)], arguments.json)
        show(len(cells), len(cells))
    return 0 if answered else 2


def evaluate(arguments: argparse.Namespace) -> int:
    """`evaluate`."""
    from core.predictor import load_classifier
    from core.types import ImageSpec
    from trainer.loop import predict_logits

    folder, meta = find_run(arguments.run)
    if family_of(meta.dataset) not in DATASETS:
        raise BadRequest(f"{meta.dataset} is not a registered data set; its test images cannot be found again.")
    dataset = load_dataset(find_dataset(meta.dataset))
    if dataset.split_hash != meta.split_hash:
        raise BadRequest(f"The images of {meta.dataset} here are not those of the run: their split hashes differ.")
    if not meta.has_weights:
        raise CorruptRun(f"The run {meta.run} keeps no weights. Remove its folder {folder} and run it again.")
    model = load_classifier(meta, folder)
    rows = dataset.parts.test
    with bar("evaluating") as show:
        images = dataset.bank(meta.size, show).images[rows]
        image = ImageSpec(meta.size, meta.mean, meta.std)
        logits = predict_logits(model, images, image, pick_device(arguments.device), show)
    stored = read_predictions(folder)
    scores = Scores(probabilities_of(logits, meta.temperature), stored.labels, meta.positive, meta.threshold)
    estimates = bootstrap([scores], stored.groups)
    if arguments.json:
        print(json.dumps({"run": meta.run, "metrics": {name: asdict(e) for name, e in estimates.items()}}))
    else:
        for name, e in estimates.items():
            print(f"{METRICS[name].title:26} {e.value:.3f}  (95% interval {e.low:.3f} to {e.high:.3f}, n = {e.n})")
    _say(f"Largest difference from a stored logit: {np.abs(logits - stored.logits).max():.6f}")
    return 0


def audit(arguments: argparse.Namespace) -> int:
    """`audit`: 1 when copies cross between parts, or between the sets."""
    with bar(f"{arguments.dataset}: reading") as show:
        listing, bank = scan(find_dataset(arguments.dataset), show)
    if arguments.against:
        with bar(f"{arguments.against}: reading") as show:
            other, other_bank = scan(find_dataset(arguments.against), show)
    else:
        other, other_bank = listing, None
    with bar("comparing") as show:
        copies = find_copies(bank, other_bank, show)
    crossing = 0
    for i, j, similarity in zip(copies.first, copies.second, copies.similarity, strict=True):
        crosses = bool(arguments.against) or listing.parts[i] != listing.parts[j]
        crossing += crosses
        row = {
            "first": f"{arguments.dataset}/{listing.ids[i]}",
            "second": f"{arguments.against or arguments.dataset}/{other.ids[j]}",
            "similarity": round(float(similarity), 4),
            "crosses": crosses,
        }
        if arguments.json:
            print(json.dumps(row))
        elif crosses:
            print(f"{row['first']}  =  {row['second']}  ({row['similarity']:.3f})")
    between = f"between {arguments.dataset} and {arguments.against}" if arguments.against else "between parts"
    _say(f"{len(copies)} pairs of copies, {crossing} of them {between}.")
    return 1 if crossing else 0


def results(arguments: argparse.Namespace) -> int:
    """`results`."""
    store = open_store()
    for place, why in store.problems.items():
        _say(f"left out: {place}: {why}")
    if arguments.write:
        changed = write_tables(arguments.write, store)
        _say(f"{arguments.write}: {'tables written anew' if changed else 'tables were up to date'}")
        return 0
    metas = [meta for group in by_series(store.metas(arguments.dataset)).values() for meta in group]
    _print_runs(metas, arguments.json)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": list_all,
    "run": run,
    "curve": curve,
    "pretrain": pretrain,
    "evaluate": evaluate,
    "predict": predict,
    "audit": audit,
    "data list": data_list,
    "data get": data_get,
    "results": results,
}
