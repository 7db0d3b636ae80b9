"""Model-agnostic meta-learning (MAML): initial weights that adapt to a few images in a few gradient steps.

`second` order differentiates through those steps, `first` order takes the gradient at their end, `anil` adapts the head
only. Batch normalization is not allowed: it makes a prediction depend on the other images of its batch.

The head is one linear layer. It starts each task at zero, because tasks share no order of classes. It receives
embeddings minus their mean over the support set: the component common to all images is far larger than the differences
between them, and a learning rate that suits one of the two does not suit the other. After the last step the mean
becomes part of the bias.

References:
    MAML and its first order: Finn et al. 2017, arXiv:1703.03400. ANIL: Raghu et al. 2020, arXiv:1909.09157. A head
    that starts at zero: Kao et al. 2022, arXiv:2106.15367.
"""

from collections.abc import Callable

import torch
from torch.func import functional_call
from torch.nn import functional as F

from core.data.transforms import normalize, to_unit
from core.models.classifier import HEAD_LAYERS, Classifier
from core.types import ImageSpec
from trainer.meta_learning.episodes import Task
from trainer.training.loss_functions import as_targets, masked_bce
from trainer.training.settings import FitData, Settings

ENCODER = "encoder."
WEIGHT, BIAS = f"{HEAD_LAYERS}0.weight", f"{HEAD_LAYERS}0.bias"
_CHUNK = 64  # number of images whose gradient is computed at once
Weights = dict[str, torch.Tensor]


def adapt(
    model: Classifier,
    images: torch.Tensor,
    targets: torch.Tensor,
    columns: torch.Tensor | None,
    settings: Settings,
    steps: int,
    outer: bool,
) -> Weights:
    """Return a model's weights, by name, after gradient steps on a support set; the model itself is unchanged.

    Args:
        model: model with the initial weights.
        images: (B, C, S, S), normalized.
        targets: (B,) indices into the columns, or (B, logits) findings with NaN.
        columns: logits of the classes; None for findings.
        settings: `inner_lr` and `order` are used.
        steps: number of steps.
        outer: whether the outer loop will differentiate through the steps.
    """
    differentiate, head_only = outer and settings.order != "first", settings.order == "anil"

    # The head starts at zero; ANIL adapts it alone, on embeddings computed once
    parameters = dict(model.named_parameters())
    fast = parameters | {name: torch.zeros_like(parameters[name]).requires_grad_() for name in (WEIGHT, BIAS)}
    inputs = images
    if head_only:
        with torch.set_grad_enabled(differentiate):
            inputs = torch.cat([model.embed(part) for part in images.split(_CHUNK)])
        fast = {name: fast[name] for name in (WEIGHT, BIAS)}
    if not outer:  # outside the outer loop nothing reaches back to the initial weights
        fast = {name: value.detach() for name, value in fast.items()}

    def embed(weights: Weights, part: torch.Tensor) -> torch.Tensor:
        if head_only:
            return part
        encoder = {name.removeprefix(ENCODER): value for name, value in weights.items() if name.startswith(ENCODER)}
        return model.head.pool(functional_call(model.encoder, encoder, (part,)))

    def support_mean() -> torch.Tensor:
        with torch.set_grad_enabled(differentiate):
            return torch.cat([embed(fast, part) for part in inputs.split(_CHUNK)]).mean(dim=0)

    # Each step uses all support images, their embeddings centered; first order detaches the weights before it
    for _ in range(steps):
        current = {
            name: value.clone() if differentiate else value.detach().requires_grad_() for name, value in fast.items()
        }
        gradients = _gradients(embed, current, support_mean(), inputs, targets, columns, differentiate)
        fast = {name: value - settings.inner_lr * gradients[name] for name, value in fast.items()}
    # Fold the mean of the embeddings into the bias
    return parameters | fast | {BIAS: fast[BIAS] - fast[WEIGHT] @ support_mean()}


def _gradients(
    embed: Callable[[Weights, torch.Tensor], torch.Tensor],
    weights: Weights,
    center: torch.Tensor,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    columns: torch.Tensor | None,
    graph: bool,
) -> Weights:
    """Return the gradient of the mean loss over all images, computed in chunks."""
    total = {name: torch.zeros(()) for name in weights}
    counts = [int((part >= 0).sum()) for part in targets.split(_CHUNK)]  # NaN is unknown
    for part, part_targets, count in zip(inputs.split(_CHUNK), targets.split(_CHUNK), counts, strict=True):
        logits = F.linear(embed(weights, part) - center, weights[WEIGHT], weights[BIAS])
        loss = count / max(1, sum(counts)) * _loss(logits, part_targets, columns)
        gradients = torch.autograd.grad(
            loss, list(weights.values()), create_graph=graph, allow_unused=True, materialize_grads=True
        )
        total = {
            name: total[name].to(gradient.device) + gradient for name, gradient in zip(weights, gradients, strict=True)
        }
    return total


def _loss(logits: torch.Tensor, targets: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
    return masked_bce(logits, targets) if columns is None else F.cross_entropy(logits[:, columns], targets)


def query_loss(model: Classifier, task: Task, settings: Settings) -> torch.Tensor:
    """Return the loss on a task's query set after adaptation to its support set, which the outer loop minimizes."""
    fast = adapt(model, task.support, task.support_targets, task.columns, settings, settings.inner_steps, outer=True)
    return _loss(functional_call(model, fast, (task.query,)), task.query_targets, task.columns)


def adapt_to(model: Classifier, data: FitData, image: ImageSpec, settings: Settings, device: torch.device) -> Weights:
    """Return a meta-learned model's weights after adaptation to labeled images; the model itself is unchanged."""
    model.eval().to(device)
    pixels = normalize(to_unit(data.images, device), image)
    targets = as_targets(data.labels).to(device)
    columns = torch.arange(data.classes, device=device) if targets.ndim == 1 else None
    fast = adapt(model, pixels, targets, columns, settings, settings.adapt_steps, outer=False)
    return {name: value.detach() for name, value in fast.items()}
