"""From what is asked for to a run that is named but not yet trained: settings, subset, starting weights, record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from types import MappingProxyType

import numpy as np

from core.checkpoints import RunMeta
from core.data.augment import augmenter
from core.data.dataset import Dataset
from core.data.preprocessing import preparation
from core.errors import BadRequest
from core.models import MODELS
from core.models.sources import standing, weights_of
from core.models.specs import ModelSpec, Weights
from core.runtime import library_versions
from core.storage import canonical_json, sha256_of
from trainer.config import Cell, Settings
from trainer.imbalance import IMBALANCE, imbalance_for
from trainer.strategies import STRATEGIES, Strategy

_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
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


def _asked(usual: Settings, options: Mapping[str, str]) -> Settings:
    """Settings with what a user asks for, names checked and brought into one order.

    Raises:
        UnknownName: if an augmentation, preprocessing step or way to meet imbalance does not exist.
        BadRequest: if some cannot work together.
    """
    settings = replace(usual, **{name: value for name, value in options.items() if value})  # type: ignore[arg-type]
    augmenter(settings.augment)
    return replace(
        settings,
        preparation=preparation(settings.preparation).name,
        imbalance=IMBALANCE[settings.imbalance].name,
    )


def pairs_that_go(
    models: Iterable[str], strategies: Iterable[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(model, strategy) pairs that go together, and those that do not."""
    every = list(product(models, strategies))
    fits = [(model, strategy) for model, strategy in every if STRATEGIES[strategy].name in MODELS[model].strategies]
    return fits, [pair for pair in every if pair not in fits]


def prepare(cell: Cell, dataset: Dataset, options: Mapping[str, str] = _NO_OPTIONS) -> Prepared:
    """Draws the subset and names the run; cheap, so that a sweep can ask the store before it trains.

    Args:
        cell: what to train.
        dataset: its data set.
        options: settings in which it is to depart from the strategy's own: `augment`, `preparation`, `imbalance`.
    Raises:
        UnknownName: if an option names what does not exist.
        BadRequest: if model, strategy, data set and augmentation do not go together.
        WeightsUnavailable: if the encoder's weights cannot be had.
    """
    spec, strategy = MODELS[cell.model], STRATEGIES[cell.strategy]
    if strategy.name not in spec.strategies:
        raise BadRequest(f"{spec.name} does not go with {strategy.name}; it goes with {', '.join(spec.strategies)}.")
    if why := unfit(spec, dataset):
        raise BadRequest(f"{why} Choose another model; see python -m trainer list.")
    usual = settings_of(spec, strategy)
    settings = _asked(usual, options)
    _check_augmentation(settings, dataset)
    steps = preparation(settings.preparation)
    spec = replace(spec, image=steps.spec(spec.image))
    subset = dataset.subset(cell.train_size, cell.seed)
    labels = dataset.listing.labels[subset.indices]
    imbalance = imbalance_for(settings.imbalance, labels, settings.augment)
    _check_judgeable(dataset)
    weights = weights_of(spec, dataset.spec.name)
    start = {"size": spec.image.size, "start": weights.sha256 or f"random, seed {cell.seed}"}
    config, stated = asdict(settings) | start, settings.stated() | start
    if strategy.starts_from:
        before = STRATEGIES[strategy.starts_from].settings
        config["starts_from"], stated["starts_from"] = asdict(before), before.stated()
    key = sha256_of([canonical_json([_CODE, asdict(cell), stated, subset.hash, dataset.split_hash])])
    meta = RunMeta(
        run=f"{spec.slug}-{cell.strategy}-n{cell.train_size or 'full'}-s{cell.seed}-{key[:8]}",
        dataset=dataset.spec.name,
        dataset_title=dataset.spec.title,
        task=dataset.spec.task,
        labels=dataset.labels,
        positive=dataset.spec.positive,
        channels=dataset.spec.channels,
        synthetic=dataset.spec.synthetic,
        model=spec.name,
        family=spec.family,
        strategy=strategy.name,
        train_size=cell.train_size,
        seed=cell.seed,
        variant=settings.changed_from(usual),
        images=len(subset.indices),
        sampled=dict(zip(dataset.labels, imbalance.shown(labels, len(dataset.labels)).tolist(), strict=True)),
        short=subset.short,
        config=config,
        subset_hash=subset.hash,
        split_hash=dataset.split_hash,
        fingerprint=dataset.fingerprint,
        notes=(*dataset.parts.notes, *_unchecked(dataset, spec, weights)),
        leaks=dataset.parts.leaks,
        preparation=steps.of_pixels,
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


def _check_judgeable(dataset: Dataset) -> None:
    """Raises BadRequest where no finding of the test part has both positive and negative images."""
    labels = dataset.listing.labels[dataset.parts.test]
    if labels.ndim == 2 and not ((labels > 0.5).any(axis=0) & (labels <= 0.5).any(axis=0)).any():
        raise BadRequest(f"No finding of {dataset.spec.name} is both present and absent among its test images.")


def unfit(spec: ModelSpec, dataset: Dataset) -> str:
    """Why a model cannot take a data set's images at all, in a sentence; "" if it can."""
    if spec.image.dims == dataset.spec.dims:
        return ""
    kinds = {2: "images", 3: "volumes"}
    return f"{dataset.spec.name} holds {kinds[dataset.spec.dims]}, but {spec.name} takes {kinds[spec.image.dims]}."


def _check_augmentation(settings: Settings, dataset: Dataset) -> None:
    """Raises BadRequest where an augmentation is for images and the data set holds volumes."""
    flat = [row.name for row in augmenter(settings.augment).rows if not row.volumes]
    if dataset.spec.dims == 3 and flat:
        raise BadRequest(f"The augmentation {flat[0]} does not take volumes. Leave it out.")


def _unchecked(dataset: Dataset, spec: ModelSpec, weights: Weights) -> tuple[str, ...]:
    """What nobody knows of an encoder and these images, in sentences."""
    if spec.seen and not dataset.spec.synthetic:
        named = f"The encoder's makers say that it saw {spec.seen.named}."
        if standing(spec, dataset.spec.name) == "unknown":
            return (f"{named} Whether images of this set are among their private sources is not known.",)
        return (f"{named} They do not name this set, which does not prove that it was unseen.",)
    if weights.kind == "file":
        return ("What the encoder's weights have seen is not known.",)
    if weights.kind != "own" or dataset.spec.path is None:
        return ()
    return ("Nobody has compared these images with those that the medical encoder learnt from.",)
