"""Heads on cached embeddings: the MLP that all frozen families share, and logistic regression."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from core.models.classifier import DROPOUT, linear_layers
from trainer.config import Settings
from trainer.imbalance import imbalance_for
from trainer.losses import NoNumberError, are_numbers, as_targets, loss_for
from trainer.optimisers import optimiser_for, schedule_for

_WARM_UP = 0.3
LOGISTIC_STRENGTHS = (0.001, 0.01, 0.1, 1.0)


def standardisation(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each feature over images and views: (D,) and (D,)."""
    variance, mean = torch.var_mean(torch.from_numpy(embeddings).flatten(0, 1), dim=0, correction=0)
    return mean.numpy(), variance.sqrt().numpy() + np.float32(1e-3)


def side_by_side(fits: Sequence[Callable[[], nn.Sequential]]) -> list[nn.Sequential]:
    """Runs independent fits at once, each on one thread: heads are too small to share cores over.

    What a fit returns does not depend on how many cores the machine has.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return [running.result() for running in [pool.submit(fit) for fit in fits]]
    finally:
        torch.set_num_threads(threads)


def fit_mlp(
    start: nn.Sequential, embeddings: np.ndarray, labels: np.ndarray, settings: Settings, seed: int
) -> nn.Sequential:
    """Trains a copy of a fresh head, embedding -> 512 -> ReLU -> dropout 0.3 -> classes, on standardised embeddings.

    The standardisation is folded into the first layer, so what is returned takes raw embeddings. Layers before it, such
    as attention that makes one embedding of several, learn with it and see raw ones.

    Args:
        start: the head with its initial weights.
        embeddings: (n, views, D); every step takes a random view of each image.
        labels: (n,), class indices, or (n, C) findings with NaN for unknown.
        settings: of the training.
        seed: of order, views and dropout.
    Raises:
        NoNumberError: if the loss or a weight is no longer a number.
    """
    random = np.random.default_rng(seed)
    layers = copy.deepcopy(start)
    *before, into, _, _, out = layers
    gather = nn.Sequential(*before)
    width = into.get_parameter("weight").shape[1]
    mean, deviation = standardisation(embeddings.reshape(len(embeddings), -1, width))
    inputs = torch.from_numpy(embeddings).flatten(0, 1)  # (n * views, D)
    views = embeddings.shape[1]
    centre, scale = torch.from_numpy(mean), torch.from_numpy(deviation)
    imbalance = imbalance_for(settings.imbalance, labels, settings.augment)
    classes = len(out.get_parameter("bias"))
    targets, weights = as_targets(labels), imbalance.weights(labels, classes)
    row = loss_for(settings, labels, classes)
    loss_of = row.build(settings, classes, labels.ndim == 2)
    order = imbalance.epoch(labels, random)
    count, batch = len(order.positions), min(settings.batch_size, len(order.positions))
    steps = max(settings.min_steps, settings.epochs * -(-count // batch))
    groups = [{"params": list(layers.parameters()), "lr": settings.lr}]
    optimiser = optimiser_for(settings, row).build(groups, settings, loss_of, steps, True)
    schedule = schedule_for(settings, optimiser, steps, _WARM_UP)
    failed = f"of the head was no longer a number. Lower the learning rate (--lr), which was {settings.lr:g}."
    for step in range(steps):
        at, order = order.take(batch, lambda: imbalance.epoch(labels, random))
        seen = inputs.index_select(0, torch.from_numpy(at.positions * views + at.views(views, random)))
        hidden = F.relu(into((gather(seen) - centre) / scale))
        # dropout from this fit's own generator: PyTorch's is shared by all threads
        kept = torch.from_numpy(random.random(hidden.shape, dtype=np.float32) >= DROPOUT)
        loss = loss_of(out(hidden * kept / (1 - DROPOUT)), targets[at.positions], weights)
        if not torch.isfinite(loss):
            raise NoNumberError(f"at step {step + 1} the loss {failed}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    _fold(into, mean, deviation)
    if not are_numbers(layers.state_dict().values()):
        raise NoNumberError(f"in the end a weight {failed}")
    return layers.eval()


def fit_logistic(
    embeddings: np.ndarray, labels: np.ndarray, classes: int, strength: float, settings: Settings, seed: int
) -> nn.Sequential:
    """Logistic regression on standardised embeddings of all views, as a linear layer on raw ones.

    Args:
        embeddings: (n, views, D).
        labels: (n,), class indices, or (n, C) findings with NaN for unknown: one regression a finding.
        classes: number of classes.
        strength: inverse of the L2 penalty.
        settings: of the training; only how imbalance is met counts.
        seed: of the images drawn where some are left out or repeated.
    """
    random = np.random.default_rng(seed)
    imbalance = imbalance_for(settings.imbalance, labels, settings.augment)
    epoch = imbalance.epoch(labels, random)
    views = embeddings.shape[1]
    if epoch.repeats is None:  # every view of every image
        at, view = np.repeat(np.sort(epoch.positions), views), np.tile(np.arange(views), len(epoch.positions))
    else:
        at, view = epoch.positions, epoch.views(views, random)
    mean, deviation = standardisation(embeddings)
    flat, repeated = (embeddings[at, view] - mean) / deviation, labels[at]
    model = LogisticRegression(C=strength, max_iter=2000, class_weight="balanced" if imbalance.weighs else None)
    if labels.ndim == 2:
        fitted = [_logistic_of_finding(model, flat, column) for column in repeated.T]
        weight, bias = np.stack([w for w, _ in fitted]), np.array([b for _, b in fitted])
    else:
        weight, bias = (fitted := model.fit(flat, repeated)).coef_, fitted.intercept_
        if classes == 2:
            weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    layers = linear_layers(embeddings.shape[-1], classes)
    layers.load_state_dict({"0.weight": torch.from_numpy(weight), "0.bias": torch.from_numpy(bias)})
    _fold(layers[0], mean, deviation)
    return layers.eval()


def _logistic_of_finding(model: LogisticRegression, flat: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias of one finding; only its prevalence where all known labels are alike."""
    known = ~np.isnan(labels)
    truth = labels[known] > 0.5
    if truth.any() and not truth.all():
        model.fit(flat[known], truth)
        return model.coef_[0], float(model.intercept_[0])
    share = (truth.sum() + 0.5) / (len(truth) + 1)
    return np.zeros(flat.shape[1]), float(np.log(share / (1 - share)))


def _fold(layer: nn.Module, mean: np.ndarray, deviation: np.ndarray) -> None:
    """Makes a linear layer on standardised embeddings one on raw embeddings, in place."""
    state = layer.state_dict()
    weight = state["weight"] / torch.from_numpy(deviation)
    layer.load_state_dict({"weight": weight, "bias": state["bias"] - weight @ torch.from_numpy(mean)})


def logits_of(layers: nn.Module, embeddings: np.ndarray) -> np.ndarray:
    """(n, D) raw embeddings -> (n, C) logits."""
    with torch.no_grad():
        return layers(torch.from_numpy(np.ascontiguousarray(embeddings))).numpy()
