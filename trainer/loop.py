"""The training loop of whole networks: a fixed number of optimizer steps, and going on after a kill."""

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
