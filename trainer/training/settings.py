"""What determines a training run."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch

from core.data.image_cache import Progress
from trainer.training.resume import Unfinished


@dataclass(frozen=True)
class Settings:
    """How a strategy trains; each strategy states its own defaults.

    Attributes:
        epochs: passes over the labelled images.
        min_steps: optimiser steps at least; more epochs are made where a subset is so small that they are fewer.
        batch_size: images a step.
        lr: peak learning rate.
        weight_decay: of the optimiser.
        augment: name of an augmentation, or of several joined by `+`.
        preparation: names of preprocessing steps joined by `+`; "" for none.
        imbalance: name of a way to meet class imbalance.
        views: augmented views of each image, where embeddings are cached; 0 where images change anew at every step.
        average: decay a step of the moving average of the weights that is evaluated and kept; 0 keeps the weights as
            they are.
        patience: epochs without a lower held-out loss after the peak of the learning rate, at which a fold stops; the
            final network is trained for the median length of the folds. 0 for the full length.
        layer_decay: factor of the rate from each layer of the encoder to the one before it.
        frozen_below: share of `lr` below which a layer of the encoder stays frozen.
        folds: parts of the cross-validation inside the subset.
        loss: name of a loss; "" for the one that goes with the labels: cross-entropy, or masked-bce for findings.
        label_smoothing: share of each label that is spread over all classes.
        optimizer: name of an optimiser.
        schedule: name of a schedule of the learning rate.
        clip: norm at which the gradients of a network are clipped.
        depth: stages of the encoder, from the head down, that are fine-tuned; 0 leaves it to `frozen_below`.
        thaw_every: epochs after which the next stage down starts to learn; 0 starts all at once.
        episodes: tasks of other data sets from which the start is meta-learnt; 0 for none.
        tasks: of them, before each step of the outer loop.
        shots, queries: images a class of a task's support and of its query set.
        inner_lr, inner_steps: of the adaptation to a task's support set while meta-learning.
        adapt_steps: steps of the adaptation to the subset itself.
        outer_lr: peak rate of the outer loop.
        order: what the outer loop sees of the inner one: `second`, `first`, or `anil`, which adapts the head only.
        sources: data sets that tasks come from, joined by `+`; "" for all that are here and unrelated.
        side: input size in pixels; 0 for the model's own.
        scaling: of embeddings before the head: `unit` centers them and scales each block to unit length, `standard`
            divides each feature by its deviation.
        strength: inverse of the L2 penalty of logistic regression; 0 chooses it by out-of-fold likelihood.
        fold_ensemble: 1 averages the heads of the folds and the final head.
        mirror: 1 averages the logits of an image and of its mirror image at test time.
        tune: which parameters of the encoder fine-tuning changes: `layers` (see `layer_decay`, `frozen_below`,
            `depth`), `norm` (those of normalization layers), `bias` (biases) or `lora` (low-rank updates of the linear
            layers of a transformer).
        rank: of the low-rank updates.
    """

    epochs: int
    min_steps: int
    batch_size: int
    lr: float
    weight_decay: float
    augment: str = "aggressive"
    views: int = 0
    average: float = 0.0
    patience: int = 0
    layer_decay: float = 1.0
    frozen_below: float = 0.0
    folds: int = 5
    preparation: str = ""
    imbalance: str = "none"
    loss: str = ""
    label_smoothing: float = 0.0
    optimizer: str = "adamw"
    schedule: str = "one-cycle"
    clip: float = 5.0
    depth: int = 0
    thaw_every: int = 0
    episodes: int = 0
    tasks: int = 0
    shots: int = 0
    queries: int = 0
    inner_lr: float = 0.0
    inner_steps: int = 0
    adapt_steps: int = 0
    outer_lr: float = 0.0
    order: str = ""
    sources: str = ""
    side: int = 0
    scaling: str = "unit"
    strength: float = 0.0
    fold_ensemble: int = 0
    mirror: int = 0
    tune: str = "layers"
    rank: int = 8

    def stated(self) -> dict[str, Any]:
        """What differs from the defaults; a run is named by it, so that a setting added later renames no older run."""
        return {row.name: getattr(self, row.name) for row in fields(self) if getattr(self, row.name) != row.default}

    def changed_from(self, usual: Settings) -> str:
        """What differs from other settings, as `name=value` joined by commas."""
        names = [row.name for row in fields(self) if getattr(self, row.name) != getattr(usual, row.name)]
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


@dataclass(frozen=True)
class Cell:
    """One cell of the comparison."""

    dataset: str
    model: str
    strategy: str
    train_size: int | None
    seed: int

    @property
    def title(self) -> str:
        """For progress lines."""
        return f"{self.model} {self.strategy} n={self.train_size or 'full'} seed {self.seed}"


@dataclass(frozen=True)
class FitData:
    """All that a fitting function receives: the labelled images of a subset. There is no way from here to a test set.

    Attributes:
        images: (n, C, S, S), uint8.
        labels: (n,), class indices; or (n, C) findings of 0, 1 and NaN (unknown).
        groups: (n,), group numbers.
        rows: (n,), positions in the data set, by which embeddings are cached.
        classes: number of classes.
        fingerprint, population: of the data set: its hash and how many images it has in all.
    """

    images: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    rows: np.ndarray
    classes: int
    fingerprint: str
    population: int

    def part(self, which: np.ndarray) -> FitData:
        """The images at some positions."""
        return replace(
            self,
            images=self.images[which],
            labels=self.labels[which],
            groups=self.groups[which],
            rows=self.rows[which],
        )


@dataclass(frozen=True)
class Fitted:
    """What a fitting function returns; the model it trained is changed in place.

    Attributes:
        judged: positions in the subset of the images that were predicted out of fold.
        logits: (J, C), for them.
        keep: prefix of the tensors that were trained, "" for all.
        selection: how these images were held out, in words.
        history: rows of the training curves of the folds (`fold` 1, 2, ...) and of the final network (`fold` 0).
        failed: why the training stopped before its end, with what to change; "" where it did not.
    """

    judged: np.ndarray
    logits: np.ndarray
    keep: str
    selection: str
    history: list[dict[str, Any]] = field(default_factory=list)
    failed: str = ""


@dataclass(frozen=True)
class Context:
    """Where and how a fit runs.

    Attributes:
        seed: of everything random.
        device: where it runs.
        progress: called with (done, in all) by whatever takes long.
        unfinished: where a training of a network is kept after each epoch, to go on from after a kill.
    """

    seed: int
    device: torch.device
    progress: Progress | None = None
    unfinished: Unfinished | None = None
