"""What training losses compute, and the values around them: targets, accuracy, and whether weights are finite.

References:
    Label smoothing: Szegedy et al. 2016, arXiv:1512.00567. Focal: Lin et al. 2017, arXiv:1708.02002.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch.nn import functional as F

from trainer.training.settings import Settings

Compute = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
FOCUS = 2.0  # gamma of the focal loss: exponent that reduces the weight of well-classified images


class NonFiniteError(Exception):
    """The loss or a weight is not finite.

    The text is stored with the failed run and says what to change. For an epoch of a network it names only the value;
    the training loop adds the rest.
    """


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Return whether all weights are finite in half precision, in which they are stored."""
    return all(bool(tensor.half().isfinite().all()) for tensor in tensors if tensor.is_floating_point())


def as_targets(labels: np.ndarray) -> torch.Tensor:
    """Convert labels for a loss: (N,) class indices to int64, (N, C) findings to float32."""
    return torch.from_numpy(labels).float() if labels.ndim == 2 else torch.from_numpy(labels).long()


def accuracy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the accuracy: over images, or for findings over known labels."""
    if targets.ndim == 1:
        return float((logits.argmax(1) == targets).double().mean())
    known = ~targets.isnan()
    return float(((logits > 0) == (targets > 0.5))[known].double().mean()) if known.any() else 0.0


def masked_bce(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean binary cross-entropy of (B, C) logits over the known labels; 0 if none is known."""
    known = ~targets.isnan()
    if not known.any():
        return logits.sum() * 0
    elementwise = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), pos_weight=weights, reduction="none")
    return elementwise[known].mean()


def mean_log_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean log-loss of (B, C) logits, for findings over the known labels."""
    return masked_bce(logits, targets) if targets.ndim == 2 else F.cross_entropy(logits, targets)


def build_cross_entropy(settings: Settings, classes: int, findings: bool) -> Compute:
    """Build the cross-entropy of classes."""
    smoothing = settings.label_smoothing
    return lambda logits, targets, weights: F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)


def build_masked_bce(settings: Settings, classes: int, findings: bool) -> Compute:
    """Build the binary cross-entropy of findings."""
    share = settings.label_smoothing
    if not share:
        return masked_bce
    return lambda logits, targets, weights: masked_bce(logits, targets * (1 - share) + share / 2, weights)


def build_focal(settings: Settings, classes: int, findings: bool) -> Compute:
    """Build the focal loss."""
    return _focal_of_findings if findings else _focal_of_classes


def _focal_of_classes(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    from kornia.losses import focal_loss

    per_image = focal_loss(logits, targets, alpha=None, gamma=FOCUS, weight=weights).sum(dim=1)
    # weighted mean, as in cross-entropy
    return per_image.mean() if weights is None else per_image.sum() / weights[targets].sum()


def _focal_of_findings(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    from kornia.losses import binary_focal_loss_with_logits

    known = ~targets.isnan()
    if not known.any():
        return logits.sum() * 0
    elementwise = binary_focal_loss_with_logits(
        logits, targets.nan_to_num(), alpha=None, gamma=FOCUS, reduction="none", pos_weight=weights
    )
    return elementwise[known].mean()
