"""`sanity`: randomize the weights of stored runs and store with them whether their heatmaps change."""

import argparse
from contextlib import suppress
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
from core.explain.randomization import Randomized, check_randomized
from core.inference.predictor import default_target, image_spec_of, load_classifier
from core.metrics.calibration import probabilities_of
from core.models.classifier import to_device
from core.paths import pick_device
from core.runs import RunMeta, open_store
from trainer.flags import add_device, count
from trainer.progress import print_status, progress_bar


def rows_to_explain(dataset: Dataset, meta: RunMeta, count: int) -> np.ndarray:
    """Return positions of test images, each of another patient or lesion.

    They show the positive class or, for findings, any finding; in a task of several classes they are of any class.
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
) -> Randomized:
    """Check the heatmaps of one run on test images.

    Raises:
        BadRequest: if there are fewer than two test images, or the installed images are not those of the run.
    """
    if dataset.split_hash != meta.split_hash:
        raise BadRequest(f"The installed images of {meta.dataset} are not those of the run: their split hashes differ.")
    rows = rows_to_explain(dataset, meta, count)
    if len(rows) < 2:
        raise BadRequest(f"At least two test images of different patients are needed, but there are {len(rows)}.")
    image = image_spec_of(meta)
    steps = preparation(meta.preparation).for_encoder(image)
    bank = open_bank(dataset.listing.subset(rows), meta.size, meta.channels, preparation=steps)
    images = normalize(to_unit(np.array(bank.images), device), image)
    model = to_device(load_classifier(meta, folder), device)
    with torch.no_grad():
        probabilities = probabilities_of(model(images).cpu().numpy(), meta.temperature, meta.multilabel)
    targets = [default_target(meta, row) for row in probabilities]
    locate = dataset.spec.evidence
    evidence = [locate(name) for name in dataset.listing.ids[rows].tolist()] if locate else None
    return check_randomized(model, images, targets, draws, evidence)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--dataset", default="kermany")
    parser.add_argument("--images", type=count, default=20, help="test images explained by each run (default: 20)")
    parser.add_argument("--draws", type=count, default=3, help="randomizations (default: 3)")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check all runs of a data set that have weights; return 1 if none could be checked."""
    store = open_store()
    kept = {meta.run for meta in store.metas(arguments.dataset)}
    runs = [(folder, meta) for folder, meta in store.runs.items() if meta.run in kept and meta.has_weights]
    if not runs:
        raise BadRequest(f"No run of {arguments.dataset} has saved weights; train one with curve first.")
    with progress_bar(f"{arguments.dataset}: reading") as show:
        leaks = any(meta.leaks for _, meta in runs)
        dataset = load_dataset(find_dataset(arguments.dataset), show, allow_leaks=leaks)
    done, device = 0, pick_device(arguments.device)
    with progress_bar("runs checked", "run") as show:
        for index, (folder, meta) in enumerate(runs):
            show(index, len(runs))
            check = None
            with suppress(LowshotError):  # a damaged record is written again
                check = read_check(folder, meta)
            try:
                same = check is not None and (check.images, check.draws) == (arguments.images, arguments.draws)
                if check is None or not same or (dataset.spec.evidence and not check.planted):
                    check = check_run(folder, meta, dataset, arguments.images, arguments.draws, device)
                    save_check(folder, meta, check)
            except LowshotError as error:
                print_status(f"left out: {meta.run}: {error}")
                continue
            done += 1
            print(f"{meta.run}: {sentence(check)} {evidence_sentence(check.planted)}".rstrip())
        show(len(runs), len(runs))
    return 0 if done else 1
