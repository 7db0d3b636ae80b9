"""One shape for every model: an encoder gives a feature map, a head pools and classifies it, a tap lies between.

Explanations, embeddings and freezing hold on to the tap and need nothing else of a model. A map is (B, C, h, w), for
volumes (B, C, d, h, w). Where a pretrained network goes on behind its map (a norm, a last transformer block), those
layers stay the encoder's and are only run by the head: see `Rest`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

HEAD_LAYERS = "tapped.head.layers."  # prefix of the head's tensors in a classifier's state
HIDDEN = 512
DROPOUT = 0.3
M = TypeVar("M", bound=nn.Module)


class Encoder(Protocol):
    """A network that goes on behind its feature map."""

    def rest(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) feature map -> (B, D), as the library's own network pools it."""


class Rest(nn.Module):
    """A pool that runs the encoder's own layers behind its feature map.

    Their weights are the encoder's: counted, hashed, frozen, tuned and stored there and only there, so this module
    holds the encoder where PyTorch does not look for parameters.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = (encoder,)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self._encoder[0].rest(features)  # (B, D)


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
    """The part of a classifier behind its encoder; what an attribution method runs again and again.

    Args:
        head: feature map -> logits.
        carried: channels at the end that belong to no place, such as a class token; they go past the tap.
    """

    def __init__(self, head: Head, carried: int = 0) -> None:
        super().__init__()
        self.tap = nn.Identity()
        self.head = head
        self.carried = carried

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if not self.carried:
            return self.head(self.tap(features))
        places = features.shape[1] - self.carried
        seen = self.tap(features[:, :places])  # (B, C, h, w)
        return self.head(torch.cat([seen, features[:, places:]], dim=1))


class Classifier(nn.Module):
    """Encoder -> tap -> head.

    Args:
        encoder: (B, 3, S, S) normalised images -> (B, C, h, w) feature map; volumes have one dimension more.
        head: feature map -> logits.
        carried: see `TappedHead`.
    """

    def __init__(self, encoder: nn.Module, head: Head, carried: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.tapped = TappedHead(head, carried)

    @property
    def head(self) -> Head:
        """The head, which alone is trained where the encoder is frozen."""
        return self.tapped.head

    @property
    def tap(self) -> nn.Module:
        """The place between encoder and head where attribution methods listen."""
        return self.tapped.tap

    @property
    def finer(self) -> nn.Module | None:
        """A stage of the encoder whose map has more places than its last; None where it knows of none."""
        return getattr(self.encoder, "finer", None)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Widths of the embedding's blocks, in order; their sum is the width that the head's first linear layer takes.

        An encoder that joins embeddings of different networks, whose scales have nothing in common, states a width for
        each (`encoder.blocks`), so that a head can normalize them one by one. Every other embedding is one block.
        """
        width = next(layer.in_features for layer in self.head.layers if isinstance(layer, nn.Linear))
        return getattr(self.encoder, "blocks", (width,))

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


def average_pool(dims: Literal[2, 3] = 2) -> nn.Module:
    """(B, C, h, w), or (B, C, d, h, w) -> (B, C): the mean over places."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1) if dims == 2 else nn.AdaptiveAvgPool3d(1), nn.Flatten())


class UnitNorm(nn.Module):
    """Center embeddings and scale each block of them to unit length, times a constant.

    A handful of images cannot tell the spread of each of a thousand features, but it can tell their mean; and the
    length of an embedding carries contrast and sharpness of the image rather than its content.

    Args:
        blocks: widths of the blocks of an embedding, each scaled by itself; their sum is D.
        scale: length of the whole embedding afterwards.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, blocks: Sequence[int], scale: float = 1.0) -> None:
        super().__init__()
        self.blocks = tuple(blocks)
        self.register_buffer("mean", torch.zeros(sum(blocks)))
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        parts = (embeddings - self.mean).split(self.blocks, dim=-1)
        unit = torch.cat([F.normalize(part, dim=-1) for part in parts], dim=-1)
        return unit * (self.scale / len(self.blocks) ** 0.5)  # (..., D)


class MeanOf(nn.Module):
    """Average the logits of several heads.

    Args:
        heads: each (B, D) -> (B, classes).
    """

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return torch.stack([head(embeddings) for head in self.heads]).mean(0)  # (B, classes)


def layers_like(state: Mapping[str, torch.Tensor], current: nn.Sequential, blocks: Sequence[int]) -> nn.Sequential:
    """Build the head layers that a state dict belongs to.

    Args:
        state: tensors of head layers as `nn.Sequential` names them: a normalization or none, then one linear layer or
            the MLP; or several such heads whose logits are averaged.
        current: the head as the model is built; layers before its first linear one (attention over slices) are kept.
        blocks: widths of the blocks of the embedding.
    Returns:
        layers of those shapes; their values are not set.
    """
    if members := sorted({int(key.split(".")[2]) for key in state if key.startswith("0.heads.")}):
        prefixes = [f"0.heads.{member}." for member in members]
        states = [{key[len(p) :]: value for key, value in state.items() if key.startswith(p)} for p in prefixes]
        return nn.Sequential(MeanOf([layers_like(part, nn.Sequential(), blocks) for part in states]))
    before = list(current)[: next((i for i, layer in enumerate(current) if isinstance(layer, nn.Linear)), 0)]
    rest = {key: value for key, value in state.items() if int(key.split(".")[0]) >= len(before)}
    norm = [UnitNorm(blocks)] if any(key.endswith(".mean") for key in rest) else []
    kernels = [value.shape for key, value in rest.items() if key.endswith(".weight") and value.ndim == 2]
    linear = linear_layers(kernels[0][1], kernels[0][0]) if len(kernels) == 1 else None
    return nn.Sequential(*before, *norm, *(linear or mlp_layers(kernels[0][1], kernels[-1][0])))


def mlp_layers(features: int, classes: int) -> nn.Sequential:
    """Embedding -> 512 -> ReLU -> dropout 0.3 -> classes: the MLP head."""
    return nn.Sequential(nn.Linear(features, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, classes))


def linear_layers(features: int, classes: int) -> nn.Sequential:
    """Embedding -> classes: logistic regression as a head."""
    return nn.Sequential(nn.Linear(features, classes))


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """The same images, laid out in memory as convolutions are quickest with; volumes stay as they are, which is."""
    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images


def placed(model: M, device: torch.device) -> M:
    """Moves a model to a device in place, its kernels laid out as `channels_last` lays images; returns it."""
    model.to(device)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return model
