"""Prototypical networks: an image gets the class with the nearest mean embedding.

With squared distances this is a linear layer, and a run stores it as one. The encoder is frozen, or was trained on
tasks of other data sets for this classifier.

References:
    Snell et al. 2017, arXiv:1703.05175.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from core.models.classifier import Classifier, linear_layers
from trainer.meta_learning.episodes import Task
from trainer.training.loss_functions import masked_bce
from trainer.training.settings import Settings


def fit_prototypes(embeddings: np.ndarray, labels: np.ndarray, classes: int) -> nn.Sequential:
    """Return the linear layer that compares embeddings with class means.

    Scores are divided by the spread of embeddings around their means. This changes no order, but it brings temperatures
    into the usual range.

    Args:
        embeddings: (n, views, D); all views of an image count equally.
        labels: (n,) class indices; or (n, C) findings with NaN for unknown. A finding compares the mean of images with
            it to the mean of images without it.
        classes: number of classes.
    """
    views = embeddings.shape[1]
    flat = embeddings.reshape(-1, embeddings.shape[-1]).astype(float)
    repeated = np.repeat(labels, views, axis=0)
    if labels.ndim == 2:
        layers_by_finding = [_of_finding(flat, column) for column in repeated.T]
        weight, bias = np.stack([w for w, _ in layers_by_finding]), np.array([b for _, b in layers_by_finding])
    else:
        means = np.stack([_mean(flat, repeated == c) for c in range(classes)])
        spread = _spread(flat - means[repeated])
        weight, bias = 2 * means / spread, -(means**2).sum(axis=1) / spread
    layers = linear_layers(flat.shape[1], classes)
    layers.load_state_dict({"0.weight": torch.from_numpy(weight), "0.bias": torch.from_numpy(bias)})
    return layers.eval()


def _mean(flat: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return the mean of some rows, or of all rows if there are none, which is neutral between classes."""
    return flat[members].mean(axis=0) if members.any() else flat.mean(axis=0)


def _spread(residuals: np.ndarray) -> float:
    return float((residuals**2).mean() * np.sqrt(residuals.shape[1])) or 1.0


def _of_finding(flat: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weights and bias of one finding; the weights are 0 where all known labels are equal."""
    with_it, without = labels > 0.5, labels <= 0.5
    if not with_it.any() or not without.any():
        return np.zeros(flat.shape[1]), float(np.log((with_it.sum() + 0.5) / (without.sum() + 0.5)))
    positive, negative = flat[with_it].mean(axis=0), flat[without].mean(axis=0)
    known = with_it | without
    spread = _spread(flat[known] - np.where(with_it[known, None], positive, negative))
    return 2 * (positive - negative) / spread, float((negative**2).sum() - (positive**2).sum()) / spread


def query_loss(model: Classifier, task: Task, settings: Settings) -> torch.Tensor:
    """Return the loss on a task's query set with the means of its support set, which the outer loop minimizes."""
    embeddings = model.embed(torch.cat([task.support, task.query]))
    support, query = embeddings.split([len(task.support), len(task.query)])
    if task.columns is not None:
        means = torch.stack([support[task.support_targets == c].mean(dim=0) for c in range(len(task.columns))])
        return F.cross_entropy(-((query[:, None] - means) ** 2).sum(dim=2), task.query_targets)
    with_it, without = (
        (task.support_targets > 0.5).to(embeddings),
        (task.support_targets <= 0.5).to(embeddings),
    )  # (B, C)
    has_both_sides = with_it.any(dim=0) & without.any(dim=0)
    near, far = (
        ((query[:, None] - side.T @ support / side.sum(dim=0).clamp(min=1)[:, None]) ** 2).sum(dim=2)
        for side in (with_it, without)
    )
    return masked_bce(far - near, task.query_targets.where(has_both_sides, torch.nan))
