"""Heads on cached embeddings: the MLP that all frozen families share, and logistic regression."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from core.models.classifier import linear_layers, mlp_layers
from trainer.config import Settings

LOGISTIC_STRENGTHS = (0.001, 0.01, 0.1, 1.0)


def standardisation(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each feature over images and views: (D,) and (D,)."""
    flat = embeddings.reshape(-1, embeddings.shape[-1])
    return flat.mean(axis=0), flat.std(axis=0) + 1e-3


def fit_mlp(embeddings: np.ndarray, labels: np.ndarray, classes: int, settings: Settings, seed: int) -> nn.Sequential:
    """Trains embedding -> 512 -> ReLU -> dropout 0.3 -> classes on standardised embeddings.

    The standardisation is folded into the first layer, so what is returned takes raw embeddings.

    Args:
        embeddings: (n, views, D); every step takes a random view of each image.
        labels: (n,), class indices.
        classes: number of classes.
        settings: of the training.
        seed: of initial weights, order, views and dropout.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    mean, deviation = standardisation(embeddings)
    inputs = torch.from_numpy((embeddings - mean) / deviation)  # (n, views, D)
    targets = torch.from_numpy(labels).long()
    layers = mlp_layers(embeddings.shape[-1], classes)
    optimiser = torch.optim.AdamW(layers.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    count, batch = len(labels), min(settings.batch_size, len(labels))
    steps = max(settings.min_steps, settings.epochs * -(-count // batch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.lr, total_steps=steps)
    order = np.array([], int)
    layers.train()
    for _ in range(steps):
        if len(order) < batch:
            order = np.concatenate([order, random.permutation(count)])
        at, order = order[:batch], order[batch:]
        views = random.integers(0, inputs.shape[1], batch)
        loss = F.cross_entropy(layers(inputs[at, views]), targets[at])
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
