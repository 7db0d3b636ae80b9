"""`sanity`: makes the weights of stored runs random and keeps, beside them, whether their heatmaps change."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from core.analysis.saliency_sanity import evidence_sentence, read_check, save_check, sentence
from core.data.dataset import Dataset, load_dataset
from core.data.image_cache import open_bank
from core.data.preprocessing import preparation
from core.data.specs import find_dataset
from core.data.transforms import normalize, to_unit
from core.errors import BadRequest, LowshotError
from core.explain.randomisation import Randomised, check_randomised
from core.inference.predictor import default_target, image_spec_of, load_classifier
from core.metrics.calibration import probabilities_of
from core.models.classifier import to_device
from core.paths import DEVICES, pick_device
from core.runs import RunMeta, open_store
from trainer.flags import count
from trainer.progress import print_status, progress_bar


def rows_to_explain(dataset: Dataset, meta: RunMeta, count: int) -> np.ndarray:
    """Positions of some test images, each of another patient or lesion: those that show the positive class, of several
    findings any; of several classes all kinds.
    """
    rows = dataset.parts.test
    labels = dataset.listing.labels[rows]
    if meta.positive is not None:
        rows = rows[labels == meta.positive]
    elif meta.multilabel:
        rows = rows[(np.nan_to_num(labels) > 0.5).any(axis=1)]
    rows = np.random.default_rng(0).permutation(rows)
    _, first = np.unique(dataset.parts.groups[rows], return_index=True)
    return np.sort(rows[np.sort(first)[:count]])


def check_run(
    folder: Path, meta: RunMeta, dataset: Dataset, count: int, draws: int, device: torch.device
) -> Randomised:
    """Checks the heatmaps of one run on test images.

    Raises:
        BadRequest: if there are fewer than two test images, or those here are not those of the run.
    """
    if dataset.split_hash != meta.split_hash:
        raise BadRequest(f"The images of {meta.dataset} here are not those of the run: their split hashes differ.")
    rows = rows_to_explain(dataset, meta, count)
    if len(rows) < 2:
        raise BadRequest(f"Two test images at least are needed, each of another patient; {len(rows)} are here.")
    image = image_spec_of(meta)
    steps = preparation(meta.preparation).for_encoder(image)
    some = open_bank(dataset.listing.subset(rows), meta.size, meta.channels, preparation=steps)
    images = normalize(to_unit(np.array(some.images), device), image)
    model = to_device(load_classifier(meta, folder), device)
    with torch.no_grad():
        probabilities = probabilities_of(model(images).cpu().numpy(), meta.temperature, meta.multilabel)
    targets = [default_target(meta, row) for row in probabilities]
    where = dataset.spec.evidence
    evidence = [where(name) for name in dataset.listing.ids[rows].tolist()] if where else None
    return check_randomised(model, images, targets, draws, evidence)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--dataset", default="kermany")
    parser.add_argument("--images", type=count, default=20, help="test images explained by each run (default: 20)")
    parser.add_argument("--draws", type=count, default=3, help="draws of random weights (default: 3)")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """`sanity`: 1 if no run could be checked."""
    store = open_store()
    kept = {meta.run for meta in store.metas(arguments.dataset)}
    runs = [(folder, meta) for folder, meta in store.runs.items() if meta.run in kept and meta.has_weights]
    if not runs:
        raise BadRequest(f"No run of {arguments.dataset} keeps weights; train one with curve first.")
    with progress_bar(f"{arguments.dataset}: reading") as show:
        leaks = any(meta.leaks for _, meta in runs)
        dataset = load_dataset(find_dataset(arguments.dataset), show, allow_leaks=leaks)
    done, device = 0, pick_device(arguments.device)
    with progress_bar("runs checked", "run") as show:
        for place, (folder, meta) in enumerate(runs):
            show(place, len(runs))
            done += _checked(folder, meta, dataset, arguments, device)
        show(len(runs), len(runs))
    return 0 if done else 1


def _checked(
    folder: Path, meta: RunMeta, dataset: Dataset, arguments: argparse.Namespace, device: torch.device
) -> bool:
    """Checks a run, or answers from what is kept of it; whether there is an answer."""
    try:
        found = _kept(folder, meta, arguments)
        if found is None or (dataset.spec.evidence and not found.planted):
            found = check_run(folder, meta, dataset, arguments.images, arguments.draws, device)
            save_check(folder, meta, found)
    except LowshotError as error:
        print_status(f"left out: {meta.run}: {error}")
        return False
    print(f"{meta.run}: {sentence(found)}" + (f" {evidence_sentence(found.planted)}" if found.planted else ""))
    return True


def _kept(folder: Path, meta: RunMeta, arguments: argparse.Namespace) -> Randomised | None:
    """What is kept of a run, if it was made of as many draws and images."""
    try:
        found = read_check(folder, meta)
    except LowshotError:
        return None
    same = found is not None and (found.images, found.draws) == (arguments.images, arguments.draws)
    return found if same else None
