"""Family A: networks trained from random weights on the small subset alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from core.models.classifier import Classifier, Head, average_pool, linear_layers
from core.models.specs import MODELS, SCRATCH, ModelSpec, Weights
from core.types import ImageSpec

CNN_WIDTHS = (32, 64, 128)
GROUPNORM_WIDTHS, GROUPS = (64, 64, 128, 128), 8
DENSENET_FEATURES = 1024


def build_cnn(classes: int, dataset: str, seed: int) -> Classifier:
    """Ten layers: three of convolution, ReLU and pooling each, and one fully connected, on the mean over places."""
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


def build_resnet18(classes: int, dataset: str, seed: int) -> Classifier:
    """ResNet-18 (He et al. 2015, arXiv:1512.03385) from timm, without pretrained weights."""
    import timm

    from core.models.encoders import TimmEncoder

    torch.manual_seed(seed)
    network: Any = timm.create_model("resnet18", pretrained=False, num_classes=0, global_pool="")
    return Classifier(TimmEncoder(network), Head(average_pool(), linear_layers(network.num_features, classes)))


def build_groupnorm_cnn(classes: int, dataset: str, seed: int) -> Classifier:
    """Four stages of convolution, group normalisation, ReLU and pooling, and a fully connected layer.

    The small network of the few-shot literature (Vinyals et al. 2016, arXiv:1606.04080) with group normalisation (Wu
    and He 2018, arXiv:1803.08494): an image is normalised by itself alone, so that what a network adapted to a few
    images says of one does not depend on the others asked about.
    """
    torch.manual_seed(seed)
    stages: list[nn.Module] = []
    channels = 3
    for width in GROUPNORM_WIDTHS:
        norm = nn.GroupNorm(GROUPS, width)
        stages += [nn.Conv2d(channels, width, 3, padding=1, bias=False), norm, nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    return Classifier(nn.Sequential(*stages), Head(average_pool(), linear_layers(channels, classes)))


MODELS.add(
    ModelSpec(
        name="scratch-cnn",
        title="Small CNN",
        family="scratch",
        image=ImageSpec(size=64),
        weights=Weights("random"),
        strategies=SCRATCH,
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
        strategies=SCRATCH,
        build=build_densenet121,
        settings={"epochs": 25},
        batch_normalised=True,
        summary="The network that chest X-ray papers use most, without any pretraining.",
    )
)
MODELS.add(
    ModelSpec(
        name="scratch-resnet18",
        title="ResNet-18",
        family="scratch",
        image=ImageSpec(size=128),
        weights=Weights("random"),
        strategies=SCRATCH,
        build=build_resnet18,
        settings={"epochs": 25},
        batch_normalised=True,
        summary="The commonest residual network, without any pretraining.",
    )
)
MODELS.add(
    ModelSpec(
        name="scratch-groupnorm-cnn",
        title="Small CNN, group norm",
        family="scratch",
        image=ImageSpec(size=64),
        weights=Weights("random"),
        strategies=SCRATCH,
        build=build_groupnorm_cnn,
        summary="Four convolution stages with group normalisation, which a few steps can adapt.",
    )
)
