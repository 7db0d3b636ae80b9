"""Adding predictions to stored runs: evaluated again by their weights, or trained again where they keep none.

In both cases the test predictions must come out as they are stored.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from core.data.dataset import Dataset
from core.data.image_cache import Progress
from core.errors import BadRequest
from core.runs import Predictions, RunMeta, add_external, as_stored, read_predictions, read_run
from trainer.training import run_cell
from trainer.training.external import evaluate_external, lacking
from trainer.training.run_plan import Prepared

SAME = 1e-4  # of a logit; another processor rounds otherwise
LAST_BIT = 2**-10  # of a logit: stored in half precision, it may be rounded the other way


def check_same(meta: RunMeta, stored: Predictions, anew: Predictions) -> None:
    """Compare test predictions of a run that was evaluated or trained again with those that are stored.

    Raises:
        BadRequest: if they are of other images, or a logit moved.
    """
    if not np.array_equal(stored.ids, anew.ids):
        raise BadRequest("Asked again it was judged on other test images.")
    before = as_stored(stored.logits, meta.multilabel)  # older runs hold them as they came
    if not np.allclose(anew.logits, before, LAST_BIT, SAME):
        moved = float(np.abs(before - anew.logits).max())
        raise BadRequest(
            f"Asked again, a test logit moved by {moved:.6f}; at most {SAME} and what half precision rounds is "
            "taken for the same."
        )


def complete_external(
    folder: Path,
    prepared: Prepared,
    dataset: Dataset,
    bank: np.ndarray,
    device: torch.device,
    progress: Progress | None = None,
) -> RunMeta:
    """Evaluate a stored run on the external test sets that it lacks.

    Args:
        folder: of the run.
        prepared: the same cell.
        dataset: its data set, with the external sets.
        bank: (N, C, S, S) images of the data set at the model's size.
        device: where it runs.
        progress: called with (done, in all) by whatever takes long.
    Returns:
        the run's record, with the external sets.
    Raises:
        BadRequest: if the run, trained again, comes out otherwise than it is stored.
    """
    meta, test = read_run(folder), read_predictions(folder)
    if not lacking(meta, dataset):
        return meta
    if meta.has_weights:

        def ask(outside: Dataset) -> Predictions:
            rows = outside.parts.test
            logits = run_cell.ask_again(folder, meta, outside, rows, device, progress)
            listing = outside.listing
            return Predictions(listing.ids[rows], outside.parts.groups[rows], listing.labels[rows], logits, "external")

        check_same(meta, test, replace(ask(dataset), part="test"))
        found = evaluate_external(prepared, dataset, meta, test, ask)
        add_external(folder, found.records, found.predictions, found.notes)
        return read_run(folder)
    with tempfile.TemporaryDirectory() as aside:
        again = run_cell.run_cell(prepared, dataset, bank, "none", device, Path(aside), progress)
        check_same(meta, test, read_predictions(again))
        anew = read_run(again)
        evaluated = [name for name, record in anew.external.items() if not record.refused]
        add_external(
            folder, anew.external, {name: read_predictions(again, "external", name) for name in evaluated}, anew.notes
        )
    return read_run(folder)
