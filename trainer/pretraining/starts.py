"""Starting networks for pretraining, each split into a frozen trunk with cached activations and a trained tail.

The early layers of a network are generic; forgetting them made earlier medical encoders worse than their starting
weights. The split preserves them, and each image passes the expensive early layers once per view instead of once per
step.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from core.models import MODELS, dinov2
from core.models.encoders import imagenet_lite0_state, lite0_network
from core.models.specs import Weights
from core.models.table import DINOV2, DINOV2_MEDICAL, LITE0, LITE0_MEDICAL
from core.registry import Registry
from core.types import ImageSpec

_NETWORK = "network."  # prefix of the names of a network's tensors in an encoder
_KEPT = 0.5  # share of the patch tokens that are used while a transformer is trained
# the frozen part: normalized images (B, 3, S, S) -> activations at the cut (B, ...), pooled earlier stages (B, P)
Trunk = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Tail(nn.Module):
    """The trained part of a network.

    Attributes:
        reads: name of an embedding -> the pooled outputs that it concatenates; -1 stands for the pooled stages of the
            trunk.
    """

    reads: dict[str, tuple[int, ...]]

    def forward(self, activations: torch.Tensor) -> list[torch.Tensor]:
        """Map activations at the cut (B, ...) to pooled outputs [(B, D_0), (B, D_1), ...], one per trained stage."""
        raise NotImplementedError

    def encoder_state(self) -> dict[str, torch.Tensor]:
        """Return the trained tensors, under their names in the whole encoder."""
        return {f"{_NETWORK}{key}": value for key, value in self.state_dict().items()}

    def load_encoder_state(self, state: dict[str, torch.Tensor]) -> None:
        """Load what `encoder_state` returned."""
        self.load_state_dict({key.removeprefix(_NETWORK): value for key, value in state.items()})


@dataclass(frozen=True)
class Start:
    """A network from which medical pretraining may start.

    Attributes:
        name: key in the registry: name of the model of family B with the same encoder.
        medical: resulting model of family C.
        weights: starting weights.
        image: the encoder's input specification.
        cuts: possible cuts; the first is the default.
        build: cut -> trunk and tail, in evaluation mode.
    """

    name: str
    medical: str
    weights: Weights
    image: ImageSpec
    cuts: tuple[int, ...]
    build: Callable[[int], tuple[Trunk, Tail]]


STARTS: Registry[Start] = Registry("start of pretraining")


class _Lite0Tail(Tail):
    """EfficientNet-Lite0 above a stage. Batch normalization keeps its ImageNet statistics."""

    def __init__(self, network: Any, cut: int) -> None:
        super().__init__()
        self._cut = cut
        self.blocks = nn.ModuleDict({str(index): network.blocks[index] for index in range(cut + 1, 7)})
        self.conv_head, self.bn2 = network.conv_head, network.bn2
        self._ends = [index for index in (4, 6) if index > cut]  # stages that are the last of their resolution
        stages = tuple(range(len(self._ends)))
        self.reads = {"last": (len(stages),), "stages": (-1, *stages)}

    def forward(self, activations: torch.Tensor) -> list[torch.Tensor]:
        pooled = []
        for index, stage in self.blocks.items():
            activations = stage(activations)
            if int(index) in self._ends:
                pooled.append(activations.mean((2, 3)))
        return [*pooled, self.bn2(self.conv_head(activations)).mean((2, 3))]


def _build_lite0(cut: int) -> tuple[Trunk, Tail]:
    network = lite0_network()
    network.load_state_dict(imagenet_lite0_state())
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    tail = _Lite0Tail(copy.deepcopy(network), cut)
    ends = [index for index in (0, 1, 2, 4, 6) if index <= cut]

    def trunk(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = images.contiguous(memory_format=torch.channels_last)
        features, pooled = network.bn1(network.conv_stem(images)), []
        for index in range(cut + 1):
            features = network.blocks[index](features)
            if index in ends:
                pooled.append(features.mean((2, 3)))
        return features, torch.cat(pooled, dim=1)

    return trunk, tail


STARTS.add(
    Start(
        name=LITE0,
        medical=LITE0_MEDICAL,
        weights=MODELS[LITE0].weights,
        image=MODELS[LITE0].image,
        cuts=(3, 2, 4),
        build=_build_lite0,
    )
)


class _TransformerTail(Tail):
    """DINOv2's blocks above the cut, up to the block whose output is the embedding.

    While gradients are computed, half of the patch tokens are dropped at random. This halves the cost, and every pass
    over an image differs (Li et al. 2023, arXiv:2212.00794).
    """

    def __init__(self, network: Any, cut: int) -> None:
        super().__init__()
        self.reads = {"last": (0,)}
        self.blocks = nn.ModuleDict({str(index): block for index, block in enumerate(network.blocks) if index > cut})

    def forward(self, activations: torch.Tensor) -> list[torch.Tensor]:
        if torch.is_grad_enabled():
            patches = activations.shape[1] - 1
            kept = 1 + torch.randperm(patches)[: round(_KEPT * patches)]
            activations = torch.cat([activations[:, :1], activations[:, kept.to(activations.device)]], dim=1)
        for block in self.blocks.values():
            activations = block(activations)
        return [dinov2.embedding_of(activations)]


def _build_dinov2(cut: int) -> tuple[Trunk, Tail]:
    network = dinov2.truncated_network().eval().requires_grad_(False)
    tail = _TransformerTail(copy.deepcopy(network), cut)

    def trunk(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return dinov2.tokens_after(network, images, cut), torch.empty(len(images), 0)  # (B, 1 + h * w, C)

    return trunk, tail


STARTS.add(
    Start(
        name=DINOV2,
        medical=DINOV2_MEDICAL,
        weights=MODELS[DINOV2].weights,
        image=MODELS[DINOV2].image,
        cuts=(5, 3, 6),
        build=_build_dinov2,
    )
)
