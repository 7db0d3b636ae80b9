"""The table of losses: what is made small while a model trains. Each copes with its task's kind of labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from core.registry import Registry

Compute = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class Loss:
    """A row of the table.

    Attributes:
        name: key in the registry.
        title: for people.
        multilabel: whether it takes (N, C) findings; else one class an image.
        compute: ((B, C) logits, targets, (C,) weights of the classes or None) -> scalar. Targets are (B,) class
            indices or (B, C) probabilities; of findings (B, C) in [0, 1] with NaN for unknown, which do not count.
    """

    name: str
    title: str
    multilabel: bool
    compute: Compute


LOSSES: Registry[Loss] = Registry("loss")


def loss_for(labels: np.ndarray) -> Loss:
    """The loss that goes with (N,) classes or (N, C) findings."""
    return LOSSES["masked-bce" if labels.ndim == 2 else "cross-entropy"]


def as_targets(labels: np.ndarray) -> torch.Tensor:
    """Labels as a loss takes them: (N,) class indices as integers, (N, C) findings as numbers."""
    return torch.from_numpy(labels).float() if labels.ndim == 2 else torch.from_numpy(labels).long()


def share_right(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of images decided rightly; of findings, share of known labels."""
    if targets.ndim == 1:
        return float((logits.argmax(1) == targets).double().mean())
    known = ~targets.isnan()
    return float(((logits > 0) == (targets > 0.5))[known].double().mean()) if known.any() else 0.0


def _masked_bce(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    known = ~targets.isnan()
    if not known.any():
        return logits.sum() * 0
    each = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), pos_weight=weights, reduction="none")
    return each[known].mean()


LOSSES.add(
    Loss(
        "cross-entropy",
        "Cross-entropy",
        False,
        lambda logits, targets, weights: F.cross_entropy(logits, targets, weights),
    )
)
LOSSES.add(Loss("masked-bce", "Binary cross-entropy of each finding", True, _masked_bce))
