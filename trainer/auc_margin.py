"""The AUC-margin loss and PESG, the optimiser that it is learnt with: they share three auxiliary variables a score.

The loss is a saddle: small in the weights and in a and b (where the mean scores of positives and of negatives are
going), large in alpha (by how much they fall short of the margin). An optimiser that only descends cannot learn it.

References:
    Yuan et al. 2021, arXiv:2012.03173. Both follow LibAUC 2.0.1 (`AUCMLoss` and `MultiLabelAUCMLoss` in version 1 with
    the share of positives of each batch, and `PESG` with its defaults), but that the first reference of PESG is the
    start, as in the paper, where LibAUC draws it at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

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
