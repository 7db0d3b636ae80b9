"""Parameter groups for fine-tuning: which parameters are trained, at which learning rate, from which epoch on.

References:
    Howard and Ruder 2018, arXiv:1801.06146: lower rates for layers further from the head, and gradual unfreezing.
    Hu et al. 2022, arXiv:2106.09685: low-rank updates (LoRA). Ben Zaken et al. 2022, arXiv:2106.10199: biases only.
    Frankle et al. 2021, arXiv:2003.00152: batch normalization only.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from core.errors import BadRequest
from core.models.encoders import layer_groups
from trainer.training.settings import Settings

THAW = "thaw"  # key of a parameter group: completed epochs after which its training starts
Groups = list[dict[str, Any]]


def stages_of(encoder: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of an encoder by stage, from the input to the head.

    In a network that lists its feature maps (as timm's do), each stage ends with one of them. In any other network, a
    stage is a layer or block, in the order in which the network lists them.
    """
    network = getattr(encoder, "network", encoder)
    assert isinstance(network, nn.Module)
    maps = [row["module"] for row in getattr(network, "feature_info", [])]
    indices = {name: index for index, (name, _) in enumerate(network.named_modules())}
    ends = [max(index for name, index in indices.items() if f"{name}.".startswith(f"{module}.")) for module in maps]
    if not ends:
        ends = [max(indices[name] for name in names) for names in _blocks(network)]
    stages: list[list[nn.Parameter]] = [[] for _ in ends]
    for name, parameter in network.named_parameters():
        index = indices[name.rpartition(".")[0]]
        stages[min(sum(end < index for end in ends), len(ends) - 1)].append(parameter)
    return [stage for stage in stages if stage]


def _blocks(network: nn.Module, prefix: str = "") -> Iterator[list[str]]:
    """Yield the module names of each block: a member of a list or sequence, or a child of the network.

    A wrapper around a single module is replaced by that module.
    """
    children = [(name, child) for name, child in network.named_children() if next(child.parameters(), None) is not None]
    if not children:
        yield [prefix.rstrip(".")]
    for name, child in children:
        if isinstance(child, nn.ModuleList | nn.Sequential) or (len(children) == 1 and next(child.children(), None)):
            yield from _blocks(child, f"{prefix}{name}.")
        else:
            yield [f"{prefix}{name}.{below}".rstrip(".") for below, _ in child.named_modules()]


def parameter_groups(encoder: nn.Module, settings: Settings) -> Groups:
    """Return parameter groups of the trained part of an encoder; the rest of the encoder is frozen.

    Args:
        encoder: encoder of a classifier.
        settings: `tune`, `lr`, `layer_decay`, `frozen_below`, `depth`, `thaw_every` and `rank` are used.
    Raises:
        BadRequest: if the encoder has fewer stages than `depth`, or no parameters of the kind that `tune` selects.
    """
    if settings.tune != "layers":
        encoder.requires_grad_(False)
        selected = list(_SELECTORS[settings.tune](encoder, settings.rank))
        if not selected:
            raise BadRequest(
                f"This encoder has no parameters that --tune {settings.tune} could train. Choose another value."
            )
        for parameter in selected:
            parameter.requires_grad_(True)
        return [{"params": selected, "lr": settings.lr}]
    if not settings.depth and not settings.thaw_every:
        return layer_groups(encoder, settings.lr, settings.layer_decay, settings.frozen_below)
    stages = stages_of(encoder)[::-1]
    if settings.depth > len(stages):
        raise BadRequest(f"This encoder has {len(stages)} stages, but --depth is {settings.depth}. Lower it.")
    rates = _rates(encoder, stages, settings)
    trained = stages[: settings.depth or len(stages)]
    encoder.requires_grad_(False)
    return [
        {"params": parameters, "lr": rate, THAW: index * settings.thaw_every}
        for index, stage in enumerate(trained)
        for rate, parameters in _by_rate(stage, rates)
    ]


class LowRank(nn.Module):
    """Low-rank update of a linear layer's kernel, as a parametrization: W + up @ down.

    Args:
        kernel: (out, in) kernel, which stays fixed.
        rank: rank of the update, which is zero at initialization.
    """

    def __init__(self, kernel: torch.Tensor, rank: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(kernel.shape[0], rank))
        self.down = nn.Parameter(torch.randn(rank, kernel.shape[1]) / kernel.shape[1] ** 0.5)

    def forward(self, kernel: torch.Tensor) -> torch.Tensor:
        return kernel + self.up @ self.down


def _low_rank(encoder: nn.Module, rank: int) -> Iterator[nn.Parameter]:
    """Add a low-rank update to every linear layer of an encoder, in place, and yield its parameters."""
    for layer in [layer for layer in encoder.modules() if isinstance(layer, nn.Linear)]:
        update = LowRank(layer.weight, rank)
        parametrize.register_parametrization(layer, "weight", update)
        yield from (update.up, update.down)


def merge_low_rank(model: nn.Module) -> None:
    """Merge low-rank updates into the kernels, in place."""
    for layer in [layer for layer in model.modules() if parametrize.is_parametrized(layer, "weight")]:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def _norms(encoder: nn.Module, rank: int) -> Iterator[nn.Parameter]:
    for layer in encoder.modules():
        if isinstance(layer, nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._BatchNorm):
            yield from layer.parameters(recurse=False)


def _biases(encoder: nn.Module, rank: int) -> Iterator[nn.Parameter]:
    yield from (parameter for name, parameter in encoder.named_parameters() if name.endswith("bias"))


_SELECTORS: dict[str, Callable[[nn.Module, int], Iterator[nn.Parameter]]] = {
    "norm": _norms, "bias": _biases, "lora": _low_rank,
}  # fmt: skip


def _rates(encoder: nn.Module, stages: list[list[nn.Parameter]], settings: Settings) -> dict[int, float]:
    """Return the learning rate of each parameter by its `id`: by layer where timm knows the layers, else by stage."""
    lr, decay = settings.lr, settings.layer_decay
    if hasattr(encoder, "network"):
        return {id(p): group["lr"] for group in layer_groups(encoder, lr, decay, 0.0) for p in group["params"]}
    return {id(p): lr * decay**index for index, stage in enumerate(stages) for p in stage}


def _by_rate(stage: Iterable[nn.Parameter], rates: dict[int, float]) -> Iterator[tuple[float, list[nn.Parameter]]]:
    for rate in sorted({rates[id(p)] for p in stage}):
        yield rate, [p for p in stage if rates[id(p)] == rate]


def unfreeze_due(groups: Groups, epochs: int) -> None:
    """Unfreeze the groups that are due and freeze those that are not; groups without `THAW` are always trained.

    Args:
        groups: parameter groups of the optimizer.
        epochs: number of completed epochs.
    """
    for group in groups:
        if THAW in group:
            for parameter in group["params"]:
                parameter.requires_grad_(epochs >= group[THAW])


def check_unfreezing(groups: Groups, epochs: int) -> None:
    """Raise BadRequest if a group would still be frozen at the end of training."""
    latest = max((group.get(THAW, 0) for group in groups), default=0)
    if latest >= epochs:
        raise BadRequest(
            f"Training of the last stage would start after {latest} epochs, but there are only {epochs} epochs. Lower "
            "--thaw-every or --depth, or raise --epochs."
        )
