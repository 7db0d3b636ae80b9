"""Builders of EfficientNet-Lite0 with ImageNet and random weights, read after the last layer or after every stage."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from core.models.classifier import Classifier, Head, average_pool, mlp_layers
from core.models.encoders import StagesEncoder, TimmEncoder, imagenet_lite0_state, lite0_network


def _classifier(network: Any, classes: int, seed: int) -> Classifier:
    network.reset_classifier(0)
    torch.manual_seed(seed)
    return Classifier(TimmEncoder(network), Head(average_pool(), mlp_layers(network.num_features, classes)))


@cache
def _imagenet_network() -> Any:
    network = lite0_network()
    network.load_state_dict(imagenet_lite0_state())
    return network


def build_imagenet(classes: int, dataset: str, seed: int) -> Classifier:
    """Build the encoder with ImageNet weights."""
    return _classifier(copy.deepcopy(_imagenet_network()), classes, seed)


def build_random(classes: int, dataset: str, seed: int) -> Classifier:
    """Build the encoder with random weights that depend on the seed."""
    torch.manual_seed(seed)
    return _classifier(lite0_network(), classes, seed)


def build_stages(build: Callable[[int, str, int], Classifier], classes: int, dataset: str, seed: int) -> Classifier:
    """Build the same encoder, read after every stage instead of its last layer, with a new head."""
    network: Any = build(classes, dataset, seed).encoder.network
    network.conv_head = network.bn2 = nn.Identity()  # after the last stage, not used
    torch.manual_seed(seed)
    features = sum(stage["num_chs"] for stage in network.feature_info)
    return Classifier(StagesEncoder(network), Head(average_pool(), mlp_layers(features, classes)))


def outline(classes: int) -> Classifier:
    """Build the network with random weights, to read its shape."""
    return build_random(classes, "", 0)


def outline_stages(classes: int) -> Classifier:
    """Build the network that is read after every stage, with random weights, to read its shape."""
    return build_stages(build_random, classes, "", 0)
