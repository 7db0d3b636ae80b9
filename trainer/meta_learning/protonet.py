"""Prototypical networks: an image is of the class whose mean embedding it lies nearest to.

With squared distances that is a linear layer, which is how a run keeps it. The encoder is a frozen one, or was trained
on tasks of other data sets to make such means tell.

References:
    Snell et al. 2017, arXiv:1703.05175.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from core.models.classifier import Classifier, linear_layers
from trainer.meta_learning.episodes import Task
from trainer.training.losses import masked_bce
from trainer.training.settings import Settings


def fit_prototypes(embeddings: np.ndarray, labels: np.ndarray, classes: int) -> nn.Sequential:
    """The linear layer that compares with class means.

    Scores are divided by one number, the spread of embeddings around their means, which changes no order but brings
    temperatures into range.

    Args:
        embeddings: (n, views, D); views of an image count alike.
        labels: (n,), class indices; or (n, C) findings with NaN for unknown, each of which compares the mean with it
            to the mean without.
        classes: number of classes.
    """
    views = embeddings.shape[1]
    flat = embeddings.reshape(-1, embeddings.shape[-1]).astype(float)
    repeated = np.repeat(labels, views, axis=0)
    if labels.ndim == 2:
        found = [_of_finding(flat, column) for column in repeated.T]
        weight, bias = np.stack([w for w, _ in found]), np.array([b for _, b in found])
    else:
        means = np.stack([_mean(flat, repeated == c) for c in range(classes)])
        spread = _spread(flat - means[repeated])
        weight, bias = 2 * means / spread, -(means**2).sum(axis=1) / spread
    layers = linear_layers(flat.shape[1], classes)
    layers.load_state_dict({"0.weight": torch.from_numpy(weight), "0.bias": torch.from_numpy(bias)})
    return layers.eval()


def _mean(flat: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Mean of some rows; of all where there are none, which speaks neither for nor against a class."""
    return flat[members].mean(axis=0) if members.any() else flat.mean(axis=0)


def _spread(apart: np.ndarray) -> float:
    return float((apart**2).mean() * np.sqrt(apart.shape[1])) or 1.0


def _of_finding(flat: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias of one finding; only its prevalence where all known labels are alike."""
    with_it, without = labels > 0.5, labels <= 0.5
    if not with_it.any() or not without.any():
        return np.zeros(flat.shape[1]), float(np.log((with_it.sum() + 0.5) / (without.sum() + 0.5)))
    positive, negative = flat[with_it].mean(axis=0), flat[without].mean(axis=0)
    known = with_it | without
    spread = _spread(flat[known] - np.where(with_it[known, None], positive, negative))
    return 2 * (positive - negative) / spread, float((negative**2).sum() - (positive**2).sum()) / spread


def query_loss(model: Classifier, task: Task, settings: Settings) -> torch.Tensor:
    """The loss on a task's query set by the means of its support set: what the outer loop makes small."""
    both = model.embed(torch.cat([task.support, task.query]))
    support, query = both.split([len(task.support), len(task.query)])
    if task.columns is not None:
        means = torch.stack([support[task.support_targets == c].mean(dim=0) for c in range(len(task.columns))])
        return F.cross_entropy(-((query[:, None] - means) ** 2).sum(dim=2), task.query_targets)
    with_it, without = ((task.support_targets > 0.5).to(both), (task.support_targets <= 0.5).to(both))  # (B, C)
    both_sides = with_it.any(dim=0) & without.any(dim=0)
    near, far = (
        ((query[:, None] - side.T @ support / side.sum(dim=0).clamp(min=1)[:, None]) ** 2).sum(dim=2)
        for side in (with_it, without)
    )
    return masked_bce(far - near, task.query_targets.where(both_sides, torch.nan))
