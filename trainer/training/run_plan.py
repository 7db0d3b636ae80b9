"""Plan of a run before training: settings, subset, starting weights and the name of the run.

Requests that do not fit the installed images are refused here, before any training, with a remedy.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from core.data.augmentation import augmenter, canonical_name
from core.data.dataset import Dataset
from core.data.preprocessing import Preparation, preparation
from core.data.specs import FINDINGS, JOINED, OPTIONS_SEPARATOR, all_findings
from core.errors import BadRequest
from core.files import canonical_json, sha256_of
from core.models import MODELS
from core.models.specs import ModelSpec, Weights
from core.models.weights import exposure_of, weights_of
from core.runs import RunSetup
from trainer.flags import OPTIONS, checked
from trainer.meta_learning.task_sources import Source, hashes_of, source_notes, sources_for
from trainer.progress import progress_bar
from trainer.training.class_balance import IMBALANCE, imbalance_for
from trainer.training.contamination import count_seen_images
from trainer.training.frozen_settings import head_settings
from trainer.training.losses import LOSSES, default_loss, loss_for
from trainer.training.optimizers import OPTIMIZERS, SCHEDULES, optimizer_for
from trainer.training.recipes import recipe_for
from trainer.training.settings import Cell, Settings
from trainer.training.strategies import STRATEGIES, Strategy, strategies_of

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
_CODE = 3  # increment when a change of the program changes results


@dataclass(frozen=True)
class ExposureCheck:
    """Whether an encoder may have been trained on the images of an external test set.

    Attributes:
        refused: why the run must not be evaluated, with the remedy; "" where it may be.
        same_archive: whether the encoder was trained on the same archive, without the patients of the set.
        note: what is not known; "" for nothing.
    """

    refused: str = ""
    same_archive: bool = False
    note: str = ""


@dataclass(frozen=True)
class RunPlan:
    """Everything that determines a run, before training.

    Attributes:
        cell, spec, strategy, settings: what is trained, and how.
        defaults: settings of the model and strategy at this size, without the user's options.
        rows: positions of the subset in the data set.
        setup: the part of the run's record that is known before training.
        sources: data sets for meta-learning.
        exposures: name of an external set -> the check of its images, if it was made before the training: it reads data
            sets that another machine may lack.
    """

    cell: Cell
    spec: ModelSpec
    strategy: Strategy
    settings: Settings
    defaults: Settings
    rows: np.ndarray
    setup: RunSetup
    sources: tuple[Source, ...] = ()
    exposures: Mapping[str, ExposureCheck] = field(default_factory=dict)

    @property
    def preparation(self) -> Preparation:
        """Preprocessing steps of the images, for the model's encoder."""
        return preparation(self.settings.preparation).for_encoder(self.spec.image)

    def images(self, dataset: Dataset) -> np.ndarray:
        """Return (N, C, S, S) images of a data set at the model's size; they are decoded if they are not cached."""
        with progress_bar(f"{dataset.spec.name}: decoding at {self.spec.image.size} px") as show:
            return dataset.bank(self.spec.image.size, show, self.preparation).images


def settings_of(spec: ModelSpec, strategy: Strategy, per_class: float) -> Settings:
    """Return the strategy's defaults, overridden by the model's row and then by the searched settings.

    Args:
        spec: the model's row in the registry.
        strategy: the strategy.
        per_class: labeled images per class, on which searched settings depend.
    """
    stated = {name: value for name, value in spec.settings.items() if name in strategy.takes}
    settings = replace(strategy.settings, **{**stated, **recipe_for(spec, strategy.name, per_class)})
    return replace(settings, augment=canonical_name(settings.augment))


def settings_for(
    defaults: Settings, strategy: Strategy, options: Mapping[str, Any], labels: np.ndarray, classes: int
) -> Settings:
    """Return settings with a user's options and what they imply; names are checked and brought into a fixed order.

    Args:
        defaults: settings of the strategy and model.
        strategy: the strategy.
        options: the user's options, by the names of `trainer.flags`.
        labels: (n,) classes or (n, C) findings of the subset.
        classes: number of classes.
    Raises:
        UnknownName: if an option, or the name it gives, does not exist.
        BadRequest: if the strategy does not take an option, or options conflict with each other or with the subset.
    """
    stated = checked(options)
    if not_taken := [OPTIONS[name].flag for name in stated if name not in strategy.takes]:
        taken = ", ".join(OPTIONS[name].flag for name in strategy.takes)
        raise BadRequest(f"{strategy.name} does not take {not_taken[0]}; it takes {taken}.")
    if "loss" in stated:
        row = LOSSES[stated["loss"]]
        implied: dict[str, Any] = {"optimizer": row.optimizer} if row.optimizer else {}
        if not row.smooths:  # a searched recipe may smooth labels
            implied["label_smoothing"] = 0.0
        stated = implied | stated
        stated["loss"] = "" if row.name == default_loss(labels) else row.name
    if stated.get("optimizer", defaults.optimizer) != defaults.optimizer:
        stated = {**OPTIMIZERS[stated["optimizer"]].settings, **stated}
    settings = replace(defaults, **stated)
    settings = replace(
        settings,
        augment=canonical_name(settings.augment),
        preparation=preparation(settings.preparation).name,
        imbalance=imbalance_for(settings.imbalance, labels, settings.augment).name,
        schedule=SCHEDULES[settings.schedule].name,
    )
    augmenter(settings.augment)
    optimizer_for(settings, loss_for(settings, labels, classes))
    if "batch_size" in options:
        check_batch(settings, labels)
    return settings


def plan_run(cell: Cell, dataset: Dataset, options: Mapping[str, Any] = _NO_OPTIONS) -> RunPlan:
    """Draw the subset and name the run. This is cheap: a sweep can look up the run in the store before training.

    Args:
        cell: the cell to train.
        dataset: its data set.
        options: settings that override the strategy's own, by the names of `trainer.flags`.
    Raises:
        UnknownName: if an option names something that does not exist.
        BadRequest: if model, strategy, data set and settings are incompatible.
        WeightsUnavailable: if the encoder's weights are not available.
        LeakFound: if the encoder was trained on images of the data set and leaks are not allowed.
    """
    spec, strategy = MODELS[cell.model], STRATEGIES[cell.strategy]
    if why := strategy.incompatibility(spec):
        raise BadRequest(f"{why} It supports {', '.join(strategies_of(spec))}.")
    if why := incompatibility(spec, dataset):
        raise BadRequest(f"{why} Choose another model; see python -m trainer list.")
    # subset and settings
    subset = dataset.subset(cell.train_size, cell.seed)
    labels = dataset.listing.labels[subset.indices]
    defaults = settings_of(spec, strategy, cell.train_size or len(labels) / len(dataset.labels))
    if cell.train_size is None and strategy.head_only:  # encoding every training image several times takes hours
        defaults = replace(defaults, views=0, augment="none")
    check_labels(labels, dataset)
    settings = settings_for(defaults, strategy, options, labels, len(dataset.labels))
    _check_augmentation(settings, dataset)
    steps = preparation(settings.preparation)
    spec = replace(spec, image=steps.spec(replace(spec.image, size=settings.side or spec.image.size)))
    sources = tuple(sources_for(dataset, cell, settings.sources)) if strategy.query_loss else ()
    check_test_labels(dataset)
    # starting weights, and which images they have already seen
    weights = weights_of(spec, dataset.spec.name)
    leaked, notes = count_seen_images(dataset, weights)
    start = {"size": spec.image.size, "start": weights.sha256 or f"random, seed {cell.seed}"}
    # name of the run, from all that determines its result
    config, stated = asdict(settings) | start, settings.non_defaults() | start
    if strategy.starts_from:
        stated["starts_from"] = STRATEGIES[strategy.starts_from].settings.non_defaults()
        config["starts_from"] = asdict(head_settings(settings))
    if sources:
        config["meta_learnt_from"] = stated["meta_learnt_from"] = hashes_of(sources)
    key = sha256_of([canonical_json([_CODE, asdict(cell), stated, subset.hash, dataset.split_hash])])
    sampled = IMBALANCE[settings.imbalance].class_counts(labels, len(dataset.labels))
    setup = RunSetup(
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
        variant=settings.difference_from(defaults),
        images=len(subset.indices),
        sampled=dict(zip(dataset.labels, sampled.tolist(), strict=True)),
        short=subset.short,
        config=config,
        subset_hash=subset.hash,
        split_hash=dataset.split_hash,
        fingerprint=dataset.fingerprint,
        notes=(
            *dataset.parts.notes,
            *notes,
            *_imbalance_notes(settings, labels),
            *_exposure_notes(dataset, spec, weights),
            *source_notes(sources, settings),
        ),
        leaks=dataset.parts.leaks + leaked,
        preparation=steps.pixel_steps,
        size=spec.image.size,
        mean=spec.image.mean,
        std=spec.image.std,
        encoder=weights.record(),
        trained="head" if strategy.head_only else "all",
    )
    return RunPlan(cell, spec, strategy, settings, defaults, subset.indices, setup, sources)


def incompatibility(spec: ModelSpec, dataset: Dataset) -> str:
    """Return why a model cannot take a data set's images at all, in a sentence; "" if it can."""
    if spec.image.dims == dataset.spec.dims:
        return ""
    kinds = {2: "images", 3: "volumes"}
    return f"{dataset.spec.name} holds {kinds[dataset.spec.dims]}, but {spec.name} takes {kinds[spec.image.dims]}."


def _check_augmentation(settings: Settings, dataset: Dataset) -> None:
    """Raise BadRequest if an augmentation takes only images and the data set holds volumes."""
    images_only = [row.name for row in augmenter(settings.augment).rows if not row.volumes]
    if dataset.spec.dims == 3 and images_only:
        raise BadRequest(f"The augmentation {images_only[0]} does not take volumes. Leave it out.")


def _imbalance_notes(settings: Settings, labels: np.ndarray) -> tuple[str, ...]:
    """Return the note that a way to handle imbalance has no effect, as the classes of the subset are balanced."""
    row = IMBALANCE[settings.imbalance]
    if row.name == "none" or labels.ndim == 2 or len(set(np.bincount(labels)[np.unique(labels)].tolist())) > 1:
        return ()
    views_note = " No image is shown in an augmented view." if row.plain_first else ""
    return (f"Every class of the subset has as many images, so that {row.name} changes nothing.{views_note}",)


def _exposure_notes(dataset: Dataset, spec: ModelSpec, weights: Weights) -> tuple[str, ...]:
    """Return notes on what is not known about the encoder's earlier exposure to these images."""
    if spec.seen and not dataset.spec.synthetic:
        statement = f"The encoder's makers say that it saw {spec.seen.named}."
        if exposure_of(spec, dataset.spec.name) == "unknown":
            return (f"{statement} Whether images of this set are among their private sources is not known.",)
        return (f"{statement} They do not name this set, which does not prove that it was unseen.",)
    return ("What the encoder's weights have seen is not known.",) if weights.kind == "file" else ()


def check_batch(settings: Settings, labels: np.ndarray) -> None:
    """Raise BadRequest if the requested batch size exceeds the number of images in an epoch."""
    images = IMBALANCE[settings.imbalance].images_per_epoch(labels)
    if settings.batch_size > images:
        raise BadRequest(
            f"--batch-size {settings.batch_size} is larger than the {images} labeled images of an epoch. Lower it, "
            "or raise --size."
        )


def check_labels(labels: np.ndarray, dataset: Dataset) -> None:
    """Raise BadRequest if the subset lacks a class, or the positive or negative images of a finding."""
    if labels.ndim == 1:
        if missing := [name for c, name in enumerate(dataset.labels) if c not in labels]:
            raise BadRequest(
                f"The subset has no image of {', '.join(missing)}, because the training part has none. Add images, or "
                "remove the class from the data set."
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
        raise BadRequest(
            f"The subset cannot train {', '.join(lacking)}. Raise --size, or {_remedy_for_findings(dataset, known)}."
        )


def _remedy_for_findings(dataset: Dataset, findings: list[str]) -> str:
    """Return how to request only the findings that can be trained."""
    if not findings or dataset.spec.path is not None:
        return "leave these findings out"
    base = all_findings(dataset.spec).name
    joined = "," if OPTIONS_SEPARATOR in base else OPTIONS_SEPARATOR
    return f"select the others: --dataset {base}{joined}{FINDINGS}={JOINED.join(findings)}"


def check_test_labels(dataset: Dataset) -> None:
    """Raise BadRequest if no finding has both positive and negative images in the test part."""
    labels = dataset.listing.labels[dataset.parts.test]
    if labels.ndim == 2 and not ((labels > 0.5).any(axis=0) & (labels <= 0.5).any(axis=0)).any():
        raise BadRequest(f"No finding of {dataset.spec.name} is both present and absent among its test images.")
