"""Training losses, each for its kind of labels, and PESG, the optimizer of the AUC-margin loss.

Class weights are not a loss: every loss that can takes the weights of `--imbalance class-weights`.

The AUC-margin loss is a saddle point problem: it is minimized over the weights and over a and b (the targets of the
mean scores of positives and negatives), and maximized over alpha (by how much they fall short of the margin). PESG
shares these three variables a score with the loss.

References:
    Label smoothing: Szegedy et al. 2016, arXiv:1512.00567. Focal: Lin et al. 2017, arXiv:1708.02002.
    AUC margin and PESG: Yuan et al. 2021, arXiv:2012.03173, as in LibAUC 2.0.1 (`AUCMLoss` and `MultiLabelAUCMLoss`,
    version 1 with the share of positives of each batch, and `PESG` with its defaults), except that the first reference
    of PESG is the start, as in the paper, where LibAUC draws it at random.
"""

from __future__ import annotations

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
FOCUS = 2.0  # exponent by which the focal loss turns away from what is decided already


class NoNumberError(Exception):
    """A loss, or what a step made of the weights, is no longer a number.

    Its text is what a failed run says, with what to change; of a network's epoch only what it was, to which the loop
    adds the rest.
    """


def are_numbers(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether weights can be stored, in half precision: none is infinite there, or no number."""
    return all(bool(one.half().isfinite().all()) for one in tensors if one.is_floating_point())


@dataclass(frozen=True)
class Loss:
    """A row of the table.

    Attributes:
        name: key in the registry.
        title, meaning: for people.
        build: (settings, number of classes, whether they are findings) -> what takes (B, C) logits, targets, and (C,)
            weights of the classes or None, and gives a scalar. Targets are (B,) class indices or (B, C) probabilities;
            of findings (B, C) in [0, 1] with NaN for unknown, which do not count.
        classes, findings: whether it takes one class an image, and whether (N, C) findings.
        two_only: of classes it takes two.
        weighs: whether it takes weights of classes.
        smooths: whether it takes smoothed labels.
        mixes: whether it takes mixed images.
        held_out: (logits, targets) of held-out images -> scalar, by which an epoch is judged; None for the plain
            negative log-likelihood.
        optimizer: the only optimiser that it goes with; "" for all but those that go with one loss only.
    """

    name: str
    title: str
    meaning: str
    build: Callable[[Settings, int, bool], Compute]
    classes: bool = False
    findings: bool = False
    two_only: bool = False
    weighs: bool = True
    smooths: bool = False
    mixes: bool = True
    held_out: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    optimizer: str = ""

    def judge(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """How bad the logits of held-out images are: (N, C) and their labels."""
        targets = as_targets(labels)
        plain = masked_bce if targets.ndim == 2 else F.cross_entropy
        return float((self.held_out or plain)(torch.from_numpy(logits), targets))


LOSSES: Registry[Loss] = Registry("loss")


def own_loss(labels: np.ndarray) -> str:
    """The loss that goes with (N,) classes or (N, C) findings where no other is asked for."""
    return "masked-bce" if labels.ndim == 2 else "cross-entropy"


def loss_for(settings: Settings, labels: np.ndarray, classes: int) -> Loss:
    """The loss of some settings, where it goes with the labels and with the other settings.

    Args:
        settings: of the training.
        labels: (N,) class indices or (N, C) findings.
        classes: number of classes.
    Raises:
        UnknownName: if there is none of that name.
        BadRequest: if it does not go with them.
    """
    row = LOSSES[settings.loss or own_loss(labels)]
    if not (row.findings if labels.ndim == 2 else row.classes):
        kind = "several findings an image" if labels.ndim == 2 else "one class an image"
        fitting = [one.name for one in LOSSES.values() if (one.findings if labels.ndim == 2 else one.classes)]
        raise BadRequest(f"{row.name} does not take {kind}. Choose --loss {' or '.join(fitting)}.")
    if row.two_only and labels.ndim == 1 and classes != 2:
        raise BadRequest(f"{row.name} takes tasks of two classes, but there are {classes}. Choose another --loss.")
    if not row.weighs and IMBALANCE[settings.imbalance].weighs:
        raise BadRequest(f"{row.name} weighs no classes; leave --imbalance class-weights out.")
    if not row.smooths and settings.label_smoothing:
        raise BadRequest(f"{row.name} does not take smoothed labels. Leave --label-smoothing out.")
    if not row.mixes and augmenter(settings.augment).mixes:
        raise BadRequest(f"{row.name} needs images of one label each, but {settings.augment} mixes them.")
    return row


def as_targets(labels: np.ndarray) -> torch.Tensor:
    """Labels as a loss takes them: (N,) class indices as integers, (N, C) findings as numbers."""
    return torch.from_numpy(labels).float() if labels.ndim == 2 else torch.from_numpy(labels).long()


def share_right(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of images decided rightly; of findings, share of known labels."""
    if targets.ndim == 1:
        return float((logits.argmax(1) == targets).double().mean())
    known = ~targets.isnan()
    return float(((logits > 0) == (targets > 0.5))[known].double().mean()) if known.any() else 0.0


def masked_bce(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean binary cross-entropy over the labels that are known, (B, C) each; 0 where none is."""
    known = ~targets.isnan()
    if not known.any():
        return logits.sum() * 0
    each = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), pos_weight=weights, reduction="none")
    return each[known].mean()


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

    each = focal_loss(logits, targets, alpha=None, gamma=FOCUS, weight=weights).sum(dim=1)
    return each.mean() if weights is None else each.sum() / weights[targets].sum()  # as cross-entropy takes its mean


def _focal_of_findings(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    from kornia.losses import binary_focal_loss_with_logits

    known = ~targets.isnan()
    if not known.any():
        return logits.sum() * 0
    each = binary_focal_loss_with_logits(
        logits, targets.nan_to_num(), alpha=None, gamma=FOCUS, reduction="none", pos_weight=weights
    )
    return each[known].mean()


MARGIN = 1.0
EPOCH_DECAY = 2e-3  # pull towards the reference
INERTIA = 0.9  # share of the gradient of now in the running one
CLIP = 1.0
MOST = 999.0


def scores_and_truth(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores in [0, 1] and labels that go with them: (B, 1) of two classes, (B, C) of findings."""
    if targets.ndim == 1:
        return (logits[:, 1:] - logits[:, :1]).sigmoid(), (targets == 1).float().unsqueeze(1)
    return logits.sigmoid(), targets


class AucMargin(nn.Module):
    """The loss, mean over findings. A batch without positives or without negatives says nothing and gives 0.

    Args:
        scores: 1 for two classes, else the number of findings.
    """

    def __init__(self, scores: int) -> None:
        super().__init__()
        self.a, self.b, self.alpha = (nn.Parameter(torch.zeros(scores)) for _ in range(3))

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """(B, C) logits and targets -> scalar; unknown labels (NaN) do not count."""
        scores, truth = scores_and_truth(logits, targets)
        known = (~truth.isnan()).float()
        count = known.sum(dim=0).clamp(min=1)
        positive, negative = (truth == 1).float(), (truth == 0).float()
        p = positive.sum(dim=0) / count  # (C,)
        to_centres = (1 - p) * (scores - self.a) ** 2 * positive + p * (scores - self.b) ** 2 * negative
        apart = p * scores * negative - (1 - p) * scores * positive
        each = to_centres.sum(dim=0) / count + 2 * self.alpha * (p * (1 - p) * MARGIN + apart.sum(dim=0) / count)
        return (each - p * (1 - p) * self.alpha**2).mean()


def auc_margin_at_best(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss at the a, b and alpha that are best for these images, over p(1 - p): what held-out images are judged by.

    That is the variance of the positives' scores, that of the negatives', and the square of what their means lack to
    the margin. Mean over the findings that have both; 0 where none has.
    """
    scores, truth = scores_and_truth(logits, targets)
    found = []
    for score, label in zip(scores.T, truth.T, strict=True):
        positive, negative = score[label == 1], score[label == 0]
        if len(positive) and len(negative):
            lacking = (MARGIN + negative.mean() - positive.mean()).clamp(min=0)
            found.append(positive.var(correction=0) + negative.var(correction=0) + lacking**2)
    return torch.stack(found).mean() if found else scores.sum() * 0


class Pesg(torch.optim.Optimizer):
    """Proximal epoch stochastic gradient: descends in weights, a and b, held near a reference, and ascends in alpha.

    Args:
        groups: parameter groups, each with its `lr`.
        loss: the loss, whose variables are learnt at the rate of the last group.
        lr: rate of groups that state none.
        weight_decay: pull towards 0.
        restarts: numbers of steps after which the mean of the weights since the last becomes the reference.
    """

    def __init__(
        self, groups: list[dict[str, Any]], loss: AucMargin, lr: float, weight_decay: float, restarts: Sequence[int]
    ) -> None:
        rate = groups[-1].get("lr", lr)
        super().__init__([*groups, {"params": [loss.a, loss.b], "lr": rate}], {"lr": lr, "weight_decay": weight_decay})
        self._loss, self._restarts = loss, frozenset(restarts)
        self.param_groups[-1]["steps"] = 0  # kept with the state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step from the gradients that are there."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._descend(parameter, group["lr"], group["weight_decay"])
        last, loss = self.param_groups[-1], self._loss
        if loss.alpha.grad is not None:
            loss.alpha.add_(last["lr"] * 2 * (MARGIN + loss.b - loss.a - loss.alpha)).clamp_(0, MOST)
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
        state["running"] = change if "running" not in state else state["running"].lerp(change, INERTIA)
        parameter.sub_(state["running"], alpha=lr)
        state["sum"] += parameter
        state["count"] += 1

    def _restart(self) -> None:
        for state in self.state.values():
            state["reference"] = state["sum"] / state["count"]
            state["sum"], state["count"] = torch.zeros_like(state["sum"]), 0


for _row in (
    Loss(
        "cross-entropy", "Cross-entropy",
        "The usual one for one class an image; weigh classes with --imbalance class-weights.",
        _build_cross_entropy, classes=True, smooths=True,
    ),
    Loss(
        "masked-bce", "Binary cross-entropy of each finding",
        "The usual one for findings; labels that are unknown do not count.",
        _build_masked_bce, findings=True, smooths=True,
    ),
    Loss(
        "focal", "Focal", "Cross-entropy that turns away from images that are decided already.",
        lambda settings, classes, findings: _focal_of_findings if findings else _focal_of_classes,
        classes=True, findings=True, mixes=False,
    ),
    Loss(
        "auc-margin", "AUC-margin",
        "Parts the scores of positives from those of negatives, for two classes or each finding; learnt with pesg.",
        lambda settings, classes, findings: AucMargin(classes if findings else 1),
        classes=True, findings=True, two_only=True, weighs=False, mixes=False,
        held_out=auc_margin_at_best, optimizer="pesg",
    ),
):  # fmt: skip
    LOSSES.add(_row)
