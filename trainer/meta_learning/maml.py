"""Model-agnostic meta-learning: a start from which a few gradient steps on a few images reach a good network.

`second` order differentiates through those steps, `first` order takes the gradient where they end, `anil` adapts the
head only. No batch normalisation: by it a prediction would depend on the other images asked about.

The head is one linear layer. It begins each task at zero, as its classes have no order that tasks could share, and it
sees embeddings less their mean over the support set: what all images have in common is far larger than what tells them
apart, and a rate that moves the one overshoots along the other. When the steps are done that mean goes into the bias.

References:
    MAML and its first order: Finn et al. 2017, arXiv:1703.03400. ANIL: Raghu et al. 2020, arXiv:1909.09157. A head
    from zero: Kao et al. 2022, arXiv:2106.15367.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.func import functional_call
from torch.nn import functional as F

from core.data.transforms import normalise, to_unit
from core.models.classifier import HEAD_LAYERS, Classifier
from core.types import ImageSpec
from trainer.meta_learning.episodes import Task
from trainer.training.losses import as_targets, masked_bce
from trainer.training.settings import FitData, Settings

ORDERS = ("second", "first", "anil")
ENCODER = "encoder."
WEIGHT, BIAS = f"{HEAD_LAYERS}0.weight", f"{HEAD_LAYERS}0.bias"
_CHUNK = 64  # images whose gradient is computed at once
Weights = dict[str, torch.Tensor]


def adapted(
    model: Classifier,
    images: torch.Tensor,
    targets: torch.Tensor,
    columns: torch.Tensor | None,
    settings: Settings,
    steps: int,
    outer: bool,
) -> Weights:
    """A model's weights, by name, after some gradient steps on a support set; the model itself stays as it is.

    Args:
        model: with the start.
        images: (B, C, S, S), normalised.
        targets: (B,) indices into the columns, or (B, logits) findings with NaN.
        columns: logits of the classes; None for findings.
        settings: `inner_lr` and `order`.
        steps: how many.
        outer: whether a gradient will be taken through them.
    """
    through, head_only = outer and settings.order != "first", settings.order == "anil"
    own = dict(model.named_parameters())
    fast = own | {name: torch.zeros_like(own[name]).requires_grad_() for name in (WEIGHT, BIAS)}
    given = images
    if head_only:
        with torch.set_grad_enabled(through):
            given = torch.cat([model.embed(part) for part in images.split(_CHUNK)])
        fast = {name: fast[name] for name in (WEIGHT, BIAS)}
    if not outer:
        fast = {name: value.detach() for name, value in fast.items()}

    def embed(weights: Weights, part: torch.Tensor) -> torch.Tensor:
        if head_only:
            return part
        encoder = {name.removeprefix(ENCODER): value for name, value in weights.items() if name.startswith(ENCODER)}
        return model.head.pool(functional_call(model.encoder, encoder, (part,)))

    def centre() -> torch.Tensor:
        with torch.set_grad_enabled(through):
            return torch.cat([embed(fast, part) for part in given.split(_CHUNK)]).mean(dim=0)

    for _ in range(steps):
        here = {name: value.clone() if through else value.detach().requires_grad_() for name, value in fast.items()}
        gradients = _gradients(embed, here, centre(), given, targets, columns, through)
        fast = {name: value - settings.inner_lr * gradients[name] for name, value in fast.items()}
    return own | fast | {BIAS: fast[BIAS] - fast[WEIGHT] @ centre()}


def _gradients(
    embed: Callable[[Weights, torch.Tensor], torch.Tensor],
    weights: Weights,
    centre: torch.Tensor,
    given: torch.Tensor,
    targets: torch.Tensor,
    columns: torch.Tensor | None,
    graph: bool,
) -> Weights:
    """The gradient of the mean loss over all images, some at a time."""
    total = {name: torch.zeros(()) for name in weights}
    counts = [_count(part) for part in targets.split(_CHUNK)]
    for part, wanted, count in zip(given.split(_CHUNK), targets.split(_CHUNK), counts, strict=True):
        logits = F.linear(embed(weights, part) - centre, weights[WEIGHT], weights[BIAS])
        loss = count / max(1, sum(counts)) * _loss(logits, wanted, columns)
        found = torch.autograd.grad(
            loss, list(weights.values()), create_graph=graph, allow_unused=True, materialize_grads=True
        )
        total = {name: total[name].to(one.device) + one for name, one in zip(weights, found, strict=True)}
    return total


def _count(targets: torch.Tensor) -> int:
    return int((~targets.isnan()).sum()) if targets.ndim == 2 else len(targets)


def _loss(logits: torch.Tensor, targets: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
    return masked_bce(logits, targets) if columns is None else F.cross_entropy(logits[:, columns], targets)


def query_loss(model: Classifier, task: Task, settings: Settings) -> torch.Tensor:
    """The loss on a task's query set after adaptation to its support set: what the outer loop makes small."""
    fast = adapted(model, task.support, task.support_targets, task.columns, settings, settings.inner_steps, outer=True)
    return _loss(functional_call(model, fast, (task.query,)), task.query_targets, task.columns)


def adapt_to(model: Classifier, data: FitData, image: ImageSpec, settings: Settings, device: torch.device) -> Weights:
    """A meta-learnt model's weights after adaptation to labelled images; the model itself stays as it is."""
    model.eval().to(device)
    pixels = normalise(to_unit(data.images, device), image)
    targets = as_targets(data.labels).to(device)
    columns = torch.arange(data.classes, device=device) if targets.ndim == 1 else None
    fast = adapted(model, pixels, targets, columns, settings, settings.adapt_steps, outer=False)
    return {name: value.detach() for name, value in fast.items()}
