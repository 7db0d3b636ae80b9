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

    The standardisation is folded into the first layer, so what is returned takes raw embeddings.

    Args:
        start: the head with its initial weights.
        embeddings: (n, views, D); every step takes a random view of each image.
        labels: (n,), class indices.
        settings: of the training.
        seed: of order, views and dropout.
    """
    random = np.random.default_rng(seed)
    mean, deviation = standardisation(embeddings)
    inputs = torch.from_numpy(embeddings).flatten(0, 1)  # (n * views, D)
    views = embeddings.shape[1]
    centre, scale = torch.from_numpy(mean), torch.from_numpy(deviation)
    targets = torch.from_numpy(labels).long()
    layers = copy.deepcopy(start)
    into, _, _, out = layers
    optimiser = torch.optim.AdamW(layers.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    count, batch = len(labels), min(settings.batch_size, len(labels))
    steps = max(settings.min_steps, settings.epochs * -(-count // batch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.lr, total_steps=steps)
    order = np.array([], int)
    for _ in range(steps):
        if len(order) < batch:
            order = np.concatenate([order, random.permutation(count)])
        at, order = order[:batch], order[batch:]
        seen = inputs.index_select(0, torch.from_numpy(at * views + random.integers(0, views, batch)))
        hidden = F.relu(into((seen - centre) / scale))
        # dropout from this fit's own generator: PyTorch's is shared by all threads
        kept = torch.from_numpy(random.random(hidden.shape, dtype=np.float32) >= DROPOUT)
        loss = F.cross_entropy(out(hidden * kept / (1 - DROPOUT)), targets[at])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return _folded(layers.eval(), mean, deviation)


def fit_logistic(embeddings: np.ndarray, labels: np.ndarray, classes: int, strength: float) -> nn.Sequential:
    """Logistic regression on standardised embeddings of all views, as a linear layer on raw ones.

    Args:
        embeddings: (n, views, D).
        labels: (n,), class indices.
        classes: number of classes.
        strength: inverse of the L2 penalty.
    """
    mean, deviation = standardisation(embeddings)
    flat = ((embeddings - mean) / deviation).reshape(-1, embeddings.shape[-1])
    model = LogisticRegression(C=strength, max_iter=2000).fit(flat, np.repeat(labels, embeddings.shape[1]))
    weight, bias = model.coef_, model.intercept_
    if classes == 2:
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    layers = linear_layers(embeddings.shape[-1], classes)
    layers.load_state_dict({"0.weight": torch.from_numpy(weight), "0.bias": torch.from_numpy(bias)})
    return _folded(layers.eval(), mean, deviation)


def _folded(layers: nn.Sequential, mean: np.ndarray, deviation: np.ndarray) -> nn.Sequential:
    state = layers.state_dict()
    weight = state["0.weight"] / torch.from_numpy(deviation)
    layers.load_state_dict({**state, "0.weight": weight, "0.bias": state["0.bias"] - weight @ torch.from_numpy(mean)})
    return layers


def logits_of(layers: nn.Module, embeddings: np.ndarray) -> np.ndarray:
    """(n, D) raw embeddings -> (n, C) logits."""
    with torch.no_grad():
        return layers(torch.from_numpy(np.ascontiguousarray(embeddings))).numpy()
