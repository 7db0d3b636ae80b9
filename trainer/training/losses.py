"""Training losses for classes and findings, and PESG, the optimizer of the AUC-margin loss.

Class weights are not a loss: every loss that supports them takes the weights of `--imbalance class-weights`.

The AUC-margin loss is a saddle point problem. It is minimized over the weights and over a and b (the targets of the
mean scores of positives and negatives), and maximized over alpha (by how much their difference falls short of the
margin). PESG and the loss share these three variables, one triple per score.

References:
    Label smoothing: Szegedy et al. 2016, arXiv:1512.00567. Focal: Lin et al. 2017, arXiv:1708.02002.
    AUC margin and PESG: Yuan et al. 2021, arXiv:2012.03173, as in LibAUC 2.0.1 (`AUCMLoss` and `MultiLabelAUCMLoss`,
    version 1 with the share of positives of each batch, and `PESG` with its defaults). One difference: the first
    reference of PESG is the initial weights, as in the paper, where LibAUC samples it at random.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from core.data.augmentation import augmenter
from core.errors import BadRequest
from core.registry import Registry
from trainer.training.class_balance import IMBALANCE
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
        held_out: (logits, targets) of held-out images -> scalar for early stopping; None for the plain negative
            log-likelihood.
        optimizer: the only optimizer that it works with; "" for all optimizers but those made for one loss only.
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
    held_out: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    optimizer: str = ""

    def held_out_loss(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """Return the held-out loss of (N, C) logits given their labels."""
        targets = as_targets(labels)
        plain = masked_bce if targets.ndim == 2 else F.cross_entropy
        return float((self.held_out or plain)(torch.from_numpy(logits), targets))


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
        BadRequest: if it does not go with the labels or with the other settings.
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


def _build_cross_entropy(settings: Settings, classes: int, findings: bool) -> Compute:
    smoothing = settings.label_smoothing
    return lambda logits, targets, weights: F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)


def _build_masked_bce(settings: Settings, classes: int, findings: bool) -> Compute:
    share = settings.label_smoothing
    if not share:
        return masked_bce
    return lambda logits, targets, weights: masked_bce(logits, targets * (1 - share) + share / 2, weights)


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


MARGIN = 1.0
EPOCH_DECAY = 2e-3  # strength of the pull towards the reference
GRADIENT_WEIGHT = 0.9  # weight of the current gradient in the running average
CLIP = 1.0  # maximum absolute value of a gradient element
MAX_ALPHA = 999.0  # maximum of alpha


def scores_and_truth(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores in [0, 1] and their labels: (B, 1) for two classes, (B, C) for findings."""
    if targets.ndim == 1:
        return (logits[:, 1:] - logits[:, :1]).sigmoid(), (targets == 1).float().unsqueeze(1)
    return logits.sigmoid(), targets


class AucMargin(nn.Module):
    """AUC-margin loss, averaged over findings. A batch without positives or without negatives gives 0.

    Args:
        scores: 1 for two classes, else the number of findings.
    """

    def __init__(self, scores: int) -> None:
        super().__init__()
        self.a, self.b, self.alpha = (nn.Parameter(torch.zeros(scores)) for _ in range(3))

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """Compute the scalar loss of (B, C) logits and targets; unknown labels (NaN) are ignored."""
        scores, truth = scores_and_truth(logits, targets)
        known = (~truth.isnan()).float()
        count = known.sum(dim=0).clamp(min=1)
        positive, negative = (truth == 1).float(), (truth == 0).float()
        p = positive.sum(dim=0) / count  # (C,)
        spread = (1 - p) * (scores - self.a) ** 2 * positive + p * (scores - self.b) ** 2 * negative
        separation = p * scores * negative - (1 - p) * scores * positive
        per_score = spread.sum(dim=0) / count + 2 * self.alpha * (p * (1 - p) * MARGIN + separation.sum(dim=0) / count)
        return (per_score - p * (1 - p) * self.alpha**2).mean()


def auc_margin_at_optimum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """AUC-margin loss at the best a, b and alpha for these images, divided by p(1 - p); used on held-out images.

    It is the variance of the positives' scores, plus that of the negatives' scores, plus the squared shortfall of the
    difference of their means from the margin. It is averaged over the findings that have both; 0 if none has.
    """
    scores, truth = scores_and_truth(logits, targets)
    terms = []
    for score, label in zip(scores.T, truth.T, strict=True):
        positive, negative = score[label == 1], score[label == 0]
        if len(positive) and len(negative):
            shortfall = (MARGIN + negative.mean() - positive.mean()).clamp(min=0)
            terms.append(positive.var(correction=0) + negative.var(correction=0) + shortfall**2)
    return torch.stack(terms).mean() if terms else scores.sum() * 0


class Pesg(torch.optim.Optimizer):
    """Proximal epoch stochastic gradient: descent in weights, a and b, pulled towards a reference; ascent in alpha.

    Args:
        groups: parameter groups, each with its `lr`.
        loss: the loss, whose variables are updated at the rate of the last group.
        lr: learning rate of groups that have none.
        weight_decay: strength of the pull towards 0.
        restarts: step counts after which the mean of the weights since the last restart becomes the reference.
    """

    def __init__(
        self, groups: list[dict[str, Any]], loss: AucMargin, lr: float, weight_decay: float, restarts: Sequence[int]
    ) -> None:
        rate = groups[-1].get("lr", lr)
        super().__init__([*groups, {"params": [loss.a, loss.b], "lr": rate}], {"lr": lr, "weight_decay": weight_decay})
        self._loss, self._restarts = loss, frozenset(restarts)
        self.param_groups[-1]["steps"] = 0  # part of the saved state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step from the current gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._descend(parameter, group["lr"], group["weight_decay"])
        last, loss = self.param_groups[-1], self._loss
        if loss.alpha.grad is not None:
            loss.alpha.add_(last["lr"] * 2 * (MARGIN + loss.b - loss.a - loss.alpha)).clamp_(0, MAX_ALPHA)
            loss.alpha.grad = None
        last["steps"] += 1
        if last["steps"] in self._restarts:
            self._restart()

    def _descend(self, parameter: torch.Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state["reference"], state["sum"], state["count"] = parameter.clone(), torch.zeros_like(parameter), 0
        assert parameter.grad is not None
        change = parameter.grad.clamp(-CLIP, CLIP)
        change = change + EPOCH_DECAY * (parameter - state["reference"]) + weight_decay * parameter
        state["running"] = change if "running" not in state else state["running"].lerp(change, GRADIENT_WEIGHT)
        parameter.sub_(state["running"], alpha=lr)
        state["sum"] += parameter
        state["count"] += 1

    def _restart(self) -> None:
        for state in self.state.values():
            state["reference"] = state["sum"] / state["count"]
            state["sum"], state["count"] = torch.zeros_like(state["sum"]), 0


LOSSES.add(
    Loss(
        "cross-entropy", "Default for one class per image; --imbalance class-weights adds class weights.",
        _build_cross_entropy, classes=True, smooths=True,
    ),
    Loss(
        "masked-bce", "Default for findings; unknown labels are ignored.",
        _build_masked_bce, findings=True, smooths=True,
    ),
    Loss(
        "focal", "Cross-entropy with less weight on images that are already classified well.",
        lambda settings, classes, findings: _focal_of_findings if findings else _focal_of_classes,
        classes=True, findings=True, mixes=False,
    ),
    Loss(
        "auc-margin",
        "Separates the scores of positives and negatives, for two classes or each finding; needs the optimizer pesg.",
        lambda settings, classes, findings: AucMargin(classes if findings else 1),
        classes=True, findings=True, binary_only=True, takes_class_weights=False, mixes=False,
        held_out=auc_margin_at_optimum, optimizer="pesg",
    ),
)  # fmt: skip
