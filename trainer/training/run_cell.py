"""Run a prepared cell of the comparison: train, fit the operating point, evaluate, store."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
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
from core.models import MODELS
from core.models.classifier import Classifier
from core.paths import describe_device
from core.runs import Predictions, RunMeta, as_stored, save_run
from core.runs.series import scores_of
from core.types import EvaluatedPart
from trainer.meta_learning.outer_loop import meta_learn
from trainer.training.class_balance import IMBALANCE
from trainer.training.external import evaluate_external
from trainer.training.fit import HEAD, concatenate_folds, embedding_cache
from trainer.training.folds import NOTHING_HELD_OUT
from trainer.training.heads import logits_of
from trainer.training.losses import NonFiniteError
from trainer.training.network_trainer import predict_logits
from trainer.training.resume import StateFile
from trainer.training.run_plan import RunPlan
from trainer.training.settings import Cell, FitContext, FitData, FitResult, Settings

Keep = Literal["served", "all", "light", "none"]
LIGHT_BYTES = 2_000_000


def fit_data(prepared: RunPlan, dataset: Dataset, bank: np.ndarray) -> FitData:
    """Read the labelled images of a cell's subset from the bank, and nothing else."""
    rows = prepared.rows
    return FitData(
        images=bank[rows],
        labels=dataset.listing.labels[rows],
        groups=dataset.parts.groups[rows],
        rows=rows,
        classes=len(dataset.labels),
        fingerprint=dataset.fingerprint,
        population=len(dataset.listing),
    )


def train(prepared: RunPlan, data: FitData, settings: Settings, context: FitContext) -> tuple[Classifier, FitResult]:
    """Build a cell's model, initialize it and train it on its subset; test images are not accessible here.

    If meta-learning or the fit of a head diverges, the model keeps the last finite meta-learned weights, or its fresh
    head.
    """
    spec, strategy = prepared.spec, prepared.strategy
    model = spec.build(data.classes, prepared.meta.dataset, context.seed)
    try:
        if strategy.query_loss:
            meta_learn(
                strategy.name, strategy.query_loss, model, spec, prepared.meta.multilabel, prepared.sources, settings,
                context.seed, context.device, context.progress,
            )  # fmt: skip
        return model, strategy.fit(model, spec, data, settings, context)
    except NonFiniteError as error:
        nothing, kept = concatenate_folds([], [], data.classes), HEAD if strategy.head_only else ""
        model.eval().cpu()
        return model, FitResult(*nothing, kept, NOTHING_HELD_OUT, failed=str(error))


def run_cell(
    prepared: RunPlan,
    dataset: Dataset,
    bank: np.ndarray,
    keep: Keep,
    device: torch.device,
    store: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train, evaluate on the test set and store. An interrupted training resumes from its last epoch.

    If the loss is no longer finite, the run is stored as failed, with the weights of its best epoch so far.

    Args:
        prepared: the cell.
        dataset: its data set.
        bank: (N, C, S, S) images at the model's size.
        keep: whether weights are stored: `all`, `light` (only small ones) or `none`.
        device: device to run on.
        store: the run store; the default store if None.
        progress: called with (done, total) during long computations.
    Returns:
        the run's folder.
    """
    start_time = time.monotonic()
    # train
    data = fit_data(prepared, dataset, bank)
    unfinished = StateFile(prepared.meta.run, device)
    context = FitContext(prepared.cell.seed, device, progress, unfinished)
    model, fitted = train(prepared, data, prepared.settings, context)
    # fit the operating point inside the subset
    _round_to_half(model, fitted.keep)
    meta, validation = _operating_point(prepared.meta, fitted, data, dataset)
    # predict the test part, the calibration part and the external test sets
    predict = partial(_predict, prepared, model, data, dataset, bank, device, progress)
    test, calibration = predict("test", dataset.parts.test), predict("calibration", dataset.calibration)
    elsewhere = evaluate_external(
        prepared, dataset, meta, test, partial(_predict_external, prepared, model, data, device, progress)
    )
    # evaluate and store
    scores = scores_of(meta, test)
    metrics, at_half = _rounded(measure(scores)), _rounded(measure(scores.at(0.5)))
    meta = replace(
        meta,
        sampled=_sampled(prepared, data),
        metrics=metrics,
        metrics_at_half=at_half,
        seconds=round(time.monotonic() - start_time, 2),
        device=describe_device(device),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        failed=fitted.failed,
        external=elsewhere.records,
        notes=(*meta.notes, *elsewhere.notes),
    )
    state = {name: value for name, value in model.state_dict().items() if name.startswith(fitted.keep)}
    keep_weights = (
        keep == "all"
        or fitted.failed
        or (keep == "light" and 2 * sum(value.numel() for value in state.values()) < LIGHT_BYTES)
    )
    weights = state if keep_weights else None
    folder = save_run(meta, validation, test, fitted.history, weights, store, calibration, elsewhere.predictions)
    unfinished.remove()
    return folder


def _sampled(prepared: RunPlan, data: FitData) -> dict[str, int]:
    """Return the number of images of each class, or with each finding, in an epoch of the final network."""
    counts = IMBALANCE[prepared.settings.imbalance].shown(data.labels, data.classes)
    return dict(zip(prepared.meta.labels, counts.tolist(), strict=True))


def _round_to_half(model: Classifier, prefix: str) -> None:
    """Round trained weights to half precision, in which they are stored, so that the stored weights are evaluated."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.startswith(prefix) and value.is_floating_point():
                value.copy_(value.half().float())


def _operating_point(meta: RunMeta, fitted: FitResult, data: FitData, dataset: Dataset) -> tuple[RunMeta, Predictions]:
    """Fit the temperature and the threshold to out-of-fold predictions; returns the record and these predictions."""
    labels = data.labels[fitted.held_out]
    rows, logits = data.rows[fitted.held_out], as_stored(fitted.logits, meta.multilabel)
    validation = Predictions(dataset.listing.ids[rows], dataset.parts.groups[rows], labels, logits)
    meta = replace(meta, selection=fitted.selection, thresholds=(0.5,) * (len(meta.labels) if meta.multilabel else 0))
    if not len(rows):
        return meta, validation
    temperature = round(fit_temperature(logits, labels), 6)
    probabilities = probabilities_of(logits, temperature, meta.multilabel)
    meta = replace(meta, temperature=temperature)
    if meta.multilabel:
        return replace(
            meta, thresholds=tuple(round(threshold, 6) for threshold in fit_thresholds(probabilities, labels))
        ), validation
    if meta.positive is not None:
        threshold = fit_threshold(probabilities[:, meta.positive], labels == meta.positive)
        meta = replace(meta, threshold=round(threshold, 6))
    return meta, validation


def _predict(
    prepared: RunPlan,
    model: Classifier,
    data: FitData,
    dataset: Dataset,
    bank: np.ndarray,
    device: torch.device,
    progress: Progress | None,
    part: EvaluatedPart,
    rows: np.ndarray,
) -> Predictions:
    """Predict images to which nothing was fitted.

    Calibration images serve conformal prediction sets only. They are the validation part, whose labels no other step
    reads.
    """
    images, settings = _Rows(bank, rows), prepared.settings
    if prepared.strategy.head_only:
        cache = embedding_cache(model, prepared.spec, data, replace(settings, augment="mirror"), device)
        views = cache.get(images, rows, settings.mirror, progress)  # (N, 1 or 2, D)
        head = model.head.layers.cpu()
        logits = np.mean([logits_of(head, view) for view in np.moveaxis(views, 1, 0)], axis=0)
    else:
        logits = predict_logits(model, images, prepared.spec.image, device, progress, bool(settings.mirror))
    listing = dataset.listing
    logits = as_stored(logits, prepared.meta.multilabel)
    return Predictions(listing.ids[rows], dataset.parts.groups[rows], listing.labels[rows], logits, part)


def _predict_external(
    prepared: RunPlan,
    model: Classifier,
    data: FitData,
    device: torch.device,
    progress: Progress | None,
    external: Dataset,
) -> Predictions:
    """Predict an external test set as the run predicts its own, with embeddings cached under the set's fingerprint."""
    image = prepared.spec.image
    bank = external.bank(image.size, progress, preparation(prepared.settings.preparation).for_encoder(image)).images
    external_data = replace(data, fingerprint=external.fingerprint, population=len(external.listing))
    return _predict(prepared, model, external_data, external, bank, device, progress, "external", external.parts.test)


def predict_with_stored_weights(
    folder: Path, meta: RunMeta, dataset: Dataset, rows: np.ndarray, device: torch.device, progress: Progress | None
) -> np.ndarray:
    """Predict images with the weights of a stored run: (N, C) logits, rounded as stored logits are.

    Raises:
        BadRequest: if the installed images are not those of the run.
    """
    if dataset.split_hash != meta.split_hash:
        raise BadRequest(f"The installed images of {meta.dataset} are not those of the run: their split hashes differ.")
    model, image = load_classifier(meta, folder), image_spec_of(meta)
    images = dataset.bank(meta.size, progress, preparation(meta.preparation).for_encoder(image)).images
    mirror = bool(meta.config.get("mirror"))
    return as_stored(predict_logits(model, _Rows(images, rows), image, device, progress, mirror), meta.multilabel)


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


def resolve_keep(keep: Keep, cell: Cell, seeds: list[int], sizes: list[int | None]) -> Keep:
    """Resolve `served` to `all`, `light` or `none` for a cell.

    `served` keeps the weights that the app predicts with: those of the first seed and never of controls, light weights
    at every size and heavy weights at the largest size only.
    """
    if keep != "served":
        return keep
    if MODELS[cell.model].family == "control" or cell.seed != seeds[0]:
        return "none"
    largest = None if None in sizes else max(size for size in sizes if size is not None)
    return "all" if cell.train_size == largest else "light"
