"""The training loop of whole networks: one cycle of AdamW, early stopping on a hold-out, the best epoch kept."""

from __future__ import annotations

import copy
import time
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from core.data.augment import augmenter
from core.data.banks import Progress
from core.data.transforms import normalise, to_unit
from core.errors import BadRequest
from core.models.classifier import Classifier, channels_last, placed
from core.types import Images, ImageSpec
from trainer.config import FitData, Settings
from trainer.imbalance import imbalance_for
from trainer.losses import as_targets, loss_for, share_right

_EVALUATION_BATCH = 64


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
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Trains a network in place and leaves it at its best epoch by hold-out loss; epoch 0 is the start.

    Args:
        model: the classifier.
        groups_of_parameters: AdamW parameter groups, each with its peak `lr`.
        learn: images learnt from.
        hold_out: images that decide when to stop.
        image: the encoder's input.
        settings: of the training.
        seed: of order, augmentation and dropout.
        device: where it runs.
        frozen_statistics: keep batch normalisation in evaluation mode, as small subsets want it.
        progress: called with (steps done, steps in all).
    Returns:
        (H, classes) hold-out logits of the best epoch, and a row an epoch: loss and accuracy, train and validation.
    Raises:
        BadRequest: if the loss is not a number.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    augment = augmenter(settings.augment)
    imbalance = imbalance_for(settings.imbalance, learn.labels, settings.augment)
    loss_of, weights = loss_for(learn.labels), imbalance.weights(learn.labels, learn.classes)
    weights = weights.to(device) if weights is not None else None
    placed(model, device)
    targets = as_targets(learn.labels).to(device)
    shown = int(imbalance.shown(learn.labels).sum()) if targets.ndim == 1 else len(targets)
    per_epoch = max(1, round(shown / settings.batch_size))
    epochs = max(settings.epochs, -(-settings.min_steps // per_epoch))
    optimiser = torch.optim.AdamW(groups_of_parameters, weight_decay=settings.weight_decay)
    peaks = [group["lr"] for group in groups_of_parameters]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peaks, total_steps=epochs * per_epoch, pct_start=0.2)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.average)) if settings.average else None
    judged = cast(Classifier, averaged.module) if averaged else model
    logits = predict_logits(judged, hold_out.images, image, device)
    best = _Best(judged, logits, _loss(logits, hold_out.labels))
    history = [_row(0, None, None, logits, hold_out.labels, 0.0)]
    began = time.monotonic()
    for epoch in range(1, epochs + 1):
        _training_mode(model, frozen_statistics)
        total, right = 0.0, 0.0
        order = imbalance.epoch(learn.labels, random)
        for step, part in enumerate(np.array_split(np.arange(shown), per_epoch)):
            at = order.positions[part]
            pixels = to_unit(learn.images[at], device)
            changed = augment.apply(pixels, random.integers(0, 2**63, len(at)))
            if order.repeats is not None:
                again = torch.from_numpy(order.repeats[part]).to(device).view(-1, *[1] * (pixels.ndim - 1))
                changed = torch.where(again, changed, pixels)
            wanted = targets[at]
            if augment.mixes and wanted.ndim == 1:
                wanted = F.one_hot(wanted, learn.classes).float()
            batch, wanted = augment.mix(normalise(changed, image), wanted, random)
            outputs = model(channels_last(batch))
            loss = loss_of.compute(outputs, wanted, weights)
            if not torch.isfinite(loss):
                raise BadRequest(f"The loss is no longer a number at epoch {epoch}. Lower the learning rate.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            if averaged:
                averaged.update_parameters(model)
            total += float(loss.detach()) * len(at)
            right += share_right(outputs.detach(), targets[at]) * len(at)
            if progress:
                progress((epoch - 1) * per_epoch + step + 1, epochs * per_epoch)
        logits = predict_logits(judged, hold_out.images, image, device)
        seconds = time.monotonic() - began
        history.append(_row(epoch, total / shown, right / shown, logits, hold_out.labels, seconds))
        best.offer(judged, logits, _loss(logits, hold_out.labels), epoch)
        if settings.patience and epoch - best.epoch >= settings.patience:
            break
    model.load_state_dict(best.state)
    model.eval().cpu()
    return best.logits, history


class _Best:
    """The best epoch so far."""

    def __init__(self, model: nn.Module, logits: np.ndarray, loss: float) -> None:
        self.epoch, self.loss, self.logits = 0, loss, logits
        self.state = copy.deepcopy(model.state_dict())

    def offer(self, model: nn.Module, logits: np.ndarray, loss: float, epoch: int) -> None:
        if loss < self.loss:
            self.epoch, self.loss, self.logits = epoch, loss, logits
            self.state = copy.deepcopy(model.state_dict())


def _training_mode(model: nn.Module, frozen_statistics: bool) -> None:
    model.train()
    if frozen_statistics:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(loss_for(labels).compute(torch.from_numpy(logits), as_targets(labels), None))


def _row(
    epoch: int, loss: float | None, accuracy: float | None, logits: np.ndarray, labels: np.ndarray, seconds: float
) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "train_loss": loss,
        "train_accuracy": accuracy,
        "validation_loss": _loss(logits, labels),
        "validation_accuracy": share_right(torch.from_numpy(logits), as_targets(labels)),
        "seconds": round(seconds, 2),
    }
