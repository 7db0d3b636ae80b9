"""Training of whole networks: a fixed number of optimizer steps, the state they change, and resuming after a kill."""

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

from core.data.augmentation import augmenter
from core.data.image_cache import Progress
from core.data.transforms import normalise, to_unit
from core.models.classifier import Classifier, channels_last, placed
from core.types import Images, ImageSpec
from trainer.progress import tell
from trainer.training.class_balance import imbalance_for
from trainer.training.layer_freezing import check_thaw, thaw
from trainer.training.losses import NoNumberError, are_numbers, as_targets, loss_for, share_right
from trainer.training.optimizers import optimiser_for, schedule_for
from trainer.training.resume import Unfinished, state_of
from trainer.training.settings import FitData, Settings

_EVALUATION_BATCH = 64
WARM_UP = 0.2  # share of the steps in which a one-cycle schedule rises to its peak
_ROWS, _MOST_EPOCHS = 40, 50  # of a training curve, about; between two rows


def predict_logits(
    model: Classifier,
    images: Images,
    image: ImageSpec,
    device: torch.device,
    progress: Progress | None = None,
    mirror: bool = False,
) -> np.ndarray:
    """(N, C, S, S) uint8, or volumes (N, C, S, S, S) -> (N, classes) logits, in evaluation mode.

    Args:
        model: the classifier.
        images: pixels, that can be indexed by position.
        image: the encoder's input.
        device: where it runs.
        progress: called with (images done, images in all).
        mirror: average the logits of each image and of its mirror image.
    """
    was_training = model.training
    placed(model.eval(), device)
    found = []
    with torch.no_grad():
        for start in range(0, len(images), _EVALUATION_BATCH):
            batch = normalise(to_unit(images[start : start + _EVALUATION_BATCH], device), image)
            logits = model(channels_last(batch)).float()
            if mirror:
                logits = (logits + model(channels_last(batch.flip(-1))).float()) / 2
            found.append(logits.cpu())
            if progress:
                progress(start + len(batch), len(images))
    model.train(was_training)
    return torch.cat(found).numpy()


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
        stop_after: int = 0,
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
        self._stop_after = min(stop_after, self._epochs) or self._epochs
        self._epochs_a_row = min(-(-self._epochs // _ROWS), _MOST_EPOCHS)
        steps = self._epochs * self._per_epoch
        check_thaw(groups_of_parameters, self._epochs)
        optimiser = optimiser_for(settings, self._row)
        self._optimiser = optimiser.build(groups_of_parameters, settings, self._loss, steps, False)
        self._peak_step = steps * WARM_UP if settings.schedule == "one-cycle" else 0.0
        self._schedule = schedule_for(settings, self._optimiser, steps, WARM_UP)
        average = get_ema_multi_avg_fn(settings.average) if settings.average else None
        self._averaged = AveragedModel(model, multi_avg_fn=average) if average else None
        self._evaluated = cast(Classifier, self._averaged.module) if self._averaged else model
        self.history: list[dict[str, Any]] = []
        self.epochs_done = 0
        self.epochs_kept = 0
        self.logits = np.zeros((0, learn.classes), np.float32)
        self.weights: dict[str, torch.Tensor] = {}
        self._lowest = math.inf
        self._began = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether all passes are over or, with patience, too many after the peak brought nothing better."""
        waited = self.epochs_done - max(self.epochs_kept, math.ceil(self._peak_step / self._per_epoch))
        stops = bool(self._settings.patience) and math.isfinite(self._lowest) and waited >= self._settings.patience
        return stops or self.epochs_done >= self._stop_after

    def train(self, progress: Progress | None) -> dict[str, float]:
        """Train up to the next row of the history.

        Returns:
            mean training loss, share of training images predicted correctly, and the highest learning rate since the
            last row.

        Raises:
            NoNumberError: if the loss is no longer a number.
        """
        training_mode(self._model, self._frozen_statistics)
        total, right, shown, rate = 0.0, 0.0, 0, 0.0
        for _ in range(min(self._epochs_a_row, self._stop_after - self.epochs_done)):
            thaw(self._optimiser.param_groups, self.epochs_done)
            order = self._imbalance.epoch(self._learn.labels, self._random)
            for step, part in enumerate(np.array_split(np.arange(self._shown), self._per_epoch)):
                at = order.positions[part]
                rate = max(rate, max(group["lr"] for group in self._optimiser.param_groups))
                loss, outputs = self._step(at, None if order.repeats is None else order.repeats[part])
                total += loss * len(at)
                right += share_right(outputs, self._targets[at]) * len(at)
                if progress:
                    progress(self.epochs_done * self._per_epoch + step + 1, self._stop_after * self._per_epoch)
            shown += self._shown
            self.epochs_done += 1
        return {"loss": total / shown, "accuracy": right / shown, "lr": rate}

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
        """Images at some positions, augmented as the settings want it, and their targets."""
        pixels = to_unit(self._learn.images[at], self._device)
        changed = self._augment.apply(pixels, self._random.integers(0, 2**63, len(at)))
        if repeats is not None:
            again = torch.from_numpy(repeats).to(self._device).view(-1, *[1] * (pixels.ndim - 1))
            changed = torch.where(again, changed, pixels)
        wanted = self._targets[at]
        if self._augment.mixes and wanted.ndim == 1:
            wanted = F.one_hot(wanted, self._learn.classes).float()
        return self._augment.mix(normalise(changed, self._image), wanted, self._random)

    def evaluate(self, hold_out: FitData, trained: dict[str, float] | None) -> None:
        """Write a row of the history and keep the weights: the last ones or, with patience, the best after the peak.

        Args:
            hold_out: images that were not learnt; may be none.
            trained: what `train` returned; None before the first step.

        Raises:
            NoNumberError: if a weight, or the held-out loss, is no longer a number.
        """
        if trained and not are_numbers(self._evaluated.state_dict().values()):
            raise NoNumberError("a weight was")
        logits, held_out = self.logits, math.nan
        if held := len(hold_out.labels):
            logits = predict_logits(self._evaluated, hold_out.images, self._image, self._device)
            held_out = self._row.judge(logits, hold_out.labels)
            if trained and not math.isfinite(held_out):
                raise NoNumberError("the hold-out loss was")
        self.history.append(
            {
                "epoch": self.epochs_done,
                "step": self.epochs_done * self._per_epoch,
                "lr": trained["lr"] if trained else 0.0,
                "train_loss": trained["loss"] if trained else None,
                "train_accuracy": trained["accuracy"] if trained else None,
                "validation_loss": held_out if math.isfinite(held_out) else None,
                "validation_accuracy": (
                    share_right(torch.from_numpy(logits), as_targets(hold_out.labels)) if held else None
                ),
                "seconds": round(time.monotonic() - self._began, 2) if trained else 0.0,
            }
        )
        past_peak = self.epochs_done * self._per_epoch >= self._peak_step
        chooses = self._settings.patience and held
        if not chooses or not math.isfinite(self._lowest) or held_out < self._lowest:
            self.epochs_kept, self.logits = self.epochs_done, logits
            self.weights = copy.deepcopy(self._evaluated.state_dict())
            if chooses and past_peak and trained:
                self._lowest = held_out

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
            "epochs_done": self.epochs_done,
            "epochs_kept": self.epochs_kept,
            "lowest": self._lowest,
            "logits": torch.from_numpy(self.logits),
            "weights": self.weights,
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
        self.epochs_done, self.epochs_kept = state["epochs_done"], state["epochs_kept"]
        self._lowest, self.logits, self.weights = state["lowest"], state["logits"].cpu().numpy(), state["weights"]
        self._began = time.monotonic() - self.history[-1]["seconds"]


def training_mode(model: nn.Module, frozen_statistics: bool) -> None:
    """Training mode; batch normalisation stays in evaluation mode if its statistics are frozen."""
    model.train()
    if frozen_statistics:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


class Trained(NamedTuple):
    """The result of a training.

    Attributes:
        logits: (H, classes), of the held-out images by the network at its end.
        history: rows of the training curve: step, learning rate, loss and accuracy in training and on held-out images.
        epochs: passes after which training ended.
        failed: why the training stopped before its end, with what to change; "" where it did not.
    """

    logits: np.ndarray
    history: list[dict[str, Any]]
    epochs: int
    failed: str = ""


def train_network(
    model: Classifier,
    groups_of_parameters: list[dict[str, Any]],
    learn: FitData,
    hold_out: FitData,
    image: ImageSpec,
    settings: Settings,
    seed: int,
    device: torch.device,
    frozen_statistics: bool,
    progress: Progress | None = None,
    unfinished: Unfinished | None = None,
    stop_after: int = 0,
) -> Trained:
    """Train a network in place.

    Args:
        model: the classifier.
        groups_of_parameters: parameter groups, each with its peak `lr`.
        learn: training images.
        hold_out: images on which the training curve is followed; may be none. They change nothing but where
            `settings.patience` asks to stop.
        image: the encoder's input.
        settings: of the training. Its length is `epochs` passes, but at least `min_steps` optimizer steps.
        seed: of order, augmentation and dropout.
        device: where it runs; on a GPU the network computes in bfloat16 where that is safe.
        frozen_statistics: keep batch normalization in evaluation mode, as small subsets want it.
        progress: called with (steps done, steps in all).
        unfinished: where the state after each row of the history is kept; a training found there is gone on with.
        stop_after: passes after which training ends; 0 for the full length. The schedule stays that of the full
            length.
    Returns:
        the result. If the loss is no longer a number, training stops there and the last good weights are kept.
    """
    course = Course(model, groups_of_parameters, learn, image, settings, seed, device, frozen_statistics, stop_after)
    if began := unfinished.read() if unfinished else None:
        course.go_on(began)
    else:
        course.evaluate(hold_out, None)
    for row in course.history:
        tell("epoch", **row)
    failed = ""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        while not (failed or course.is_over):
            try:
                course.evaluate(hold_out, course.train(progress))
            except NoNumberError as error:
                failed = (
                    f"{error} no longer a number in epoch {course.history[-1]['epoch'] + 1}. Lower the learning rate "
                    f"(--lr), which was {settings.lr:g}, or the norm at which gradients are clipped (--clip)."
                )
                continue
            tell("epoch", **course.history[-1])
            if unfinished:
                unfinished.write(course.state(), always=course.is_over)
    model.load_state_dict(course.weights)
    model.eval().cpu()
    return Trained(course.logits, course.history, course.epochs_kept, failed)
