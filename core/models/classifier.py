"""Structure of all models: an encoder computes a feature map, a head pools and classifies it, with a tap between them.

Explanations, embeddings and freezing need only the tap. A feature map is (B, C, h, w), for volumes (B, C, d, h, w).
If a pretrained network has layers after its map (a norm, a last transformer block), these layers belong to the encoder
but are run by the head: see `EncoderPooling`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

HEAD_LAYERS = "tapped.head.layers."  # prefix of the head's tensors in a classifier's state
HIDDEN = 512
DROPOUT = 0.3
M = TypeVar("M", bound=nn.Module)
_LOG = logging.getLogger("lowshot.memory")


class EncoderPooling(nn.Module):
    """Pooling by the encoder's own layers after its feature map.

    Their weights belong to the encoder and are counted, hashed, frozen, trained and stored only there. This module
    therefore keeps the encoder in a tuple, where PyTorch does not look for parameters.

    Args:
        encoder: has a method `pool` that pools as the original network does: (B, C, h, w) -> (B, D).
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self._encoder = (encoder,)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self._encoder[0].pool(features)  # (B, D)


class Head(nn.Module):
    """Pooling of a feature map to an embedding, and its classification.

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
    """Tap and head: the part of a classifier after its encoder, which attribution methods run repeatedly.

    Args:
        head: feature map -> logits.
        bypass_channels: number of trailing channels without position, such as a class token; they bypass the tap.
    """

    def __init__(self, head: Head, bypass_channels: int = 0) -> None:
        super().__init__()
        self.tap = nn.Identity()
        self.head = head
        self.bypass_channels = bypass_channels

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if not self.bypass_channels:
            return self.head(self.tap(features))
        spatial_channels = features.shape[1] - self.bypass_channels
        tapped = self.tap(features[:, :spatial_channels])  # (B, C, h, w)
        return self.head(torch.cat([tapped, features[:, spatial_channels:]], dim=1))


class Classifier(nn.Module):
    """Encoder -> tap -> head.

    Args:
        encoder: (B, 3, S, S) normalized images -> (B, C, h, w) feature map; volumes have one more dimension.
        head: feature map -> logits.
        bypass_channels: see `TappedHead`.
    """

    def __init__(self, encoder: nn.Module, head: Head, bypass_channels: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.tapped = TappedHead(head, bypass_channels)

    @property
    def head(self) -> Head:
        """The head: the only part that is trained if the encoder is frozen."""
        return self.tapped.head

    @property
    def tap(self) -> nn.Module:
        """The layer between encoder and head to which attribution methods attach their hooks."""
        return self.tapped.tap

    @property
    def finer(self) -> nn.Module | None:
        """A stage of the encoder with a higher resolution than its last one; None if it has none."""
        return getattr(self.encoder, "finer", None)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Widths of the embedding's blocks, in order; their sum is the input width of the head's first linear layer.

        An encoder that joins embeddings of different networks, with unrelated scales, gives one width for each
        (`encoder.blocks`), so that a head can normalize them separately. Every other embedding is one block.
        """
        width = next(layer.in_features for layer in self.head.layers if isinstance(layer, nn.Linear))
        return getattr(self.encoder, "blocks", (width,))

    @property
    def separate(self) -> list[Classifier]:
        """Classifiers whose embeddings, concatenated, are this one's: those of joined encoders, else itself."""
        separate: Callable[[], list[Classifier]] | None = getattr(self.encoder, "separate", None)
        return separate() if separate else [self]

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Compute pooled features.

        Args:
            images: (B, 3, S, S), normalized.
        Returns:
            (B, D).
        """
        return self.head.pool(self.encoder(images))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.tapped(self.encoder(images))  # (B, classes)


def average_pool(dims: Literal[2, 3] = 2) -> nn.Module:
    """Return a module that averages over positions: (B, C, h, w) or (B, C, d, h, w) -> (B, C)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1) if dims == 2 else nn.AdaptiveAvgPool3d(1), nn.Flatten())


class UnitNorm(nn.Module):
    """Centering of embeddings, and scaling of each of their blocks to a constant norm.

    A few images are too few to estimate the variance of each of a thousand features, but enough to estimate the mean.
    The norm of an embedding reflects contrast and sharpness of the image rather than its content.

    Args:
        blocks: widths of the blocks of an embedding, which are scaled separately; their sum is D.
        scale: norm of the whole embedding after scaling.
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


class HeadEnsemble(nn.Module):
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
    """Build the head layers that match a state dict.

    Args:
        state: tensors of head layers under the names of `nn.Sequential`: an optional normalization, then one linear
            layer or the MLP; or several such heads whose logits are averaged.
        current: the head of the newly built model; layers before its first linear layer (attention over slices) are
            kept.
        blocks: widths of the blocks of the embedding.
    Returns:
        layers of matching shapes; their values are not loaded.
    """
    if members := sorted({int(key.split(".")[2]) for key in state if key.startswith("0.heads.")}):
        prefixes = [f"0.heads.{member}." for member in members]
        states = [{key[len(p) :]: value for key, value in state.items() if key.startswith(p)} for p in prefixes]
        return nn.Sequential(HeadEnsemble([layers_like(part, nn.Sequential(), blocks) for part in states]))
    before = list(current)[: next((i for i, layer in enumerate(current) if isinstance(layer, nn.Linear)), 0)]
    head_state = {key: value for key, value in state.items() if int(key.split(".")[0]) >= len(before)}
    norm = [UnitNorm(blocks)] if any(key.endswith(".mean") for key in head_state) else []
    kernels = [value.shape for key, value in head_state.items() if key.endswith(".weight") and value.ndim == 2]
    linear = linear_layers(kernels[0][1], kernels[0][0]) if len(kernels) == 1 else None
    return nn.Sequential(*before, *norm, *(linear or mlp_layers(kernels[0][1], kernels[-1][0])))


def mlp_layers(features: int, classes: int) -> nn.Sequential:
    """Return the MLP head: embedding -> 512 -> ReLU -> dropout 0.3 -> classes."""
    return nn.Sequential(nn.Linear(features, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, classes))


def linear_layers(features: int, classes: int) -> nn.Sequential:
    """Return the linear head, a logistic regression: embedding -> classes."""
    return nn.Sequential(nn.Linear(features, classes))


def compute_in_halves(compute: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
    """Compute on a batch, or on one half after the other where it does not fit into the GPU's memory.

    Args:
        compute: maps (B, ...) inputs to (B, ...) outputs, each input on its own.
        batch: (B, ...) inputs.

    Raises:
        torch.OutOfMemoryError: if a single input does not fit.
    """
    try:
        return compute(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    torch.cuda.empty_cache()  # outside the handler, which keeps the tensors of the failed attempt alive
    _LOG.warning("The GPU's memory is full: a batch of %d is computed in two halves.", len(batch))
    return torch.cat([compute_in_halves(compute, half) for half in batch.tensor_split(2)])


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """Convert 4-D batches to channels-last memory format, which speeds up convolutions; leave volumes unchanged."""
    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images


def to_device(model: M, device: torch.device) -> M:
    """Move a model to a device in place, with 2-D kernels in channels-last memory format; return the model."""
    model.to(device)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return model
