"""Family A: networks trained from random weights on the small subset alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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


def _group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(GROUPS, width)


def build_strided_cnn(
    width: int, norm: Callable[[int], nn.Module], classes: int, dataset: str, seed: int
) -> Classifier:
    """A stem of stride 2, then four stages of convolution, normalization, ReLU and pooling, and a linear layer.

    Args:
        width: channels of the stem; the stages have 1, 2, 4 and 4 times as many.
        norm: channels -> a normalization layer.
        classes: number of classes.
        dataset: not used.
        seed: of the random weights.
    """
    torch.manual_seed(seed)
    stages: list[nn.Module] = [nn.Conv2d(3, width, 5, stride=2, padding=2, bias=False), norm(width), nn.ReLU()]
    channels = width
    for factor in (1, 2, 4, 4):
        conv = nn.Conv2d(channels, factor * width, 3, padding=1, bias=False)
        stages += [conv, norm(factor * width), nn.ReLU(), nn.MaxPool2d(2)]
        channels = factor * width
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
for _name, _title, _width, _norm, _words in (
    ("scratch-cnn-160", "CNN at 160 px", 32, nn.BatchNorm2d, "batch normalization"),
    ("scratch-cnn-160-wide", "Wide CNN at 160 px", 64, nn.BatchNorm2d, "batch normalization, twice as wide"),
    ("scratch-cnn-160-groupnorm", "CNN at 160 px, group norm", 32, _group_norm, "group normalization"),
):
    MODELS.add(
        ModelSpec(
            name=_name,
            title=_title,
            family="scratch",
            image=ImageSpec(size=160),
            weights=Weights("random"),
            strategies=SCRATCH,
            build=partial(build_strided_cnn, _width, _norm),
            batch_normalised=_norm is nn.BatchNorm2d,
            summary=f"A stem of stride 2 and four convolution stages with {_words}, at the size that B and C see.",
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
