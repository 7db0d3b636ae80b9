"""Settings, cell and data that determine a training run."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from core.data.image_cache import Progress
    from trainer.training.resume import StateFile


@dataclass(frozen=True)
class Settings:
    """Training settings; each strategy defines its own defaults.

    Attributes:
        epochs: passes over the labeled images.
        min_steps: minimum number of optimizer steps; very small subsets get more epochs to reach it.
        batch_size: images per step.
        lr: peak learning rate.
        weight_decay: weight decay of the optimizer.
        augment: name of an augmentation, or of several joined by `+`.
        preparation: names of preprocessing steps joined by `+`; "" for none.
        imbalance: name of a way to handle class imbalance.
        views: augmented views per image where embeddings are cached; 0 where images are augmented anew at every step.
        average: decay per step of the moving average of the weights that is evaluated and stored; 0 disables averaging.
        patience: epochs without a lower held-out loss, counted from the peak of the learning rate, after which a fold
            stops early. The final network is trained for the median length of the folds. 0 disables early stopping.
        layer_decay: factor of the learning rate from each layer of the encoder to the layer before it.
        frozen_below: share of `lr` below which a layer of the encoder stays frozen.
        folds: number of folds of the cross-validation inside the subset; 1 for none.
        loss: name of a loss; "" for the default of the labels: cross-entropy, or masked-bce for findings.
        label_smoothing: share of each label that is spread over all classes.
        optimizer: name of an optimizer.
        schedule: name of a learning rate schedule.
        clip: norm at which the gradients of a network are clipped.
        depth: stages of the encoder, counted from the head, that are fine-tuned; 0 leaves it to `frozen_below`.
        thaw_every: epochs between unfreezing one stage and the next one towards the input; 0 trains all from the start.
        episodes: number of tasks from other data sets for meta-learning; 0 for none.
        tasks: tasks per step of the outer loop.
        shots, queries: images per class in a task's support set and in its query set.
        inner_lr, inner_steps: learning rate and steps of the adaptation to a task's support set in meta-learning.
        adapt_steps: steps of the adaptation to the subset itself.
        outer_lr: peak learning rate of the outer loop.
        order: gradient of the outer loop through the inner loop: `second`, `first`, or `anil` (adapts the head only).
        sources: data sets that provide tasks, joined by `+`; "" for all that are installed and unrelated.
        side: input size in pixels; 0 for the model's own.
        scaling: scaling of embeddings before the head: `unit` centers them and scales each block to unit length,
            `standard` divides each feature by its standard deviation.
        strength: inverse of the L2 penalty of logistic regression; 0 chooses it by out-of-fold likelihood.
        fold_ensemble: 1 averages the heads of the folds and the final head.
        mirror: 1 averages the logits of an image and of its mirror image at test time.
        tune: parameters of the encoder that fine-tuning changes: `layers` (see `layer_decay`, `frozen_below`, `depth`),
            `norm` (normalization layers), `bias` (biases) or `lora` (low-rank updates of the linear layers of a
            transformer).
        rank: rank of the low-rank updates.
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

    def non_defaults(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults.

        The name of a run depends on them alone, so that a setting added later renames no older run.
        """
        return {row.name: getattr(self, row.name) for row in fields(self) if getattr(self, row.name) != row.default}

    def difference_from(self, other: Settings) -> str:
        """Return the settings that differ from others, as `name=value` joined by commas."""
        names = [row.name for row in fields(self) if getattr(self, row.name) != getattr(other, row.name)]
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


@dataclass(frozen=True)
class Cell:
    """One cell of the comparison: data set, model, strategy, train_size (None for all images) and seed."""

    dataset: str
    model: str
    strategy: str
    train_size: int | None
    seed: int

    @property
    def title(self) -> str:
        """Short description for progress lines."""
        return f"{self.model} {self.strategy} n={self.train_size or 'full'} seed {self.seed}"


@dataclass(frozen=True)
class FitData:
    """The labeled images of a subset: all that a fitting function receives. It gives no access to a test set.

    Attributes:
        images: (n, C, S, S) uint8.
        labels: (n,) class indices, or (n, C) findings of 0, 1 and NaN (unknown).
        groups: (n,) group numbers.
        rows: (n,) positions in the data set, under which embeddings are cached.
        classes: number of classes.
        dataset, fingerprint, population: name and hash of the data set, and its total number of images.
    """

    images: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    rows: np.ndarray
    classes: int
    dataset: str
    fingerprint: str
    population: int

    def part(self, which: np.ndarray) -> FitData:
        """Return the images at some positions."""
        return replace(
            self,
            images=self.images[which],
            labels=self.labels[which],
            groups=self.groups[which],
            rows=self.rows[which],
        )


@dataclass(frozen=True)
class FitResult:
    """Result of a fitting function, which trains its model in place.

    Attributes:
        held_out: positions in the subset of the images that were predicted out of fold.
        logits: (J, C) logits of these images.
        trained_prefix: name prefix of the trained tensors; "" for all tensors.
        selection: how these images were held out, in words.
        history: rows of the training curves of the folds (`fold` 1, 2, ...) and of the final network (`fold` 0).
        failed: why the training stopped early, and what to change; "" if it did not.
    """

    held_out: np.ndarray
    logits: np.ndarray
    trained_prefix: str
    selection: str
    history: list[dict[str, Any]] = field(default_factory=list)
    failed: str = ""


@dataclass(frozen=True)
class FitContext:
    """Seed, device and progress of a fit.

    Attributes:
        seed: seed of everything random.
        device: device to run on.
        progress: called with (done, total) during long computations.
        unfinished: file in which an interrupted training of a network is kept, to resume it.
    """

    seed: int
    device: torch.device
    progress: Progress | None = None
    unfinished: StateFile | None = None
