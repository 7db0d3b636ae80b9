"""Registries of optimizers and of learning rate schedules.

References:
    Adam: Kingma and Ba 2015, arXiv:1412.6980. AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101.
    One cycle: Smith and Topin 2018, arXiv:1708.07120. Cosine: Loshchilov and Hutter 2017, arXiv:1608.03983.
    PESG with its rate cut to a tenth after half and after three quarters: Yuan et al. 2021, arXiv:2012.03173.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, MultiStepLR, OneCycleLR

from core.errors import BadRequest
from core.registry import Registry
from trainer.training.losses import AucMargin, Compute, Loss, Pesg
from trainer.training.settings import Settings

Groups = list[dict[str, Any]]
STEP_MILESTONES = (0.5, 0.75)


@dataclass(frozen=True)
class OptimizerSpec:
    """A row of the registry.

    Attributes:
        name: key in the registry.
        meaning: text for display.
        build: (parameter groups each with its `lr`, settings, the loss, total steps, whether to use the fused
            implementation) -> an optimizer.
        settings: default settings of the optimizer.
        loss: the only loss that it minimizes; "" for all losses that name no optimizer of their own.
    """

    name: str
    meaning: str
    build: Callable[[Groups, Settings, Compute, int, bool], Optimizer]
    settings: Mapping[str, Any] = field(default_factory=dict)
    loss: str = ""


@dataclass(frozen=True)
class Schedule:
    """A row of the registry.

    Attributes:
        name: key in the registry.
        meaning: text for display.
        build: (optimizer, total steps, warm-up share) -> a schedule to step after every optimizer step. The rates of
            the groups at the time of building are the peak rates.
    """

    name: str
    meaning: str
    build: Callable[[Optimizer, int, float], LRScheduler]


OPTIMIZERS: Registry[OptimizerSpec] = Registry("optimizer")
SCHEDULES: Registry[Schedule] = Registry("schedule")


def optimizer_for(settings: Settings, loss: Loss) -> OptimizerSpec:
    """Return the optimizer of some settings.

    Raises:
        UnknownName: if there is none of that name.
        BadRequest: if it does not go with the loss.
    """
    row = OPTIMIZERS[settings.optimizer]
    if loss.optimizer and loss.optimizer != row.name:
        raise BadRequest(
            f"{loss.name} works only with the optimizer {loss.optimizer}, not with {row.name}. Leave --optimizer out."
        )
    if row.loss and row.loss != loss.name:
        raise BadRequest(
            f"{row.name} works only with the loss {row.loss}, not with {loss.name}. Add --loss {row.loss}."
        )
    return row


def schedule_for(settings: Settings, optimizer: Optimizer, steps: int, warm_up: float) -> LRScheduler:
    """Return the schedule of some settings for an optimizer whose groups have their peak rates.

    Raises:
        UnknownName: if there is none of that name.
    """
    return SCHEDULES[settings.schedule].build(optimizer, steps, warm_up)


def _pesg(groups: Groups, settings: Settings, loss: Compute, steps: int, fused: bool) -> Optimizer:
    assert isinstance(loss, AucMargin)
    return Pesg(groups, loss, settings.lr, settings.weight_decay, _cuts(steps))


def _cuts(steps: int) -> list[int]:
    return [max(1, round(steps * share)) for share in STEP_MILESTONES]


def _one_cycle(optimizer: Optimizer, steps: int, warm_up: float) -> LRScheduler:
    peaks = [group["lr"] for group in optimizer.param_groups]
    if warm_up * steps == 1:  # PyTorch counts a warm-up of one step as length 0 and would divide by it
        warm_up /= 2
    cycles = "betas" in optimizer.defaults or "momentum" in optimizer.defaults
    return OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=warm_up, cycle_momentum=cycles)


OPTIMIZERS.add(
    OptimizerSpec(
        "adamw", "Adaptive learning rate per weight, with decoupled weight decay.",
        lambda groups, settings, loss, steps, fused: AdamW(
            groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused or None
        ),
    ),
    OptimizerSpec(
        "adam", "Adaptive learning rate per weight, with weight decay inside the gradient.",
        lambda groups, settings, loss, steps, fused: Adam(
            groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused or None
        ),
    ),
    OptimizerSpec(
        "sgd", "Stochastic gradient descent with momentum 0.9; default learning rate 0.01.",
        lambda groups, settings, loss, steps, fused: SGD(
            groups, lr=settings.lr, weight_decay=settings.weight_decay, momentum=0.9
        ),
        settings={"lr": 1e-2, "weight_decay": 1e-4},
    ),
    OptimizerSpec(
        "pesg", "For auc-margin; by default rate 0.1, batches of 128, rate cut to a tenth twice.", _pesg,
        settings={"lr": 0.1, "batch_size": 128, "weight_decay": 1e-5, "schedule": "step"}, loss="auc-margin",
    ),
)  # fmt: skip

SCHEDULES.add(
    Schedule("one-cycle", "Rises to the peak rate, then falls to zero.", _one_cycle),
    Schedule(
        "cosine", "Falls from the peak rate to zero along half a cosine.",
        lambda optimizer, steps, warm_up: CosineAnnealingLR(optimizer, steps),
    ),
    Schedule(
        "constant", "The peak rate throughout.",
        lambda optimizer, steps, warm_up: LambdaLR(optimizer, lambda step: 1.0),
    ),
    Schedule(
        "step", "The peak rate, cut to a tenth after half and after three quarters of the steps.",
        lambda optimizer, steps, warm_up: MultiStepLR(optimizer, _cuts(steps), gamma=0.1),
    ),
)  # fmt: skip
