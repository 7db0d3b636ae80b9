"""The tables of optimisers and of schedules: how weights move, and how fast over the course of a training.

References:
    Adam: Kingma and Ba 2015, arXiv:1412.6980. AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101.
    One cycle: Smith and Topin 2018, arXiv:1708.07120. Cosine: Loshchilov and Hutter 2017, arXiv:1608.03983.
    PESG with its rate cut to a tenth at half and three quarters: Yuan et al. 2021, arXiv:2012.03173.
"""

from __future__ import annotations

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
CUTS = (0.5, 0.75)


@dataclass(frozen=True)
class Optimiser:
    """A row of the table.

    Attributes:
        name: key in the registry.
        title, meaning: for people.
        build: (parameter groups each with its `lr`, settings, the loss that is learnt, steps in all, whether to use
            the fused form) -> an optimiser.
        settings: that come with it unless stated otherwise.
        loss: the only loss that it learns; "" for all that name no optimiser of their own.
    """

    name: str
    title: str
    meaning: str
    build: Callable[[Groups, Settings, Compute, int, bool], Optimizer]
    settings: Mapping[str, Any] = field(default_factory=dict)
    loss: str = ""


@dataclass(frozen=True)
class Schedule:
    """A row of the table.

    Attributes:
        name: key in the registry.
        title, meaning: for people.
        build: (optimiser, steps in all, share of them that warms up) -> a schedule that is stepped after every step;
            the rates that the groups have when it is built are its peaks.
    """

    name: str
    title: str
    meaning: str
    build: Callable[[Optimizer, int, float], LRScheduler]


OPTIMISERS: Registry[Optimiser] = Registry("optimiser")
SCHEDULES: Registry[Schedule] = Registry("schedule")


def optimiser_for(settings: Settings, loss: Loss) -> Optimiser:
    """The optimiser of some settings, where it can learn the loss.

    Raises:
        UnknownName: if there is none of that name.
        BadRequest: if it cannot.
    """
    row = OPTIMISERS[settings.optimizer]
    if loss.optimizer and loss.optimizer != row.name:
        raise BadRequest(
            f"{loss.name} is learnt with {loss.optimizer} only, not with {row.name}. Leave --optimizer out."
        )
    if row.loss and row.loss != loss.name:
        raise BadRequest(f"{row.name} learns {row.loss} only, not {loss.name}. Add --loss {row.loss}.")
    return row


def schedule_for(settings: Settings, optimiser: Optimizer, steps: int, warm_up: float) -> LRScheduler:
    """The schedule of some settings for an optimiser whose groups have their peak rates.

    Raises:
        UnknownName: if there is none of that name.
    """
    return SCHEDULES[settings.schedule].build(optimiser, steps, warm_up)


def _pesg(groups: Groups, settings: Settings, loss: Compute, steps: int, fused: bool) -> Optimizer:
    assert isinstance(loss, AucMargin)
    return Pesg(groups, loss, settings.lr, settings.weight_decay, _cuts(steps))


def _cuts(steps: int) -> list[int]:
    return [max(1, round(steps * share)) for share in CUTS]


def _one_cycle(optimiser: Optimizer, steps: int, warm_up: float) -> LRScheduler:
    peaks = [group["lr"] for group in optimiser.param_groups]
    if warm_up * steps == 1:  # PyTorch would divide by the length of a warm-up of one step, which it counts as 0
        warm_up /= 2
    cycles = "betas" in optimiser.defaults or "momentum" in optimiser.defaults
    return OneCycleLR(optimiser, peaks, total_steps=steps, pct_start=warm_up, cycle_momentum=cycles)


for _row in (
    Optimiser(
        "adamw", "AdamW", "Adapts the rate of every weight; weight decay apart from it.",
        lambda groups, settings, loss, steps, fused: AdamW(
            groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused or None
        ),
    ),
    Optimiser(
        "adam", "Adam", "The same with weight decay inside the gradient.",
        lambda groups, settings, loss, steps, fused: Adam(
            groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused or None
        ),
    ),
    Optimiser(
        "sgd", "SGD", "Plain gradient descent with momentum 0.9; its rate is 0.01 unless stated.",
        lambda groups, settings, loss, steps, fused: SGD(
            groups, lr=settings.lr, weight_decay=settings.weight_decay, momentum=0.9
        ),
        settings={"lr": 1e-2, "weight_decay": 1e-4},
    ),
    Optimiser(
        "pesg", "PESG", "For auc-margin; rate 0.1, batches of 128, rate cut to a tenth twice unless stated.", _pesg,
        settings={"lr": 0.1, "batch_size": 128, "weight_decay": 1e-5, "schedule": "step"}, loss="auc-margin",
    ),
):  # fmt: skip
    OPTIMISERS.add(_row)

for _schedule in (
    Schedule("one-cycle", "One cycle", "Up to the peak, then down to nothing.", _one_cycle),
    Schedule(
        "cosine", "Cosine", "From the peak down to nothing along half a cosine.",
        lambda optimiser, steps, warm_up: CosineAnnealingLR(optimiser, steps),
    ),
    Schedule(
        "constant", "Constant", "The peak throughout.",
        lambda optimiser, steps, warm_up: LambdaLR(optimiser, lambda step: 1.0),
    ),
    Schedule(
        "step", "In steps", "The peak, cut to a tenth after half and after three quarters of the steps.",
        lambda optimiser, steps, warm_up: MultiStepLR(optimiser, _cuts(steps), gamma=0.1),
    ),
):  # fmt: skip
    SCHEDULES.add(_schedule)
