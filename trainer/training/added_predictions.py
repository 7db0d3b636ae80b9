"""Evaluation of stored runs on external test sets that were added later.

Runs with saved weights are evaluated with them; runs without are trained again. In both cases the test predictions must
equal the stored ones.
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
from trainer.training.external import evaluate_external, missing_external_sets
from trainer.training.run_plan import RunPlan

ABSOLUTE_TOLERANCE = 1e-4  # absolute tolerance of a logit, as processors round differently
RELATIVE_TOLERANCE = 2**-10  # relative tolerance of a logit: the last bit in half precision, in which logits are stored


def check_same(meta: RunMeta, stored: Predictions, anew: Predictions) -> None:
    """Check that a run that was evaluated or trained again has its stored test predictions.

    Raises:
        BadRequest: if the images differ or a logit changed.
    """
    if not np.array_equal(stored.ids, anew.ids):
        raise BadRequest("The run was evaluated again on other test images than before.")
    expected = as_stored(stored.logits, meta.multilabel)  # older runs hold logits in full precision
    if not np.allclose(anew.logits, expected, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE):
        change = float(np.abs(expected - anew.logits).max())
        raise BadRequest(
            f"Evaluated again, a test logit changed by {change:.6f}; the tolerance is {ABSOLUTE_TOLERANCE} plus the "
            "rounding of half precision."
        )


def complete_external(
    folder: Path,
    prepared: RunPlan,
    dataset: Dataset,
    bank: np.ndarray,
    device: torch.device,
    progress: Progress | None = None,
) -> RunMeta:
    """Evaluate a stored run on the external test sets that it lacks.

    Args:
        folder: folder of the run.
        prepared: the same cell.
        dataset: its data set, with the external sets.
        bank: (N, C, S, S) images of the data set at the model's size.
        device: device to run on.
        progress: called with (done, total) during long computations.
    Returns:
        the run's record, with the external sets.
    Raises:
        BadRequest: if the run's test predictions are not reproduced.
    """
    meta, test = read_run(folder), read_predictions(folder)
    if not missing_external_sets(meta, dataset):
        return meta
    # with weights: evaluate the stored model
    if meta.has_weights:

        def predict(target: Dataset) -> Predictions:
            rows = target.parts.test
            logits = run_cell.predict_with_stored_weights(folder, meta, target, rows, device, progress)
            listing = target.listing
            return Predictions(listing.ids[rows], target.parts.groups[rows], listing.labels[rows], logits, "external")

        check_same(meta, test, replace(predict(dataset), part="test"))
        evaluation = evaluate_external(prepared, dataset, meta, test, predict)
        add_external(folder, evaluation.records, evaluation.predictions, evaluation.notes)
        return read_run(folder)
    # without weights: train the run again in a temporary folder
    with tempfile.TemporaryDirectory() as temporary:
        retrained_folder = run_cell.run_cell(prepared, dataset, bank, "none", device, Path(temporary), progress)
        check_same(meta, test, read_predictions(retrained_folder))
        retrained = read_run(retrained_folder)
        evaluated = [name for name, record in retrained.external.items() if not record.refused]
        add_external(
            folder,
            retrained.external,
            {name: read_predictions(retrained_folder, "external", name) for name in evaluated},
            retrained.notes,
        )
    return read_run(folder)
