"""One shape for every model: an encoder gives a feature map, a head pools and classifies it, a tap lies between.

Explanations, embeddings and freezing hold on to the tap and need nothing else of a model.
"""

from __future__ import annotations

import torch
from torch import nn

HEAD_LAYERS = "tapped.head.layers."  # prefix of the head's tensors in a classifier's state
HIDDEN = 512
DROPOUT = 0.3


class Head(nn.Module):
    """Pools a feature map to an embedding and classifies it.

    Args:
        pool: (B, C, h, w) -> (B, D).
        layers: (B, D) -> (B, classes) logits.
    """

    def __init__(self, pool: nn.Module, layers: nn.Sequential) -> None:
        super().__init__()
        self.pool = pool
        self.layers = layers

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(self.pool(features))  # (B, classes)


class TappedHead(nn.Module):
    """The part of a classifier behind its encoder; what an attribution method runs again and again."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.tap = nn.Identity()
        self.head = head

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(self.tap(features))


class Classifier(nn.Module):
    """Encoder -> tap -> head.

    Args:
        encoder: (B, 3, S, S) normalised images -> (B, C, h, w) feature map.
        head: feature map -> logits.
    """

    def __init__(self, encoder: nn.Module, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.tapped = TappedHead(head)

    @property
    def head(self) -> Head:
        """The head, which alone is trained where the encoder is frozen."""
        return self.tapped.head

    @property
    def tap(self) -> nn.Module:
        """The place between encoder and head where attribution methods listen."""
        return self.tapped.tap

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled features.

        Args:
            images: (B, 3, S, S), normalised.
        Returns:
            (B, D).
        """
        return self.head.pool(self.encoder(images))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.tapped(self.encoder(images))  # (B, classes)


def average_pool() -> nn.Module:
    """(B, C, h, w) -> (B, C): the mean over places."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def mlp_layers(features: int, classes: int) -> nn.Sequential:
    """Embedding -> 512 -> ReLU -> dropout 0.3 -> classes: the head that all frozen families share."""
    return nn.Sequential(nn.Linear(features, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, classes))


def linear_layers(features: int, classes: int) -> nn.Sequential:
    """Embedding -> classes: logistic regression as a head."""
    return nn.Sequential(nn.Linear(features, classes))
