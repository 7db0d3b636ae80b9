"""Model-agnostic meta-learning: a start from which a few gradient steps on a few images reach a good network.

`second` order differentiates through those steps, `first` order takes the gradient where they end, `anil` adapts the
head only. No batch normalisation: by it a prediction would depend on the other images asked about.

References:
    MAML and its first order: Finn et al. 2017, arXiv:1703.03400. ANIL: Raghu et al. 2020, arXiv:1909.09157.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from core.data.transforms import normalise, to_unit
from core.errors import BadRequest
from core.models.classifier import Classifier
from core.types import ImageSpec
from trainer.config import FitData, Settings
from trainer.episodes import Task
from trainer.losses import as_targets, masked_bce

ORDERS = ("second", "first", "anil")
HEAD = "tapped."
_CHUNK = 64  # images whose gradient is computed at once
Weights = dict[str, torch.Tensor]


def check_model(name: str, model: nn.Module) -> None:
    """Raises BadRequest if a model has batch normalisation."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise BadRequest(
            f"{name} has batch normalisation, by which what it says of an image would depend on the others of the "
            "batch. Choose a model with group normalisation or none."
        )


def adapted(
    model: Classifier,
    weights: Weights,
    images: torch.Tensor,
    targets: torch.Tensor,
    columns: torch.Tensor | None,
    settings: Settings,
    steps: int,
    outer: bool,
) -> Weights:
    """Weights after some gradient steps on a support set.

    Args:
        model: whose weights they are.
        weights: its own, by name.
        images: (B, C, S, S), normalised.
        targets: (B,) indices into the columns, or (B, logits) findings with NaN.
        columns: logits of the classes; None for findings.
        settings: `inner_lr` and `order`.
        steps: how many.
        outer: whether a gradient will be taken through them.
    """
    net, prefix, given = _moved(model, images, settings.order, outer)
    fast = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    for _ in range(steps):
        if not outer:
            fast = {name: value.detach().requires_grad_() for name, value in fast.items()}
        gradients = _gradients(net, fast, given, targets, columns, outer and settings.order != "first")
        fast = {name: value - settings.inner_lr * gradients[name] for name, value in fast.items()}
    return {**weights, **{prefix + name: value for name, value in fast.items()}}


def _moved(model: Classifier, images: torch.Tensor, order: str, outer: bool) -> tuple[nn.Module, str, torch.Tensor]:
    """What the steps change, the prefix of its weights, and what it is given: for ANIL the head and feature maps, which
    no step changes.
    """
    if order != "anil":
        return model, "", images
    with torch.set_grad_enabled(outer):
        return model.tapped, HEAD, torch.cat([model.encoder(part) for part in images.split(_CHUNK)])


def _gradients(
    net: nn.Module,
    weights: Weights,
    given: torch.Tensor,
    targets: torch.Tensor,
    columns: torch.Tensor | None,
    graph: bool,
) -> Weights:
    """The gradient of the mean loss over all images, some at a time."""
    total = {name: torch.zeros(()) for name in weights}
    counts = [_count(part) for part in targets.split(_CHUNK)]
    for part, wanted, count in zip(given.split(_CHUNK), targets.split(_CHUNK), counts, strict=True):
        share = count / max(1, sum(counts))
        loss = share * _loss(functional_call(net, weights, (part,)), wanted, columns)
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
    weights: Weights = dict(model.named_parameters())
    steps = settings.inner_steps
    fast = adapted(model, weights, task.support, task.support_targets, task.columns, settings, steps, outer=True)
    return _loss(functional_call(model, fast, (task.query,)), task.query_targets, task.columns)


def adapt_to(model: Classifier, data: FitData, image: ImageSpec, settings: Settings, device: torch.device) -> Weights:
    """A meta-learnt model's weights after adaptation to labelled images; the model itself stays as it is."""
    model.eval().to(device)
    weights: Weights = dict(model.named_parameters())
    pixels = normalise(to_unit(data.images, device), image)
    targets = as_targets(data.labels).to(device)
    columns = torch.arange(data.classes, device=device) if targets.ndim == 1 else None
    fast = adapted(model, weights, pixels, targets, columns, settings, settings.adapt_steps, outer=False)
    return {name: value.detach() for name, value in fast.items()}
