"""Evaluation of stored runs on external test sets that were added later.

Runs with saved weights are evaluated with them; runs without are trained again. In both cases the test predictions must
equal the stored ones.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from core.data.dataset import Dataset
from core.data.image_cache import Progress
from core.errors import BadRequest
from core.runs import Predictions, Run, RunMeta, add_external, as_stored, read_predictions, read_run
from trainer.training import run_cell
from trainer.training.external import evaluate_external, missing_external_sets
from trainer.training.run_plan import RunPlan

ABSOLUTE_TOLERANCE = 1e-4  # absolute tolerance of a logit, as processors round differently
RELATIVE_TOLERANCE = 2**-10  # relative tolerance of a logit: the last bit in half precision, in which logits are stored


def check_same(meta: RunMeta, stored: Predictions, reevaluated: Predictions) -> None:
    """Check that a run that was evaluated or trained again has its stored test predictions.

    Raises:
        BadRequest: if the images differ or a logit changed.
    """
    if not np.array_equal(stored.ids, reevaluated.ids):
        raise BadRequest("The run was evaluated again on other test images than before.")
    expected = as_stored(stored.logits, meta.multilabel)  # older runs hold logits in full precision
    if not np.allclose(reevaluated.logits, expected, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE):
        change = float(np.abs(expected - reevaluated.logits).max())
        raise BadRequest(
            f"Evaluated again, a test logit changed by {change:.6f}; the tolerance is {ABSOLUTE_TOLERANCE} plus the "
            "rounding of half precision."
        )


def complete_external(
    run: Run, plan: RunPlan, dataset: Dataset, device: torch.device, progress: Progress | None = None
) -> Run:
    """Evaluate a stored run on the external test sets that it lacks.

    Args:
        run: folder and record of the run.
        plan: the plan of the same run.
        dataset: its data set, with the external sets.
        device: device to run on.
        progress: called with (done, total) during long computations.
    Returns:
        the run with the external sets in its record.
    Raises:
        BadRequest: if the run's test predictions are not reproduced.
    """
    folder, meta = run
    if not missing_external_sets(meta, dataset):
        return run
    test = read_predictions(folder)
    if meta.has_weights:

        def predict(target: Dataset) -> Predictions:
            return run_cell.predict_with_stored_weights(folder, meta, target, device, progress)

        check_same(meta, test, predict(dataset))
        evaluation = evaluate_external(plan, dataset, meta, test, predict)
        add_external(folder, evaluation.records, evaluation.predictions, evaluation.notes)
        return Run(folder, read_run(folder))
    # without weights: train the run again in a temporary folder
    with tempfile.TemporaryDirectory() as temporary:
        retrained_folder, retrained = run_cell.run_cell(plan, dataset, "none", device, Path(temporary), progress)
        check_same(meta, test, read_predictions(retrained_folder))
        evaluated = [name for name, record in retrained.external.items() if not record.refused]
        predictions = {name: read_predictions(retrained_folder, "external", name) for name in evaluated}
        add_external(folder, retrained.external, predictions, retrained.notes)
    return Run(folder, read_run(folder))
