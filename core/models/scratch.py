"""Family A: networks trained from random weights on the small subset alone."""

from __future__ import annotations

import torch
from torch import nn

from core.models.classifier import Classifier, Head, average_pool, linear_layers
from core.models.specs import MODELS, ModelSpec, Weights
from core.types import ImageSpec

CNN_WIDTHS = (32, 64, 128)
DENSENET_FEATURES = 1024


def build_cnn(classes: int, dataset: str, seed: int) -> Classifier:
    """Three convolution, ReLU and pooling stages and a fully connected layer."""
    torch.manual_seed(seed)
    stages: list[nn.Module] = []
    channels = 3
    for width in CNN_WIDTHS:
        stages += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    return Classifier(nn.Sequential(*stages), Head(average_pool(), linear_layers(channels, classes)))


def build_densenet121(classes: int, dataset: str, seed: int) -> Classifier:
    """DenseNet-121 (Huang et al. 2017, arXiv:1608.06993) from timm, without pretrained weights."""
    import timm

    from core.models.encoders import TimmEncoder

    torch.manual_seed(seed)
    network = timm.create_model("densenet121", pretrained=False, num_classes=0, global_pool="")
    return Classifier(TimmEncoder(network), Head(average_pool(), linear_layers(DENSENET_FEATURES, classes)))


MODELS.add(
    ModelSpec(
        name="scratch-cnn",
        title="Small CNN",
        family="scratch",
        image=ImageSpec(size=64),
        weights=Weights("random"),
        strategies=("scratch",),
        build=build_cnn,
        summary="Three convolution, ReLU and pooling stages and one fully connected layer.",
    )
)
MODELS.add(
    ModelSpec(
        name="scratch-densenet121",
        title="DenseNet-121",
        family="scratch",
        image=ImageSpec(size=128),
        weights=Weights("random"),
        strategies=("scratch",),
        build=build_densenet121,
        settings={"epochs": 25, "patience": 10},
        summary="The network that chest X-ray papers use most, without any pretraining.",
    )
)
