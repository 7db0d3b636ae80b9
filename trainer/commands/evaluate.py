"""`evaluate`: evaluate the saved weights of a stored run on the test images again."""

import argparse
import json
from dataclasses import asdict, replace

import numpy as np

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.specs import family_of, find_dataset
from core.errors import BadRequest
from core.metrics import METRICS, bootstrap
from core.paths import pick_device
from core.runs import as_stored, find_run, read_predictions, scores_of
from trainer.flags import add_device
from trainer.progress import print_status, progress_bar
from trainer.training.run_cell import predict_with_stored_weights


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--run", required=True)
    add_device(parser)
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Print all metrics with intervals, and the largest difference from a stored logit."""
    folder, meta = find_run(arguments.run, with_weights=True)
    if family_of(meta.dataset) not in DATASETS:
        raise BadRequest(f"{meta.dataset} is not a registered data set, so its test images cannot be loaded.")
    dataset = load_dataset(find_dataset(meta.dataset), allow_leaks=meta.leaks > 0)
    with progress_bar("evaluating") as show:
        device = pick_device(arguments.device)
        logits = predict_with_stored_weights(folder, meta, dataset, device, show).logits
    stored = read_predictions(folder)
    scores = scores_of(meta, replace(stored, logits=logits))
    estimates = bootstrap([scores], stored.groups)
    if meta.leaks:
        print_status(
            f"LEAKS ALLOWED: {meta.leaks} training or validation images have copies or patients in another part, so "
            "that these metrics are inflated."
        )
    if arguments.json:
        metrics = {name: asdict(estimate) for name, estimate in estimates.items()}
        print(json.dumps({"run": meta.run, "variant": meta.variant, "leaks": meta.leaks, "metrics": metrics}))
    else:
        for name, e in estimates.items():
            interval = f"95% interval over test patients {e.ends}"
            print(f"{METRICS[name].title:26} {e.value:.3f}  ({interval}, n = {e.n})")
    difference = np.abs(logits - as_stored(stored.logits, meta.multilabel)).max()
    print_status(f"Largest difference from a stored logit: {difference:.6f}")
    return 0
