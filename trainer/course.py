"""The state of a network's training and the steps that change it; when it stops is decided in `trainer.loop`."""

from __future__ import annotations

import copy
import math
import time
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from core.data.augment import augmenter
from core.data.banks import Progress
from core.data.transforms import normalise, to_unit
from core.models.classifier import Classifier, channels_last, placed
from core.types import Images, ImageSpec
from trainer.config import FitData, Settings
from trainer.imbalance import imbalance_for
from trainer.losses import NoNumberError, are_numbers, as_targets, loss_for, share_right
from trainer.optimisers import optimiser_for, schedule_for
from trainer.unfinished import state_of
from trainer.unfreezing import check_thaw, thaw

_EVALUATION_BATCH = 64
WARM_UP = 0.2


def predict_logits(
    model: Classifier, images: Images, image: ImageSpec, device: torch.device, progress: Progress | None = None
) -> np.ndarray:
    """(N, C, S, S) uint8, or volumes (N, C, S, S, S) -> (N, classes) logits, in evaluation mode."""
    was_training = model.training
    placed(model.eval(), device)
    found = []
    with torch.no_grad():
        for start in range(0, len(images), _EVALUATION_BATCH):
            batch = normalise(to_unit(images[start : start + _EVALUATION_BATCH], device), image)
            found.append(model(channels_last(batch)).float().cpu())
            if progress:
                progress(start + len(batch), len(images))
    model.train(was_training)
    return torch.cat(found).numpy()


class Best(NamedTuple):
    """The epoch that is kept: its number, hold-out loss and logits, and the network as it was."""

    epoch: int
    loss: float
    logits: np.ndarray
    state: dict[str, torch.Tensor]


class Course:
    """All that changes while a network is trained."""

    def __init__(
        self,
        model: Classifier,
        groups_of_parameters: list[dict[str, Any]],
        learn: FitData,
        image: ImageSpec,
        settings: Settings,
        seed: int,
        device: torch.device,
        frozen_statistics: bool,
    ) -> None:
        torch.manual_seed(seed)
        self._frozen_statistics = frozen_statistics
        self._random = np.random.default_rng(seed)
        self._model, self._learn, self._image, self._settings, self._device = model, learn, image, settings, device
        self._augment = augmenter(settings.augment)
        self._imbalance = imbalance_for(settings.imbalance, learn.labels, settings.augment)
        self._row = loss_for(settings, learn.labels, learn.classes)
        self._loss = self._row.build(settings, learn.classes, learn.labels.ndim == 2)
        if isinstance(self._loss, nn.Module):
            self._loss.to(device)
        weights = self._imbalance.weights(learn.labels, learn.classes)
        self._weights = weights.to(device) if weights is not None else None
        placed(model, device)
        self._targets = as_targets(learn.labels).to(device)
        one_each = self._targets.ndim == 1
        self._shown = int(self._imbalance.shown(learn.labels).sum()) if one_each else len(self._targets)
        self._per_epoch = max(1, round(self._shown / settings.batch_size))
        self._epochs = max(settings.epochs, -(-settings.min_steps // self._per_epoch))
        steps = self._epochs * self._per_epoch
        check_thaw(groups_of_parameters, self._epochs)
        optimiser = optimiser_for(settings, self._row)
        self._optimiser = optimiser.build(groups_of_parameters, settings, self._loss, steps, False)
        self._schedule = schedule_for(settings, self._optimiser, steps, WARM_UP)
        average = get_ema_multi_avg_fn(settings.average) if settings.average else None
        self._averaged = AveragedModel(model, multi_avg_fn=average) if average else None
        self._judged = cast(Classifier, self._averaged.module) if self._averaged else model
        self.history: list[dict[str, Any]] = []
        self.best = Best(0, math.inf, np.zeros((0, learn.classes), np.float32), {})
        self._began = time.monotonic()

    @property
    def done(self) -> int:
        """Epochs that are over."""
        return len(self.history) - 1

    @property
    def is_over(self) -> bool:
        """Whether all epochs are over, or too many brought nothing better."""
        waited = self._settings.patience and self.done - self.best.epoch >= self._settings.patience
        return bool(waited) or self.done >= self._epochs

    def epoch(self, progress: Progress | None) -> tuple[float, float]:
        """One pass over the images; mean loss and share right.

        Raises:
            NoNumberError: if the loss is no longer a number.
        """
        training_mode(self._model, self._frozen_statistics)
        thaw(self._optimiser.param_groups, self.done)
        total, right = 0.0, 0.0
        order = self._imbalance.epoch(self._learn.labels, self._random)
        for step, part in enumerate(np.array_split(np.arange(self._shown), self._per_epoch)):
            at = order.positions[part]
            loss, outputs = self._step(at, None if order.repeats is None else order.repeats[part])
            total += loss * len(at)
            right += share_right(outputs, self._targets[at]) * len(at)
            if progress:
                progress(self.done * self._per_epoch + step + 1, self._epochs * self._per_epoch)
        return total / self._shown, right / self._shown

    def _step(self, at: np.ndarray, repeats: np.ndarray | None) -> tuple[float, torch.Tensor]:
        batch, wanted = self._batch(at, repeats)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            outputs = self._model(channels_last(batch))
        loss = self._loss(outputs.float(), wanted, self._weights)
        if not torch.isfinite(loss):
            raise NoNumberError("the loss was")
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), self._settings.clip)
        self._optimiser.step()
        self._schedule.step()
        if self._averaged:
            self._averaged.update_parameters(self._model)
        return float(loss.detach()), outputs.detach()

    def _batch(self, at: np.ndarray, repeats: np.ndarray | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Images at some positions, changed as the settings want it, and what is wanted of them."""
        pixels = to_unit(self._learn.images[at], self._device)
        changed = self._augment.apply(pixels, self._random.integers(0, 2**63, len(at)))
        if repeats is not None:
            again = torch.from_numpy(repeats).to(self._device).view(-1, *[1] * (pixels.ndim - 1))
            changed = torch.where(again, changed, pixels)
        wanted = self._targets[at]
        if self._augment.mixes and wanted.ndim == 1:
            wanted = F.one_hot(wanted, self._learn.classes).float()
        return self._augment.mix(normalise(changed, self._image), wanted, self._random)

    def judge(self, epoch: int, hold_out: FitData, loss: float | None, right: float | None) -> None:
        """Ends an epoch: writes its row and keeps the network if it is the best so far, or nothing is held out.

        Raises:
            NoNumberError: if a weight, or the hold-out loss, is no longer a number.
        """
        if loss is not None and not are_numbers(self._judged.state_dict().values()):
            raise NoNumberError("a weight was")
        logits, held_out = self.best.logits, math.nan
        if held := len(hold_out.labels):
            logits = predict_logits(self._judged, hold_out.images, self._image, self._device)
            held_out = self._row.judge(logits, hold_out.labels)
            if loss is not None and not math.isfinite(held_out):
                raise NoNumberError("the hold-out loss was")
        seconds = 0.0 if loss is None else time.monotonic() - self._began
        self.history.append(_row(loss, right, held_out, logits, hold_out.labels, epoch, seconds))
        if loss is None or not held or held_out < self.best.loss:
            self.best = Best(epoch, held_out, logits, copy.deepcopy(self._judged.state_dict()))

    def state(self) -> dict[str, Any]:
        """All of it as plain tensors, numbers and text."""
        return {
            "model": self._model.state_dict(),
            "loss": self._loss.state_dict() if isinstance(self._loss, nn.Module) else {},
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "averaged": self._averaged.state_dict() if self._averaged else {},
            "random": state_of(self._random),
            "history": self.history,
            "best": {**self.best._asdict(), "logits": torch.from_numpy(self.best.logits)},
        }

    def go_on(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        self._model.load_state_dict(state["model"])
        if isinstance(self._loss, nn.Module):
            self._loss.load_state_dict(state["loss"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        if self._averaged:
            self._averaged.load_state_dict(state["averaged"])
        self._random.bit_generator.state = state["random"]
        self.history = state["history"]
        self._began = time.monotonic() - self.history[-1]["seconds"]
        self.best = Best(**{**state["best"], "logits": state["best"]["logits"].cpu().numpy()})


def training_mode(model: nn.Module, frozen_statistics: bool) -> None:
    """Training mode; batch normalisation stays in evaluation mode if its statistics are frozen."""
    model.train()
    if frozen_statistics:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _row(
    loss: float | None,
    accuracy: float | None,
    held_out: float,
    logits: np.ndarray,
    labels: np.ndarray,
    epoch: int,
    seconds: float,
) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "train_loss": loss,
        "train_accuracy": accuracy,
        "validation_loss": held_out if math.isfinite(held_out) else None,
        "validation_accuracy": share_right(torch.from_numpy(logits), as_targets(labels)) if len(labels) else None,
        "seconds": round(seconds, 2),
    }
