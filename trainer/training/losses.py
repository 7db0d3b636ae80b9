"""Registry of training losses for classes and findings.

Class weights are not a loss: every loss that supports them takes the weights of `--imbalance class-weights`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from core.data.augmentation import augmenter
from core.errors import BadRequest
from core.registry import LazyFunction, Registry
from trainer.training.class_balance import IMBALANCE
from trainer.training.settings import Settings

if TYPE_CHECKING:
    import torch

    from trainer.training.loss_functions import Compute

_LOG_LOSS = LazyFunction("trainer.training.loss_functions:mean_log_loss")


@dataclass(frozen=True)
class Loss:
    """A row of the registry.

    Attributes:
        name: key in the registry.
        meaning: text for display.
        build: (settings, number of classes, whether they are findings) -> a function of (B, C) logits, targets, and
            (C,) class weights or None, that returns a scalar. Targets are (B,) class indices or (B, C) probabilities;
            for findings (B, C) in [0, 1] with NaN for unknown, which are ignored.
        classes, findings: whether it supports one class per image, and (N, C) findings.
        binary_only: whether it supports only two classes.
        takes_class_weights: whether it supports class weights.
        smooths: whether it supports smoothed labels.
        mixes: whether it supports mixed images.
        held_out: (logits, targets) of held-out images -> scalar for early stopping.
        optimizer: the only optimizer that it works with; "" for all optimizers except those made for one loss.
    """

    name: str
    meaning: str
    build: Callable[[Settings, int, bool], Compute]
    classes: bool = False
    findings: bool = False
    binary_only: bool = False
    takes_class_weights: bool = True
    smooths: bool = False
    mixes: bool = True
    held_out: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = _LOG_LOSS
    optimizer: str = ""

    def held_out_loss(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """Return the held-out loss of (N, C) logits given their labels."""
        import torch

        from trainer.training.loss_functions import as_targets

        return float(self.held_out(torch.from_numpy(logits), as_targets(labels)))


LOSSES: Registry[Loss] = Registry("loss")


def default_loss(labels: np.ndarray) -> str:
    """Return the default loss of (N,) classes or (N, C) findings."""
    return "masked-bce" if labels.ndim == 2 else "cross-entropy"


def loss_for(settings: Settings, labels: np.ndarray, classes: int) -> Loss:
    """Return the loss of some settings.

    Args:
        settings: training settings.
        labels: (N,) class indices or (N, C) findings.
        classes: number of classes.
    Raises:
        UnknownName: if there is none of that name.
        BadRequest: if it is incompatible with the labels or with the other settings.
    """
    row = LOSSES[settings.loss or default_loss(labels)]
    if not (row.findings if labels.ndim == 2 else row.classes):
        kind = "several findings an image" if labels.ndim == 2 else "one class an image"
        suitable = [loss.name for loss in LOSSES.values() if (loss.findings if labels.ndim == 2 else loss.classes)]
        raise BadRequest(f"{row.name} does not take {kind}. Choose --loss {' or '.join(suitable)}.")
    if row.binary_only and labels.ndim == 1 and classes != 2:
        raise BadRequest(f"{row.name} needs a task of two classes, but there are {classes}. Choose another --loss.")
    if not row.takes_class_weights and IMBALANCE[settings.imbalance].uses_class_weights:
        raise BadRequest(f"{row.name} does not take class weights. Leave --imbalance class-weights out.")
    if not row.smooths and settings.label_smoothing:
        raise BadRequest(f"{row.name} does not take smoothed labels. Leave --label-smoothing out.")
    if not row.mixes and augmenter(settings.augment).mixes:
        raise BadRequest(
            f"{row.name} does not take mixed images, but --augment {settings.augment} mixes them. Choose another one."
        )
    return row


LOSSES.add(
    Loss(
        "cross-entropy", "Default for one class per image; --imbalance class-weights adds class weights.",
        LazyFunction("trainer.training.loss_functions:build_cross_entropy"),
        classes=True, smooths=True,
    ),
    Loss(
        "masked-bce", "Default for findings; unknown labels are ignored.",
        LazyFunction("trainer.training.loss_functions:build_masked_bce"),
        findings=True, smooths=True,
    ),
    Loss(
        "focal", "Cross-entropy with less weight on images that are already classified well.",
        LazyFunction("trainer.training.loss_functions:build_focal"),
        classes=True, findings=True, mixes=False,
    ),
    Loss(
        "auc-margin",
        "Separates the scores of positives and negatives, for two classes or each finding; needs the optimizer pesg.",
        LazyFunction("trainer.training.auc_margin:build_auc_margin"),
        classes=True, findings=True, binary_only=True, takes_class_weights=False, mixes=False,
        held_out=LazyFunction("trainer.training.auc_margin:auc_margin_at_optimum"), optimizer="pesg",
    ),
)  # fmt: skip
