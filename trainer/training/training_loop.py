"""Training loop of whole networks, with exact resuming of interrupted trainings."""

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
from core.data.transforms import normalize, to_unit
from core.models.classifier import Classifier, channels_last, compute_in_halves, to_device
from core.types import Images, ImageSpec
from trainer.progress import print_status, write_event
from trainer.training.class_balance import imbalance_for
from trainer.training.layer_freezing import check_unfreezing, unfreeze_due
from trainer.training.loss_functions import NonFiniteError, accuracy, all_finite, as_targets
from trainer.training.losses import loss_for
from trainer.training.optimizers import optimizer_for, schedule_for
from trainer.training.resume import generator_state
from trainer.training.settings import FitContext, FitData, Settings

_EVALUATION_BATCH = 64
WARM_UP = 0.2  # share of the steps over which a one-cycle schedule rises to its peak
_ROWS = 40  # approximate number of rows in a training curve
_MAX_EPOCHS_PER_ROW = 50


def predict_logits(
    model: Classifier,
    images: Images,
    image: ImageSpec,
    device: torch.device,
    progress: Progress | None = None,
    mirror: bool = False,
) -> np.ndarray:
    """Predict (N, classes) logits of (N, C, S, S) uint8 images or (N, C, S, S, S) volumes, in evaluation mode.

    Args:
        model: the classifier.
        images: pixels, indexable by position.
        image: the encoder's input specification.
        device: device to run on.
        progress: called with (images done, images in total).
        mirror: average the logits of each image and of its mirror image.
    """

    def forward(batch: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, model(channels_last(batch))).float()

    was_training = model.training
    to_device(model.eval(), device)
    batches = []
    with torch.no_grad():
        for start in range(0, len(images), _EVALUATION_BATCH):
            batch = normalize(to_unit(images[start : start + _EVALUATION_BATCH], device), image)
            logits = compute_in_halves(forward, batch)
            if mirror:
                logits = (logits + compute_in_halves(forward, batch.flip(-1))) / 2
            batches.append(logits.cpu())
            if progress:
                progress(start + len(batch), len(images))
    model.train(was_training)
    return torch.cat(batches).numpy()


def images_on_device(images: Images, device: torch.device) -> torch.Tensor | None:
    """Copy (N, C, S, S) uint8 images to a device; return None if they take over a quarter of a GPU's free memory."""
    size = len(images) * images[:1].nbytes
    if device.type == "cuda" and size > torch.cuda.mem_get_info()[0] / 4:
        return None
    return torch.from_numpy(np.array(images[:])).to(device)


class TrainingLoop:
    """Training state of one network: model, optimizer, schedule, random state, history and best weights.

    Args:
        model, groups_of_parameters, learn, image, settings, frozen_statistics, stop_after: as in `train_network`.
        seed: seed of order, augmentation and dropout.
        device: device to run on.
        in_bfloat16: whether the forward pass computes in bfloat16; by default on a GPU.
        holds_images: whether the images stay in the device's memory; by default on a GPU.
    """

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
        in_bfloat16: bool | None = None,
        holds_images: bool | None = None,
    ) -> None:
        torch.manual_seed(seed)
        is_gpu = device.type == "cuda"
        self._in_bfloat16 = is_gpu if in_bfloat16 is None else in_bfloat16
        holds_images = is_gpu if holds_images is None else holds_images
        self._frozen_statistics = frozen_statistics
        self._random = np.random.default_rng(seed)
        self._model, self._learn, self._image, self._settings, self._device = model, learn, image, settings, device
        self._augment = augmenter(settings.augment)
        self._imbalance = imbalance_for(settings.imbalance, learn.labels, settings.augment)
        self._loss_row = loss_for(settings, learn.labels, learn.classes)
        self._loss = self._loss_row.build(settings, learn.classes, learn.labels.ndim == 2)
        if isinstance(self._loss, nn.Module):
            self._loss.to(device)
        weights = self._imbalance.weights(learn.labels, learn.classes)
        self._weights = weights.to(device) if weights is not None else None
        to_device(model, device)
        self._bank = images_on_device(learn.images, device) if holds_images else None
        self._parts = 1  # that a batch is divided into, where the GPU's memory does not hold it whole
        self._targets = as_targets(learn.labels).to(device)
        self._images_per_epoch = self._imbalance.images_per_epoch(learn.labels)
        self._steps_per_epoch = max(1, round(self._images_per_epoch / settings.batch_size))
        self._epochs = max(settings.epochs, -(-settings.min_steps // self._steps_per_epoch))
        self._last_epoch = min(stop_after, self._epochs) or self._epochs
        self._epochs_per_row = min(-(-self._epochs // _ROWS), _MAX_EPOCHS_PER_ROW)
        steps = self._epochs * self._steps_per_epoch
        check_unfreezing(groups_of_parameters, self._epochs)
        optimizer = optimizer_for(settings, self._loss_row)
        self._optimizer = optimizer.build(groups_of_parameters, settings, self._loss, steps, False)
        self._peak_step = steps * WARM_UP if settings.schedule == "one-cycle" else 0.0
        self._schedule = schedule_for(settings, self._optimizer, steps, WARM_UP)
        average = get_ema_multi_avg_fn(settings.average) if settings.average else None
        self._averaged = AveragedModel(model, multi_avg_fn=average) if average else None
        self._evaluated_model = cast(Classifier, self._averaged.module) if self._averaged else model
        self.history: list[dict[str, Any]] = []
        self.epochs_done = 0
        self.epochs_kept = 0
        self.logits = np.zeros((0, learn.classes), np.float32)
        self.weights: dict[str, torch.Tensor] = {}
        self._lowest_loss = math.inf
        self._start_time = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done or, with patience, the held-out loss no longer improves after the peak rate."""
        waited = self.epochs_done - max(self.epochs_kept, math.ceil(self._peak_step / self._steps_per_epoch))
        stops = bool(self._settings.patience) and math.isfinite(self._lowest_loss) and waited >= self._settings.patience
        return stops or self.epochs_done >= self._last_epoch

    def train(self, progress: Progress | None) -> dict[str, float]:
        """Train up to the next row of the history.

        Returns:
            the mean training loss, the training accuracy, and the highest learning rate since
            the last row.

        Raises:
            NonFiniteError: if the loss is not finite.
        """
        set_training_mode(self._model, self._frozen_statistics)
        total, correct, images_seen, rate = 0.0, 0.0, 0, 0.0
        for _ in range(min(self._epochs_per_row, self._last_epoch - self.epochs_done)):
            unfreeze_due(self._optimizer.param_groups, self.epochs_done)
            order = self._imbalance.draw_epoch(self._learn.labels, self._random)
            for step, batch in enumerate(np.array_split(np.arange(self._images_per_epoch), self._steps_per_epoch)):
                positions = order.positions[batch]
                rate = max(rate, max(group["lr"] for group in self._optimizer.param_groups))
                loss, outputs = self._step(positions, None if order.repeats is None else order.repeats[batch])
                total += loss * len(positions)
                correct += accuracy(outputs, self._targets[positions]) * len(positions)
                if progress:
                    progress(
                        self.epochs_done * self._steps_per_epoch + step + 1, self._last_epoch * self._steps_per_epoch
                    )
            images_seen += self._images_per_epoch
            self.epochs_done += 1
        return {"loss": total / images_seen, "accuracy": correct / images_seen, "lr": rate}

    def _step(self, positions: np.ndarray, repeats: np.ndarray | None) -> tuple[float, torch.Tensor]:
        batch, targets = self._batch(positions, repeats)
        while (result := self._add_gradients(batch, targets)) is None:
            self._parts *= 2
            torch.cuda.empty_cache()
            print_status(
                f"The GPU's memory is full: batches are computed in {self._parts} parts from now on. Gradients are "
                "averaged over the parts; batch normalization sees one part at a time."
            )
        loss, outputs = result
        nn.utils.clip_grad_norm_(self._model.parameters(), self._settings.clip)
        self._optimizer.step()
        self._schedule.step()
        if self._averaged:
            self._averaged.update_parameters(self._model)
        return loss, outputs

    def _add_gradients(self, batch: torch.Tensor, targets: torch.Tensor) -> tuple[float, torch.Tensor] | None:
        """Compute the gradients of a batch in `_parts` parts; return the mean loss and the outputs.

        Returns None if the GPU's memory does not hold a part of several images.
        """
        self._optimizer.zero_grad(set_to_none=True)
        total, outputs, count = 0.0, [], min(self._parts, len(batch))
        try:
            for part, part_targets in zip(batch.tensor_split(count), targets.tensor_split(count), strict=True):
                with torch.autocast(self._device.type, torch.bfloat16, enabled=self._in_bfloat16):
                    output = self._model(channels_last(part))
                loss = self._loss(output.float(), part_targets, self._weights) * (len(part) / len(batch))
                if not torch.isfinite(loss):
                    raise NonFiniteError("the loss was")
                loss.backward()
                total += float(loss.detach())
                outputs.append(output.detach())
        except torch.OutOfMemoryError:
            if 2 * self._parts > len(batch):
                raise
            return None
        return total, torch.cat(outputs)

    def _batch(self, positions: np.ndarray, repeats: np.ndarray | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the normalized images at some positions, augmented as the settings say, and their targets."""
        if self._bank is None:
            pixels = to_unit(self._learn.images[positions], self._device)
        else:
            pixels = self._bank[torch.from_numpy(positions).to(self._device)].float() / 255
        augmented = self._augment.apply(pixels, self._random.integers(0, 2**63, len(positions)))
        if repeats is not None:
            is_repeat = torch.from_numpy(repeats).to(self._device).view(-1, *[1] * (pixels.ndim - 1))
            augmented = torch.where(is_repeat, augmented, pixels)
        targets = self._targets[positions]
        if self._augment.mixes and targets.ndim == 1:
            targets = F.one_hot(targets, self._learn.classes).float()
        return self._augment.mix(normalize(augmented, self._image), targets, self._random)

    def evaluate(self, hold_out: FitData, trained: dict[str, float] | None) -> None:
        """Add a row to the history and keep the weights: the latest or, with patience, the best after the peak rate.

        Args:
            hold_out: held-out images; may be empty.
            trained: the result of `train`; None before the first step.

        Raises:
            NonFiniteError: if a weight or the held-out loss is not finite.
        """
        if trained and not all_finite(self._evaluated_model.state_dict().values()):
            raise NonFiniteError("a weight was")
        logits, held_out_loss = self.logits, math.nan
        if held_out_count := len(hold_out.labels):
            logits = predict_logits(self._evaluated_model, hold_out.images, self._image, self._device)
            held_out_loss = self._loss_row.held_out_loss(logits, hold_out.labels)
            if trained and not math.isfinite(held_out_loss):
                raise NonFiniteError("the hold-out loss was")
        self.history.append(
            {
                "epoch": self.epochs_done,
                "step": self.epochs_done * self._steps_per_epoch,
                "lr": trained["lr"] if trained else 0.0,
                "train_loss": trained["loss"] if trained else None,
                "train_accuracy": trained["accuracy"] if trained else None,
                "validation_loss": held_out_loss if math.isfinite(held_out_loss) else None,
                "validation_accuracy": (
                    accuracy(torch.from_numpy(logits), as_targets(hold_out.labels)) if held_out_count else None
                ),
                "seconds": round(time.monotonic() - self._start_time, 2) if trained else 0.0,
            }
        )
        past_peak = self.epochs_done * self._steps_per_epoch >= self._peak_step
        selects_best = self._settings.patience and held_out_count
        if not selects_best or not math.isfinite(self._lowest_loss) or held_out_loss < self._lowest_loss:
            self.epochs_kept, self.logits = self.epochs_done, logits
            self.weights = copy.deepcopy(self._evaluated_model.state_dict())
            if selects_best and past_peak and trained:
                self._lowest_loss = held_out_loss

    def state(self) -> dict[str, Any]:
        """Return the whole state as plain tensors, numbers and text."""
        return {
            "model": self._model.state_dict(),
            "loss": self._loss.state_dict() if isinstance(self._loss, nn.Module) else {},
            "optimizer": self._optimizer.state_dict(),
            "parts": self._parts,
            "schedule": self._schedule.state_dict(),
            "averaged": self._averaged.state_dict() if self._averaged else {},
            "random": generator_state(self._random),
            "history": self.history,
            "epochs_done": self.epochs_done,
            "epochs_kept": self.epochs_kept,
            "lowest": self._lowest_loss,
            "logits": torch.from_numpy(self.logits),
            "weights": self.weights,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the state that `state` returned."""
        self._model.load_state_dict(state["model"])
        if isinstance(self._loss, nn.Module):
            self._loss.load_state_dict(state["loss"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._parts = state["parts"]
        self._schedule.load_state_dict(state["schedule"])
        if self._averaged:
            self._averaged.load_state_dict(state["averaged"])
        self._random.bit_generator.state = state["random"]
        self.history = state["history"]
        self.epochs_done, self.epochs_kept = state["epochs_done"], state["epochs_kept"]
        self._lowest_loss, self.logits, self.weights = state["lowest"], state["logits"].cpu().numpy(), state["weights"]
        self._start_time = time.monotonic() - self.history[-1]["seconds"]


def set_training_mode(model: nn.Module, frozen_statistics: bool) -> None:
    """Set training mode, but keep batch normalization in evaluation mode if its statistics are frozen."""
    model.train()
    if frozen_statistics:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


class TrainingResult(NamedTuple):
    """Result of training a network.

    Attributes:
        logits: (H, classes) logits of the held-out images by the weights that are kept.
        history: rows of the training curve: step, learning rate, training and held-out loss and accuracy.
        epochs: epoch of the weights that are kept.
        failed: why the training stopped early, and what to change; "" if it did not.
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
    context: FitContext,
    frozen_statistics: bool,
    stop_after: int = 0,
) -> TrainingResult:
    """Train a network in place.

    Args:
        model: the classifier.
        groups_of_parameters: parameter groups, each with its peak `lr`.
        learn: training images.
        hold_out: images for the held-out columns of the training curve; may be empty. They influence nothing unless
            `settings.patience` asks for early stopping.
        image: the encoder's input specification.
        settings: training settings. Training lasts `epochs` epochs, but at least `min_steps` optimizer steps.
        context: seed of order, augmentation and dropout; device, where on a GPU the forward pass computes in bfloat16
            if that is safe; progress in steps; file for the state after each row of the history, from which an
            interrupted training is resumed.
        frozen_statistics: keep batch normalization in evaluation mode, as small subsets need.
        stop_after: epochs after which training ends; 0 for the full length. The schedule keeps the full length.
    Returns:
        the result. If the loss is not finite, training stops and the last good weights are kept.
    """
    # resume an interrupted training, or start with a row for the untrained network
    unfinished = context.unfinished
    loop = TrainingLoop(
        model, groups_of_parameters, learn, image, settings, context.seed, context.device, frozen_statistics, stop_after
    )
    if state := unfinished.read() if unfinished else None:
        loop.load_state(state)
    else:
        loop.evaluate(hold_out, None)
    for row in loop.history:
        write_event("epoch", **row)
    # train row by row until the end or until the loss is not finite
    failed = ""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        while not (failed or loop.is_over):
            try:
                loop.evaluate(hold_out, loop.train(context.progress))
            except NonFiniteError as error:
                failed = (
                    f"{error} no longer a number in epoch {loop.history[-1]['epoch'] + 1}. Lower the learning rate "
                    f"(--lr), which was {settings.lr:g}, or the norm at which gradients are clipped (--clip)."
                )
                continue
            write_event("epoch", **loop.history[-1])
            if unfinished:
                unfinished.write(loop.state(), always=loop.is_over)
    # restore the weights that were kept
    model.load_state_dict(loop.weights)
    model.eval().cpu()
    return TrainingResult(loop.logits, loop.history, loop.epochs_kept, failed)
