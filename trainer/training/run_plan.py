"""Plan of a run, named but not yet trained: settings, subset, starting weights, record.

Requests that the images at hand cannot meet are refused here, before any training, with what to change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np

from core.data.augmentation import augmenter, in_order
from core.data.dataset import Dataset
from core.data.preprocessing import preparation
from core.data.specs import FINDINGS, JOINED, OPTIONS_AFTER, all_findings
from core.errors import BadRequest
from core.files import canonical_json, sha256_of
from core.models import MODELS
from core.models.specs import ModelSpec, Weights
from core.models.weights import standing, weights_of
from core.paths import library_versions
from core.runs import RunMeta
from trainer.flags import OPTIONS, checked
from trainer.meta_learning.maml import ORDERS
from trainer.meta_learning.outer_loop import hashes_of, notes_on
from trainer.meta_learning.task_sources import Source, sources_for
from trainer.training.class_balance import IMBALANCE, imbalance_for
from trainer.training.contamination import exposure
from trainer.training.fit import settings_of_head
from trainer.training.heads import check_scaling
from trainer.training.layer_freezing import check_tune
from trainer.training.losses import LOSSES, loss_for, own_loss
from trainer.training.optimizers import OPTIMISERS, SCHEDULES, optimiser_for
from trainer.training.recipes import recipe_for
from trainer.training.settings import Cell, Settings
from trainer.training.strategies import STRATEGIES, Strategy

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
_CODE = 3  # raised when a change of the program changes results


@dataclass(frozen=True)
class Prepared:
    """A cell with everything that determines its run, before any training.

    Attributes:
        cell, spec, strategy, settings: what is trained, and how.
        rows: positions of the subset in the data set.
        meta: the run's record, so far.
        sources: what a start is meta-learnt from.
    """

    cell: Cell
    spec: ModelSpec
    strategy: Strategy
    settings: Settings
    rows: np.ndarray
    meta: RunMeta
    sources: tuple[Source, ...] = ()


def settings_of(spec: ModelSpec, strategy: Strategy, per_class: float) -> Settings:
    """Return the strategy's defaults with what the model states otherwise, then what the search found.

    Args:
        spec: the model's row.
        strategy: the strategy.
        per_class: labelled images a class; settings that were searched follow it.
    """
    stated = {name: value for name, value in spec.settings.items() if name in strategy.takes}
    return replace(strategy.settings, **{**stated, **recipe_for(spec, strategy.name, per_class)})


def settings_for(
    usual: Settings,
    strategy: Strategy,
    options: Mapping[str, Any],
    labels: np.ndarray,
    groups: np.ndarray,
    classes: int,
) -> Settings:
    """Settings with what a user asks for, and what comes with it; names are checked and brought into one order.

    Args:
        usual: those of the strategy and model.
        strategy: for which they are.
        options: what is asked for, by the names of `trainer.flags`.
        labels: (n,) classes or (n, C) findings of the subset.
        groups: (n,), of the subset.
        classes: number of classes.
    Raises:
        UnknownName: if an option, or what it names, does not exist.
        BadRequest: if the strategy does not take an option, or some cannot work together or with the subset.
    """
    stated = checked(options)
    if not_taken := [OPTIONS[name].flag for name in stated if name not in strategy.takes]:
        taken = ", ".join(OPTIONS[name].flag for name in strategy.takes)
        raise BadRequest(f"{strategy.name} does not take {not_taken[0]}; it takes {taken}.")
    if "loss" in stated:
        row = LOSSES[stated["loss"]]
        stated = ({"optimizer": row.optimizer} if row.optimizer else {}) | stated
        stated["loss"] = "" if row.name == own_loss(labels) else row.name
    if stated.get("optimizer", usual.optimizer) != usual.optimizer:
        stated = {**OPTIMISERS[stated["optimizer"]].settings, **stated}
    settings = replace(usual, **stated)
    settings = replace(
        settings,
        augment=in_order(settings.augment),
        preparation=preparation(settings.preparation).name,
        imbalance=imbalance_for(settings.imbalance, labels, settings.augment).name,
        schedule=SCHEDULES[settings.schedule].name,
    )
    augmenter(settings.augment)
    check_scaling(settings)
    check_tune(settings)
    optimiser_for(settings, loss_for(settings, labels, classes))
    if "batch_size" in options:
        check_batch(settings, labels)
    return settings


def strategies_of(spec: ModelSpec) -> list[str]:
    """The strategies that go with a model."""
    return [strategy.name for strategy in STRATEGIES.values() if not strategy.why_not(spec)]


def pairs_that_go(
    models: Iterable[str], strategies: Iterable[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(model, strategy) pairs that go together, and those that do not."""
    every = list(product(models, strategies))
    fits = [(model, strategy) for model, strategy in every if not STRATEGIES[strategy].why_not(MODELS[model])]
    return fits, [pair for pair in every if pair not in fits]


def prepare(cell: Cell, dataset: Dataset, options: Mapping[str, Any] = _NO_OPTIONS) -> Prepared:
    """Draws the subset and names the run; cheap, so that a sweep can ask the store before it trains.

    Args:
        cell: what to train.
        dataset: its data set.
        options: settings in which it is to depart from the strategy's own, by the names of `trainer.flags`.
    Raises:
        UnknownName: if an option names what does not exist.
        BadRequest: if model, strategy, data set and augmentation do not go together.
        WeightsUnavailable: if the encoder's weights cannot be had.
        LeakFound: if the encoder learnt from images of the data set and leaks were not allowed.
    """
    spec, strategy = MODELS[cell.model], STRATEGIES[cell.strategy]
    if why := strategy.why_not(spec):
        raise BadRequest(f"{why} It goes with {', '.join(strategies_of(spec))}.")
    if why := unfit(spec, dataset):
        raise BadRequest(f"{why} Choose another model; see python -m trainer list.")
    subset = dataset.subset(cell.train_size, cell.seed)
    labels = dataset.listing.labels[subset.indices]
    usual = settings_of(spec, strategy, cell.train_size or len(labels) / len(dataset.labels))
    check_labels(labels, dataset)
    groups, classes = dataset.parts.groups[subset.indices], len(dataset.labels)
    settings = settings_for(usual, strategy, options, labels, groups, classes)
    _check_augmentation(settings, dataset)
    steps = preparation(settings.preparation)
    spec = replace(spec, image=steps.spec(replace(spec.image, size=settings.side or spec.image.size)))
    sources = _sources(strategy, settings, dataset, cell)
    check_judgeable(dataset)
    weights = weights_of(spec, dataset.spec.name)
    seen, notes = exposure(dataset, weights)
    start = {"size": spec.image.size, "start": weights.sha256 or f"random, seed {cell.seed}"}
    config, stated = asdict(settings) | start, settings.stated() | start
    if strategy.starts_from:
        stated["starts_from"] = STRATEGIES[strategy.starts_from].settings.stated()
        config["starts_from"] = asdict(settings_of_head(settings))
    if sources:
        config["meta_learnt_from"] = stated["meta_learnt_from"] = hashes_of(sources)
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
        short=subset.short,
        config=config,
        subset_hash=subset.hash,
        split_hash=dataset.split_hash,
        fingerprint=dataset.fingerprint,
        notes=(
            *dataset.parts.notes,
            *notes,
            *_idle(settings, labels),
            *_unknown(dataset, spec, weights),
            *notes_on(sources, settings),
        ),
        leaks=dataset.parts.leaks + seen,
        preparation=steps.of_pixels,
        size=spec.image.size,
        mean=spec.image.mean,
        std=spec.image.std,
        encoder=weights.record(),
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
    return Prepared(cell, spec, strategy, settings, subset.indices, meta, sources)


def _sources(strategy: Strategy, settings: Settings, dataset: Dataset, cell: Cell) -> tuple[Source, ...]:
    """What the start is meta-learnt from; nothing where the strategy has no such start."""
    if not strategy.query_loss:
        return ()
    if settings.order and settings.order not in ORDERS:
        raise BadRequest(f"Expected --order to be one of {', '.join(ORDERS)}, but got {settings.order!r}.")
    return tuple(sources_for(dataset, cell, settings.sources))


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


def _idle(settings: Settings, labels: np.ndarray) -> tuple[str, ...]:
    """That nothing of a subset is repeated or left out, where a way to meet imbalance was asked for, in a sentence."""
    row = IMBALANCE[settings.imbalance]
    if row.name == "none" or labels.ndim == 2 or len(set(np.bincount(labels)[np.unique(labels)].tolist())) > 1:
        return ()
    plain = " No image is shown in an augmented view." if row.plain_first else ""
    return (f"Every class of the subset has as many images, so that {row.name} changes nothing.{plain}",)


def _unknown(dataset: Dataset, spec: ModelSpec, weights: Weights) -> tuple[str, ...]:
    """What nobody knows of an encoder and these images, in sentences."""
    if spec.seen and not dataset.spec.synthetic:
        named = f"The encoder's makers say that it saw {spec.seen.named}."
        if standing(spec, dataset.spec.name) == "unknown":
            return (f"{named} Whether images of this set are among their private sources is not known.",)
        return (f"{named} They do not name this set, which does not prove that it was unseen.",)
    return ("What the encoder's weights have seen is not known.",) if weights.kind == "file" else ()


def check_batch(settings: Settings, labels: np.ndarray) -> None:
    """Raises BadRequest where a batch that was asked for holds more images than an epoch shows."""
    shown = len(labels) if labels.ndim == 2 else int(IMBALANCE[settings.imbalance].shown(labels).sum())
    if settings.batch_size > shown:
        raise BadRequest(
            f"--batch-size {settings.batch_size} is larger than the {shown} labelled images that an epoch shows. Lower "
            "it, or raise --size."
        )


def check_labels(labels: np.ndarray, dataset: Dataset) -> None:
    """Raises BadRequest where the subset says nothing of a class, or knows one side only of a finding."""
    if labels.ndim == 1:
        if missing := [name for c, name in enumerate(dataset.labels) if c not in labels]:
            raise BadRequest(
                f"The subset has no image of {', '.join(missing)}, because the training part has none. Add some, or "
                "leave the class out of the data set."
            )
        return
    known, lacking = [], []
    for name, column in zip(dataset.labels, labels.T, strict=True):
        if not (column > 0.5).any():
            lacking.append(f"{name} (no image shows it)")
        elif not (column <= 0.5).any():
            lacking.append(f"{name} (no image is known to be without it)")
        else:
            known.append(name)
    if lacking:
        raise BadRequest(f"The subset cannot teach {', '.join(lacking)}. Raise --size, or {_without(dataset, known)}.")


def _without(dataset: Dataset, findings: list[str]) -> str:
    """How to ask for some findings only."""
    if not findings or dataset.spec.path is not None:
        return "leave out what it cannot teach"
    base = all_findings(dataset.spec).name
    joined = "," if OPTIONS_AFTER in base else OPTIONS_AFTER
    return f"ask for the others: --dataset {base}{joined}{FINDINGS}={JOINED.join(findings)}"


def check_judgeable(dataset: Dataset) -> None:
    """Raises BadRequest where no finding of the test part has both positive and negative images."""
    labels = dataset.listing.labels[dataset.parts.test]
    if labels.ndim == 2 and not ((labels > 0.5).any(axis=0) & (labels <= 0.5).any(axis=0)).any():
        raise BadRequest(f"No finding of {dataset.spec.name} is both present and absent among its test images.")
