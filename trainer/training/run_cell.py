"""Carry out the plan of a run: train, fit the operating point, evaluate, store."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from core.data.dataset import Dataset
from core.data.image_cache import Progress
from core.data.preprocessing import preparation
from core.errors import BadRequest
from core.inference.predictor import image_spec_of, load_classifier
from core.metrics import measure
from core.metrics.calibration import fit_temperature, probabilities_of
from core.metrics.thresholds import fit_threshold, fit_thresholds
from core.models.classifier import Classifier
from core.paths import describe_device, library_versions
from core.runs import FittedRun, Predictions, RunMeta, as_stored, save_run, scores_of
from core.types import EvaluatedPart
from trainer.meta_learning.outer_loop import meta_learn
from trainer.training.embedding_cache import EmbeddingCache
from trainer.training.external import evaluate_external
from trainer.training.fit import HEAD, concatenate_folds
from trainer.training.folds import NOTHING_HELD_OUT
from trainer.training.heads import logits_of
from trainer.training.loss_functions import NonFiniteError
from trainer.training.resume import StateFile
from trainer.training.run_plan import RunPlan
from trainer.training.settings import FitContext, FitData, FitResult, Settings
from trainer.training.training_loop import predict_logits

Keep = Literal["served", "all", "light", "none"]
LIGHT_BYTES = 2_000_000


def fit_data(plan: RunPlan, dataset: Dataset, images: np.ndarray) -> FitData:
    """Read the labeled images of a run's subset from those of the data set, and nothing else."""
    rows = plan.rows
    return FitData(
        images=images[rows],
        labels=dataset.listing.labels[rows],
        groups=dataset.parts.groups[rows],
        rows=rows,
        classes=len(dataset.labels),
        dataset=dataset.spec.name,
        fingerprint=dataset.fingerprint,
        population=len(dataset.listing),
    )


def train(plan: RunPlan, data: FitData, settings: Settings, context: FitContext) -> tuple[Classifier, FitResult]:
    """Build the model of a run, initialize it and train it on its subset; test images are not accessible here.

    If meta-learning or the fit of a head diverges, the model keeps the last finite meta-learned weights, or its fresh
    head.
    """
    spec, strategy = plan.spec, plan.strategy
    model = spec.build(data.classes, plan.setup.dataset, context.seed)
    try:
        if strategy.query_loss:
            meta_learn(
                strategy.name, strategy.query_loss, model, spec, plan.setup.multilabel, plan.sources, settings,
                context.seed, context.device, context.progress,
            )  # fmt: skip
        return model, strategy.fit(model, spec, data, settings, context)
    except NonFiniteError as error:
        nothing, prefix = concatenate_folds([], [], data.classes), HEAD if strategy.head_only else ""
        model.eval().cpu()
        return model, FitResult(*nothing, prefix, NOTHING_HELD_OUT, failed=str(error))


def run_cell(
    plan: RunPlan,
    dataset: Dataset,
    keep: Keep,
    device: torch.device,
    store: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Path, RunMeta]:
    """Train, evaluate on the test set and store. An interrupted training resumes from its last epoch.

    If the loss is no longer finite, the run is stored as failed, with the weights of its best epoch so far.

    Args:
        plan: the run.
        dataset: its data set.
        keep: whether weights are stored: `all`, `light` (only small ones) or `none`.
        device: device to run on.
        store: the run store; the default store if None.
        progress: called with (done, total) during long computations.
    Returns:
        the run's folder and its record.
    """
    images = plan.images(dataset)
    start_time = time.monotonic()
    # train
    data = fit_data(plan, dataset, images)
    unfinished = StateFile(plan.setup.run, device)
    model, fit = train(plan, data, plan.settings, FitContext(plan.cell.seed, device, progress, unfinished))
    _round_to_half(model, fit.trained_prefix)
    # fit the operating point inside the subset
    validation = _predictions(dataset, data.rows[fit.held_out], fit.logits, "validation", plan.setup.multilabel)
    fitted = _fit_operating_point(plan, fit.selection, validation)
    # predict the test part, the calibration part and the external test sets
    predict = _predictor(plan, model, dataset, images, device, progress)
    test = predict("test", dataset.parts.test)
    calibration = predict("calibration", dataset.calibration) if len(dataset.calibration) else None

    def predict_external(external: Dataset) -> Predictions:
        images = plan.images(external)
        return _predictor(plan, model, external, images, device, progress)("external", external.parts.test)

    external = evaluate_external(plan, dataset, fitted, test, predict_external)
    # evaluate and store
    scores = scores_of(fitted, test)
    facts = vars(fitted) | {"notes": (*fitted.notes, *external.notes)}
    record = RunMeta(
        **facts,
        metrics=_rounded(measure(scores)),
        metrics_at_half=_rounded(measure(scores.at(0.5))),
        seconds=round(time.monotonic() - start_time, 2),
        device=describe_device(device),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=library_versions(),
        failed=fit.failed,
        external=external.records,
    )
    state = {name: value for name, value in model.state_dict().items() if name.startswith(fit.trained_prefix)}
    is_light = 2 * sum(value.numel() for value in state.values()) < LIGHT_BYTES
    weights = state if keep == "all" or fit.failed or (keep == "light" and is_light) else None
    run = save_run(record, validation, test, fit.history, weights, store, calibration, external.predictions)
    unfinished.remove()
    return run


def _round_to_half(model: Classifier, prefix: str) -> None:
    """Round trained weights to half precision, in which they are stored, so that the stored weights are evaluated."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.startswith(prefix) and value.is_floating_point():
                value.copy_(value.half().float())


def _fit_operating_point(plan: RunPlan, selection: str, held_out: Predictions) -> FittedRun:
    """Fit the temperature and the threshold to out-of-fold predictions; without any, the defaults remain."""
    setup, labels = plan.setup, held_out.labels
    if not len(labels):
        thresholds = (0.5,) * (len(setup.labels) if setup.multilabel else 0)
        return FittedRun(**vars(setup), selection=selection, thresholds=thresholds)
    temperature = round(fit_temperature(held_out.logits, labels), 6)
    probabilities = probabilities_of(held_out.logits, temperature, setup.multilabel)
    fitted: dict[str, Any] = {"selection": selection, "temperature": temperature}
    if setup.multilabel:
        fitted["thresholds"] = tuple(round(threshold, 6) for threshold in fit_thresholds(probabilities, labels))
    elif setup.positive is not None:
        threshold = fit_threshold(probabilities[:, setup.positive], labels == setup.positive)
        fitted["threshold"] = round(threshold, 6)
    return FittedRun(**vars(setup), **fitted)


def _predictions(
    dataset: Dataset, rows: np.ndarray, logits: np.ndarray, part: EvaluatedPart, multilabel: bool
) -> Predictions:
    """Return logits of some images as they are stored, with what is known about the images."""
    listing, logits = dataset.listing, as_stored(logits, multilabel)
    return Predictions(listing.ids[rows], dataset.parts.groups[rows], listing.labels[rows], logits, part)


def _predictor(
    plan: RunPlan,
    model: Classifier,
    dataset: Dataset,
    images: np.ndarray,
    device: torch.device,
    progress: Progress | None,
) -> Callable[[EvaluatedPart, np.ndarray], Predictions]:
    """Return a function that predicts images of a data set to which nothing was fitted.

    Calibration images serve conformal prediction sets only. They are the validation part, whose labels no other step
    reads. Embeddings are cached under the data set's fingerprint.
    """
    mirror, image = plan.settings.mirror, plan.spec.image
    cache = None
    if plan.strategy.head_only:
        cache = EmbeddingCache(
            model, image, dataset.spec.name, dataset.fingerprint, len(dataset.listing), "mirror", device,
            plan.setup.preparation,
        )  # fmt: skip

    def predict(part: EvaluatedPart, rows: np.ndarray) -> Predictions:
        chosen = _Rows(images, rows)
        if cache is None:
            logits = predict_logits(model, chosen, image, device, progress, bool(mirror))
        else:
            views = np.moveaxis(cache.get(chosen, rows, mirror, progress), 1, 0)  # (1 or 2, N, D)
            head = model.head.layers.cpu()
            logits = np.mean([logits_of(head, view) for view in views], axis=0)
        return _predictions(dataset, rows, logits, part, plan.setup.multilabel)

    return predict


def predict_with_stored_weights(
    folder: Path, meta: RunMeta, dataset: Dataset, device: torch.device, progress: Progress | None
) -> Predictions:
    """Predict the test images of a data set with the weights of a stored run.

    The logits are rounded as stored logits are.

    Raises:
        BadRequest: if the installed images are not those of the run.
    """
    if dataset.split_hash != meta.split_hash:
        raise BadRequest(f"The installed images of {meta.dataset} are not those of the run: their split hashes differ.")
    rows = dataset.parts.test
    model, image = load_classifier(meta, folder), image_spec_of(meta)
    images = dataset.bank(meta.size, progress, preparation(meta.preparation).for_encoder(image)).images
    mirror = bool(meta.config.get("mirror"))
    logits = predict_logits(model, _Rows(images, rows), image, device, progress, mirror)
    return _predictions(dataset, rows, logits, "test", meta.multilabel)


class _Rows:
    """View of some rows of a memory-mapped array, read on access."""

    def __init__(self, images: np.ndarray, rows: np.ndarray) -> None:
        self._images, self._rows = images, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, positions: Any) -> np.ndarray:
        return self._images[self._rows[positions]]


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def resolve_keep(keep: Keep, plan: RunPlan, seeds: list[int], sizes: list[int | None]) -> Keep:
    """Resolve `served` to `all`, `light` or `none` for a run.

    `served` keeps the weights that the app predicts with: those of the first seed and never of controls, light weights
    at every size and heavy weights at the largest size only.
    """
    if keep != "served":
        return keep
    if plan.spec.family == "control" or plan.cell.seed != seeds[0]:
        return "none"
    largest = None if None in sizes else max(size for size in sizes if size is not None)
    return "all" if plan.cell.train_size == largest else "light"
