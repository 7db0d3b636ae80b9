"""From a cell of the comparison to a stored run; sweeps over cells, answered from the store where they are there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from core.checkpoints import Predictions, RunMeta, save_run
from core.data.banks import Progress
from core.data.dataset import Dataset
from core.errors import BadRequest
from core.metrics import Scores, measure
from core.metrics.calibration import fit_temperature, probabilities_of
from core.metrics.thresholds import fit_threshold
from core.models import MODELS
from core.models.classifier import Classifier
from core.models.own_encoders import weights_of
from core.models.specs import ModelSpec, Weights
from core.runtime import describe_device, library_versions
from core.storage import canonical_json, sha256_of
from trainer.config import Cell, FitData, Fitted, Settings
from trainer.heads import logits_of
from trainer.loop import predict_logits
from trainer.strategies import STRATEGIES, Context, Strategy, embedding_cache

Keep = Literal["served", "all", "light", "none"]
LIGHT_BYTES = 2_000_000
_CODE = 2  # raised when a change of the program changes results


@dataclass(frozen=True)
class Prepared:
    """A cell with everything that determines its run, before any training."""

    cell: Cell
    spec: ModelSpec
    strategy: Strategy
    settings: Settings
    rows: np.ndarray
    meta: RunMeta


def settings_of(spec: ModelSpec, strategy: Strategy) -> Settings:
    """The strategy's defaults with what the model states otherwise."""
    return replace(strategy.settings, **spec.settings)  # type: ignore[arg-type]


def pairs_that_go(
    models: Iterable[str], strategies: Iterable[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(model, strategy) pairs that go together, and those that do not."""
    every = list(product(models, strategies))
    fits = [(model, strategy) for model, strategy in every if STRATEGIES[strategy].name in MODELS[model].strategies]
    return fits, [pair for pair in every if pair not in fits]


def prepare(cell: Cell, dataset: Dataset) -> Prepared:
    """Draws the subset and names the run; cheap, so that a sweep can ask the store before it trains.

    Raises:
        BadRequest: if the model and strategy do not go together, or the task is not one this program trains.
        WeightsUnavailable: if the encoder's weights cannot be had.
    """
    spec, strategy = MODELS[cell.model], STRATEGIES[cell.strategy]
    if strategy.name not in spec.strategies:
        raise BadRequest(f"{spec.name} does not go with {strategy.name}; it goes with {', '.join(spec.strategies)}.")
    if dataset.spec.dims == 3:
        raise BadRequest(f"{dataset.spec.name} holds volumes; this version trains models of images only.")
    if dataset.spec.task == "multilabel":
        raise BadRequest(f"{dataset.spec.name} is multilabel; this version trains tasks with one class an image.")
    settings = settings_of(spec, strategy)
    subset = dataset.subset(cell.train_size, cell.seed)
    weights = weights_of(spec, dataset.spec.name)
    start = {"size": spec.image.size, "start": weights.sha256 or f"random, seed {cell.seed}"}
    config, stated = asdict(settings) | start, settings.stated() | start
    if strategy.starts_from:
        before = STRATEGIES[strategy.starts_from].settings
        config["starts_from"], stated["starts_from"] = asdict(before), before.stated()
    key = sha256_of([canonical_json([_CODE, asdict(cell), stated, subset.hash, dataset.split_hash])])
    meta = RunMeta(
        run=f"{cell.model}-{cell.strategy}-n{cell.train_size or 'full'}-s{cell.seed}-{key[:8]}",
        dataset=dataset.spec.name,
        dataset_title=dataset.spec.title,
        labels=dataset.labels,
        positive=dataset.spec.positive,
        channels=dataset.spec.channels,
        synthetic=dataset.spec.synthetic,
        model=spec.name,
        family=spec.family,
        strategy=strategy.name,
        train_size=cell.train_size,
        seed=cell.seed,
        images=len(subset.indices),
        short=subset.short,
        config=config,
        subset_hash=subset.hash,
        split_hash=dataset.split_hash,
        fingerprint=dataset.fingerprint,
        notes=(*dataset.parts.notes, *_unchecked(dataset, weights)),
        size=spec.image.size,
        mean=spec.image.mean,
        std=spec.image.std,
        encoder=asdict(weights),
        trained="head" if strategy.head_only else "all",
        selection="",
        threshold=0.5,
        temperature=1.0,
        metrics={},
        metrics_at_half={},
        seconds=0.0,
        device="",
        made="",
        versions=library_versions(),
    )
    return Prepared(cell, spec, strategy, settings, subset.indices, meta)


def _unchecked(dataset: Dataset, weights: Weights) -> tuple[str, ...]:
    if weights.kind != "own" or dataset.spec.path is None:
        return ()
    return ("Nobody has compared these images with those that the medical encoder learnt from.",)


def fit_data(prepared: Prepared, dataset: Dataset, bank: np.ndarray) -> FitData:
    """The labelled images of a cell's subset, read from the bank; nothing of any other image."""
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


def run_cell(
    prepared: Prepared,
    dataset: Dataset,
    bank: np.ndarray,
    keep: Keep,
    device: torch.device,
    store: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Trains, judges on the test set and stores.

    Args:
        prepared: the cell.
        dataset: its data set.
        bank: (N, C, S, S) images at the model's size.
        keep: whether weights are stored: `all`, `light` (where they are small) or `none`.
        device: where it runs.
        store: the run store; the default one if None.
        progress: called with (done, in all) by whatever takes long.
    Returns:
        the run's folder.
    """
    began = time.monotonic()
    model = prepared.spec.build(len(dataset.labels), dataset.spec.name, prepared.cell.seed)
    data = fit_data(prepared, dataset, bank)
    context = Context(prepared.cell.seed, device, progress)
    fitted = prepared.strategy.fit(model, prepared.spec, data, prepared.settings, context)
    _round_to_half(model, fitted.keep)
    meta, validation = _operating_point(prepared.meta, fitted, data, dataset)
    test = _predict_test(prepared, model, data, dataset, bank, device, progress)
    scores = Scores(probabilities_of(test.logits, meta.temperature), test.labels, meta.positive, meta.threshold)
    metrics, at_half = _rounded(measure(scores)), _rounded(measure(scores.at(0.5)))
    meta = replace(
        meta,
        metrics=metrics,
        metrics_at_half=at_half,
        seconds=round(time.monotonic() - began, 2),
        device=describe_device(device),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    state = {k: v for k, v in model.state_dict().items() if k.startswith(fitted.keep)}
    kept = keep == "all" or (keep == "light" and 2 * sum(v.numel() for v in state.values()) < LIGHT_BYTES)
    return save_run(meta, validation, test, fitted.history, state if kept else None, store)


def _round_to_half(model: Classifier, prefix: str) -> None:
    """What is measured is what is stored: half precision."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.startswith(prefix) and value.is_floating_point():
                value.copy_(value.half().float())


def _operating_point(meta: RunMeta, fitted: Fitted, data: FitData, dataset: Dataset) -> tuple[RunMeta, Predictions]:
    labels = data.labels[fitted.judged]
    temperature = round(fit_temperature(fitted.logits, labels), 6)
    threshold = 0.5
    if meta.positive is not None:
        probabilities = probabilities_of(fitted.logits, temperature)[:, meta.positive]
        threshold = round(fit_threshold(probabilities, labels == meta.positive), 6)
    rows = data.rows[fitted.judged]
    validation = Predictions(dataset.listing.ids[rows], dataset.parts.groups[rows], labels, fitted.logits)
    return replace(meta, selection=fitted.selection, threshold=threshold, temperature=temperature), validation


def _predict_test(
    prepared: Prepared,
    model: Classifier,
    data: FitData,
    dataset: Dataset,
    bank: np.ndarray,
    device: torch.device,
    progress: Progress | None,
) -> Predictions:
    rows = dataset.parts.test
    images = _Rows(bank, rows)
    if prepared.strategy.head_only:
        cache = embedding_cache(model, prepared.spec, data, prepared.settings.augment, device)
        logits = logits_of(model.head.layers.cpu(), cache.get(images, rows, 0, progress)[:, 0])
    else:
        logits = predict_logits(model, images, prepared.spec.image, device, progress)
    return Predictions(dataset.listing.ids[rows], dataset.parts.groups[rows], dataset.listing.labels[rows], logits)


class _Rows:
    """A view of some rows of a memory-mapped array that reads them only when they are asked for."""

    def __init__(self, images: np.ndarray, rows: np.ndarray) -> None:
        self._images, self._rows = images, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, which: Any) -> np.ndarray:
        return self._images[self._rows[which]]


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def what_to_keep(keep: Keep, cell: Cell, seeds: list[int], sizes: list[int | None]) -> Keep:
    """`served` is what the app answers with: the first seed, light weights at every size and heavy ones at the
    largest, no control. Comes down to `all`, `light` or `none` for a cell.
    """
    if keep != "served":
        return keep
    if MODELS[cell.model].family == "control" or cell.seed != seeds[0]:
        return "none"
    largest = None if None in sizes else max(size for size in sizes if size is not None)
    return "all" if cell.train_size == largest else "light"
