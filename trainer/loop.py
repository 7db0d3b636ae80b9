"""The training loop of whole networks: early stopping on a hold-out, the best epoch kept, and going on after a kill."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from core.data.banks import Progress
from core.models.classifier import Classifier
from core.types import ImageSpec
from trainer.config import FitData, Settings
from trainer.course import Course
from trainer.losses import NoNumberError
from trainer.progress import tell
from trainer.unfinished import Unfinished


class Trained(NamedTuple):
    """What comes of a training.

    Attributes:
        logits: (H, classes), for the hold-out by the epoch that is kept.
        history: a row an epoch: loss and accuracy, train and validation.
        failed: why the training stopped before its end, with what to change; "" where it did not.
    """

    logits: np.ndarray
    history: list[dict[str, Any]]
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
) -> Trained:
    """Trains a network in place and leaves it at its best epoch by hold-out loss; epoch 0 is the start.

    Args:
        model: the classifier.
        groups_of_parameters: parameter groups, each with its peak `lr`.
        learn: images learnt from.
        hold_out: images that decide when to stop; may be none where `patience` is 0, and then the last epoch is kept.
        image: the encoder's input.
        settings: of the training.
        seed: of order, augmentation and dropout.
        device: where it runs; on a GPU the network computes in bfloat16 where that is safe.
        frozen_statistics: keep batch normalisation in evaluation mode, as small subsets want it.
        progress: called with (steps done, steps in all).
        unfinished: where the state after each epoch is kept; a training found there is gone on with.
    Returns:
        what came of it. If the loss is no longer a number, training stops there and its best epoch so far is kept.
    """
    course = Course(model, groups_of_parameters, learn, image, settings, seed, device, frozen_statistics)
    if began := unfinished.read() if unfinished else None:
        course.go_on(began)
    else:
        course.judge(0, hold_out, None, None)
    for row in course.history:
        tell("epoch", **row)
    failed = ""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        while not (failed or course.is_over):
            try:
                loss, right = course.epoch(progress)
                course.judge(course.done + 1, hold_out, loss, right)
            except NoNumberError as error:
                failed = (
                    f"{error} no longer a number in epoch {course.done + 1}. Lower the learning rate (--lr), "
                    f"which was {settings.lr:g}, or the norm at which gradients are clipped (--clip)."
                )
                continue
            tell("epoch", **course.history[-1])
            if unfinished:
                unfinished.write(course.state())
    model.load_state_dict(course.best.state)
    model.eval().cpu()
    return Trained(course.best.logits, course.history, failed)
