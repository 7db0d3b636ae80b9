"""Functions that build the optimizers and the learning rate schedules of PyTorch.

References:
    Adam: Kingma and Ba 2015, arXiv:1412.6980. AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101.
    One cycle: Smith and Topin 2018, arXiv:1708.07120. Cosine: Loshchilov and Hutter 2017, arXiv:1608.03983.
    PESG with its rate cut to a tenth after half and after three quarters: Yuan et al. 2021, arXiv:2012.03173.
"""

from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, MultiStepLR, OneCycleLR

from trainer.training.auc_margin import AucMargin, Pesg
from trainer.training.loss_functions import Compute
from trainer.training.settings import Settings

Groups = list[dict[str, Any]]
STEP_MILESTONES = (0.5, 0.75)


def adamw(groups: Groups, settings: Settings, loss: Compute, steps: int, fused: bool) -> Optimizer:
    """Build AdamW."""
    return AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused or None)


def adam(groups: Groups, settings: Settings, loss: Compute, steps: int, fused: bool) -> Optimizer:
    """Build Adam."""
    return Adam(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused or None)


def sgd(groups: Groups, settings: Settings, loss: Compute, steps: int, fused: bool) -> Optimizer:
    """Build stochastic gradient descent with momentum."""
    return SGD(groups, lr=settings.lr, weight_decay=settings.weight_decay, momentum=0.9)


def pesg(groups: Groups, settings: Settings, loss: Compute, steps: int, fused: bool) -> Optimizer:
    """Build PESG, which updates the variables of the AUC-margin loss too."""
    assert isinstance(loss, AucMargin)
    return Pesg(groups, loss, settings.lr, settings.weight_decay, _cuts(steps))


def one_cycle(optimizer: Optimizer, steps: int, warm_up: float) -> LRScheduler:
    """Build the schedule that rises to the peak rates, then falls to zero."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    if warm_up * steps == 1:  # PyTorch counts a warm-up of one step as length 0 and would divide by it
        warm_up /= 2
    cycles = "betas" in optimizer.defaults or "momentum" in optimizer.defaults
    return OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=warm_up, cycle_momentum=cycles)


def cosine(optimizer: Optimizer, steps: int, warm_up: float) -> LRScheduler:
    """Build the schedule that falls from the peak rates to zero along half a cosine."""
    return CosineAnnealingLR(optimizer, steps)


def constant(optimizer: Optimizer, steps: int, warm_up: float) -> LRScheduler:
    """Build the schedule that keeps the peak rates."""
    return LambdaLR(optimizer, lambda step: 1.0)


def step(optimizer: Optimizer, steps: int, warm_up: float) -> LRScheduler:
    """Build the schedule that cuts the rates to a tenth after half and after three quarters of the steps."""
    return MultiStepLR(optimizer, _cuts(steps), gamma=0.1)


def _cuts(steps: int) -> list[int]:
    return [max(1, round(steps * share)) for share in STEP_MILESTONES]
