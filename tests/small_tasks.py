"""Small networks, tasks and pools of images for the tests of meta-learning."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from core.models.classifier import Classifier, Head, average_pool, linear_layers
from core.types import ImageSpec
from trainer.meta_learning.episodes import Pool, Task
from trainer.training.settings import FitData
from trainer.training.strategies import STRATEGIES

CPU = torch.device("cpu")
IMAGE = ImageSpec(6)
SETTINGS = replace(
    STRATEGIES["maml"].settings, episodes=8, tasks=2, shots=2, queries=3, inner_lr=0.3, inner_steps=2, adapt_steps=3
)
NAN = float("nan")


def small_model(classes=2, width=4, seed=0):
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.GroupNorm(2, width), nn.Softplus())
    return Classifier(encoder, Head(average_pool(), linear_layers(width, classes)))


def some_task(findings=False, seed=0, size=5):
    random = torch.Generator().manual_seed(seed)
    images = [torch.randn(size, 3, 6, 6, generator=random).double() for _ in range(2)]
    if findings:
        targets = [torch.randint(0, 2, (size, 2), generator=random).double() for _ in range(2)]
        targets[0][0, 0] = NAN
        return Task(images[0], targets[0], images[1], targets[1], None)
    targets = [torch.arange(size) % 2 for _ in range(2)]
    return Task(images[0], targets[0], images[1], targets[1], torch.tensor([1, 0]))


def fit_data(labels, groups=None, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 3, 6, 6), np.uint8)
    rows = np.arange(len(labels))
    return FitData(images, np.asarray(labels), rows if groups is None else groups, rows, 2, "set", "", len(rows))


def pool(labels, groups=None, rows=None, name="other"):
    """Images whose brightness is their row, so that a task tells what it was made of."""
    count = len(labels)
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 3, 6, 6))
    everything = np.arange(count)
    return Pool(
        name, images, np.asarray(labels), everything if groups is None else groups, everything if rows is None else rows
    )


def rows_of(images):
    return torch.round((images[:, 0, 0, 0] * 0.5 + 0.5) * 255).long().numpy()
