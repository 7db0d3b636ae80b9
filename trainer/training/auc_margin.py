"""The AUC-margin loss and PESG, its optimizer.

The loss is a saddle point problem. It is minimized over the weights and over a and b (the targets of the mean scores of
positives and negatives), and maximized over alpha (by how much their difference falls short of the margin). PESG and
the loss share these three variables, one triple per score.

References:
    AUC margin and PESG: Yuan et al. 2021, arXiv:2012.03173, as in LibAUC 2.0.1 (`AUCMLoss` and `MultiLabelAUCMLoss`,
    version 1 with the share of positives of each batch, and `PESG` with its defaults). One difference: the first
    reference of PESG is the initial weights, as in the paper, where LibAUC samples it at random.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from trainer.training.settings import Settings

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


def build_auc_margin(settings: Settings, classes: int, findings: bool) -> AucMargin:
    """Build the loss, with one triple of variables per finding, or one for two classes."""
    return AucMargin(classes if findings else 1)


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
