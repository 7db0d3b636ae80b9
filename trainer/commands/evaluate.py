"""`evaluate`: run the saved weights of a stored run on the test images again."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace

import numpy as np

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.specs import family_of, find_dataset
from core.errors import BadRequest, CorruptRun
from core.metrics import METRICS, bootstrap
from core.paths import DEVICES, pick_device
from core.runs import Predictions, RunMeta, as_stored, read_predictions
from core.runs.series import scores_of
from trainer.commands.predict import find_run
from trainer.progress import print_status, progress_bar
from trainer.training.run_cell import predict_with_stored_weights


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--run", required=True)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """`evaluate`."""
    folder, meta = find_run(arguments.run)
    if family_of(meta.dataset) not in DATASETS:
        raise BadRequest(f"{meta.dataset} is not a registered data set; its test images cannot be found again.")
    dataset = load_dataset(find_dataset(meta.dataset), allow_leaks=meta.leaks > 0)
    if not meta.has_weights:
        raise CorruptRun(f"The run {meta.run} keeps no weights. Remove its folder {folder} and run it again.")
    with progress_bar("evaluating") as show:
        logits = predict_with_stored_weights(
            folder, meta, dataset, dataset.parts.test, pick_device(arguments.device), show
        )
    stored = read_predictions(folder)
    scores = scores_of(meta, replace(stored, logits=logits))
    estimates = bootstrap([scores], stored.groups)
    if meta.leaks:
        print_status(f"LEAKS ALLOWED: {meta.leaks} training or validation images cross; these figures are too good.")
    if arguments.json:
        print(
            json.dumps(
                {
                    "run": meta.run,
                    "variant": meta.variant,
                    "leaks": meta.leaks,
                    "metrics": {name: asdict(e) for name, e in estimates.items()},
                }
            )
        )
    else:
        for name, e in estimates.items():
            over = f"95% interval over test patients {e.low:.3f} to {e.high:.3f}"
            print(f"{METRICS[name].title:26} {e.value:.3f}  ({over}, n = {e.n})")
    print_status(f"Largest difference from a stored logit: {_moved(logits, stored, meta):.6f}")
    return 0


def _moved(logits: np.ndarray, stored: Predictions, meta: RunMeta) -> float:
    return float(np.abs(logits - as_stored(stored.logits, meta.multilabel)).max())
