"""Registries of optimizers and of learning rate schedules; `optimizer_builders` builds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.errors import BadRequest
from core.registry import LazyFunction, Registry
from trainer.training.losses import Loss
from trainer.training.settings import Settings

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from trainer.training.loss_functions import Compute
    from trainer.training.optimizer_builders import Groups


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
        BadRequest: if it is incompatible with the loss.
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


OPTIMIZERS.add(
    OptimizerSpec(
        "adamw", "Adaptive learning rate per weight, with decoupled weight decay.",
        LazyFunction("trainer.training.optimizer_builders:adamw"),
    ),
    OptimizerSpec(
        "adam", "Adaptive learning rate per weight, with weight decay inside the gradient.",
        LazyFunction("trainer.training.optimizer_builders:adam"),
    ),
    OptimizerSpec(
        "sgd", "Stochastic gradient descent with momentum 0.9; default learning rate 0.01.",
        LazyFunction("trainer.training.optimizer_builders:sgd"),
        settings={"lr": 1e-2, "weight_decay": 1e-4},
    ),
    OptimizerSpec(
        "pesg", "For auc-margin; by default rate 0.1, batches of 128, rate cut to a tenth twice.",
        LazyFunction("trainer.training.optimizer_builders:pesg"),
        settings={"lr": 0.1, "batch_size": 128, "weight_decay": 1e-5, "schedule": "step"}, loss="auc-margin",
    ),
)  # fmt: skip

SCHEDULES.add(
    Schedule(
        "one-cycle", "Rises to the peak rate, then falls to zero.",
        LazyFunction("trainer.training.optimizer_builders:one_cycle"),
    ),
    Schedule(
        "cosine", "Falls from the peak rate to zero along half a cosine.",
        LazyFunction("trainer.training.optimizer_builders:cosine"),
    ),
    Schedule("constant", "The peak rate throughout.", LazyFunction("trainer.training.optimizer_builders:constant")),
    Schedule(
        "step", "The peak rate, cut to a tenth after half and after three quarters of the steps.",
        LazyFunction("trainer.training.optimizer_builders:step"),
    ),
)  # fmt: skip
