"""Which parameters of an encoder fine-tuning changes, how fast each layer, and from which epoch on.

References:
    Howard and Ruder 2018, arXiv:1801.06146: lower rates for layers further from the head, and unfreezing from it down.
    Hu et al. 2022, arXiv:2106.09685: low-rank updates (LoRA). Ben Zaken et al. 2022, arXiv:2106.10199: biases alone.
    Frankle et al. 2021, arXiv:2003.00152: batch normalization alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from core.errors import BadRequest
from core.models.encoders import layer_groups
from trainer.training.settings import Settings

THAW = "thaw"  # key of a parameter group: epochs that are over before it starts to learn
Groups = list[dict[str, Any]]


def stages_of(encoder: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of an encoder by stage, that next to the head last.

    A stage of a network that names its feature maps (timm's do) ends with one of them. Of any other network, a stage is
    a layer or block in the order in which it lists them.
    """
    network = getattr(encoder, "network", encoder)
    assert isinstance(network, nn.Module)
    maps = [row["module"] for row in getattr(network, "feature_info", [])]
    places = {name: place for place, (name, _) in enumerate(network.named_modules())}
    ends = [max(place for name, place in places.items() if f"{name}.".startswith(f"{module}.")) for module in maps]
    if not ends:
        ends = [max(places[name] for name in names) for names in _blocks(network)]
    stages: list[list[nn.Parameter]] = [[] for _ in ends]
    for name, parameter in network.named_parameters():
        place = places[name.rpartition(".")[0]]
        stages[min(sum(end < place for end in ends), len(ends) - 1)].append(parameter)
    return [stage for stage in stages if stage]


def _blocks(network: nn.Module, prefix: str = "") -> Iterator[list[str]]:
    """Names of the modules of each block: of a list or sequence each member, of a lone wrapper what it wraps."""
    children = [(name, child) for name, child in network.named_children() if next(child.parameters(), None) is not None]
    if not children:
        yield [prefix.rstrip(".")]
    for name, child in children:
        if isinstance(child, nn.ModuleList | nn.Sequential) or (len(children) == 1 and next(child.children(), None)):
            yield from _blocks(child, f"{prefix}{name}.")
        else:
            yield [f"{prefix}{name}.{below}".rstrip(".") for below, _ in child.named_modules()]


def groups_of(encoder: nn.Module, settings: Settings) -> Groups:
    """Return parameter groups of what is to be trained of an encoder; the rest of it is frozen.

    Args:
        encoder: of a classifier.
        settings: of the training: `tune`, `lr`, `layer_decay`, `frozen_below`, `depth`, `thaw_every` and `rank`.
    Raises:
        BadRequest: if the encoder has fewer stages than are to be trained, or nothing of the kind that is to be.
    """
    check_tune(settings)
    if settings.tune != "layers":
        encoder.requires_grad_(False)
        chosen = list(_CHOSEN[settings.tune](encoder, settings.rank))
        if not chosen:
            raise BadRequest(f"This encoder has nothing that --tune {settings.tune} could train. Choose another.")
        for parameter in chosen:
            parameter.requires_grad_(True)
        return [{"params": chosen, "lr": settings.lr}]
    if not settings.depth and not settings.thaw_every:
        return layer_groups(encoder, settings.lr, settings.layer_decay, settings.frozen_below)
    stages = stages_of(encoder)[::-1]
    if settings.depth > len(stages):
        raise BadRequest(f"This encoder has {len(stages)} stages, but --depth is {settings.depth}. Lower it.")
    rates = _rates(encoder, stages, settings)
    trained = stages[: settings.depth or len(stages)]
    encoder.requires_grad_(False)
    return [
        {"params": parameters, "lr": rate, THAW: place * settings.thaw_every}
        for place, stage in enumerate(trained)
        for rate, parameters in _by_rate(stage, rates)
    ]


class LowRank(nn.Module):
    """A kernel plus a low-rank update, as a parametrization of a linear layer: W + up @ down.

    Args:
        kernel: (out, in), which stays as it is.
        rank: of the update, which begins at zero.
    """

    def __init__(self, kernel: torch.Tensor, rank: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(kernel.shape[0], rank))
        self.down = nn.Parameter(torch.randn(rank, kernel.shape[1]) / kernel.shape[1] ** 0.5)

    def forward(self, kernel: torch.Tensor) -> torch.Tensor:
        return kernel + self.up @ self.down


def _low_rank(encoder: nn.Module, rank: int) -> Iterator[nn.Parameter]:
    """Give every linear layer of transformer blocks a low-rank update, in place, and yield its parameters."""
    for layer in [layer for layer in encoder.modules() if isinstance(layer, nn.Linear)]:
        update = LowRank(layer.weight, rank)
        parametrize.register_parametrization(layer, "weight", update)
        yield from (update.up, update.down)


def merge_low_rank(model: nn.Module) -> None:
    """Make low-rank updates part of the kernels, in place."""
    for layer in [layer for layer in model.modules() if parametrize.is_parametrized(layer, "weight")]:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def _norms(encoder: nn.Module, rank: int) -> Iterator[nn.Parameter]:
    for layer in encoder.modules():
        if isinstance(layer, nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._BatchNorm):
            yield from layer.parameters(recurse=False)


def _biases(encoder: nn.Module, rank: int) -> Iterator[nn.Parameter]:
    yield from (parameter for name, parameter in encoder.named_parameters() if name.endswith("bias"))


_CHOSEN: dict[str, Callable[[nn.Module, int], Iterator[nn.Parameter]]] = {
    "norm": _norms, "bias": _biases, "lora": _low_rank,
}  # fmt: skip
TUNES = ("layers", *_CHOSEN)


def check_tune(settings: Settings) -> None:
    """Raise BadRequest if what is to be tuned is not one of `TUNES`."""
    if settings.tune not in TUNES:
        raise BadRequest(f"Expected --tune to be one of {', '.join(TUNES)}, but got {settings.tune!r}.")


def _rates(encoder: nn.Module, stages: list[list[nn.Parameter]], settings: Settings) -> dict[int, float]:
    """The rate of each parameter by its identity: by layer where the library knows layers, else by stage."""
    lr, decay = settings.lr, settings.layer_decay
    if hasattr(encoder, "network"):
        return {id(p): group["lr"] for group in layer_groups(encoder, lr, decay, 0.0) for p in group["params"]}
    return {id(p): lr * decay**place for place, stage in enumerate(stages) for p in stage}


def _by_rate(stage: Iterable[nn.Parameter], rates: dict[int, float]) -> Iterator[tuple[float, list[nn.Parameter]]]:
    for rate in sorted({rates[id(p)] for p in stage}):
        yield rate, [p for p in stage if rates[id(p)] == rate]


def thaw(groups: Groups, epochs: int) -> None:
    """Lets each group learn whose time has come, and no other; groups that name no time always learn.

    Args:
        groups: of the optimiser.
        epochs: that are over.
    """
    for group in groups:
        if THAW in group:
            for parameter in group["params"]:
                parameter.requires_grad_(epochs >= group[THAW])


def check_thaw(groups: Groups, epochs: int) -> None:
    """Raises BadRequest if a group would not start to learn before the training's end."""
    latest = max((group.get(THAW, 0) for group in groups), default=0)
    if latest >= epochs:
        raise BadRequest(
            f"The last stage would start to learn after {latest} epochs, but the training has {epochs}. Lower "
            "--thaw-every or --depth, or raise --epochs."
        )
