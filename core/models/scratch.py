"""Family A: networks trained from random weights on the small training subset only."""

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
    """Build a CNN of ten layers: three times convolution, ReLU and pooling; global average pooling; a linear layer."""
    torch.manual_seed(seed)
    stages: list[nn.Module] = []
    channels = 3
    for width in CNN_WIDTHS:
        stages += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    return Classifier(nn.Sequential(*stages), Head(average_pool(), linear_layers(channels, classes)))


def build_densenet121(classes: int, dataset: str, seed: int) -> Classifier:
    """Build timm's DenseNet-121 (Huang et al. 2017, arXiv:1608.06993) with random weights."""
    import timm

    from core.models.encoders import TimmEncoder

    torch.manual_seed(seed)
    network = timm.create_model("densenet121", pretrained=False, num_classes=0, global_pool="")
    return Classifier(TimmEncoder(network), Head(average_pool(), linear_layers(DENSENET_FEATURES, classes)))


def build_resnet18(classes: int, dataset: str, seed: int) -> Classifier:
    """Build timm's ResNet-18 (He et al. 2015, arXiv:1512.03385) with random weights."""
    import timm

    from core.models.encoders import TimmEncoder

    torch.manual_seed(seed)
    network: Any = timm.create_model("resnet18", pretrained=False, num_classes=0, global_pool="")
    return Classifier(TimmEncoder(network), Head(average_pool(), linear_layers(network.num_features, classes)))


def build_groupnorm_cnn(classes: int, dataset: str, seed: int) -> Classifier:
    """Build a CNN of four stages of convolution, group normalization, ReLU and pooling, and a linear layer.

    This is the small network of the few-shot literature (Vinyals et al. 2016, arXiv:1606.04080) with group
    normalization (Wu and He 2018, arXiv:1803.08494). Each image is normalized on its own, so the prediction of an
    adapted network for one image does not depend on the other images of the batch.
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
    """Build a CNN with a stem of stride 2, four stages (convolution, norm, ReLU, pooling) and a linear layer.

    Args:
        width: channels of the stem; the stages have 1, 2, 4 and 4 times as many.
        norm: channels -> a normalization layer.
        classes: number of classes.
        dataset: not used.
        seed: random seed of the weights.
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
            summary=f"A stem of stride 2 and four convolution stages with {_words}, at the image size of B and C.",
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
        summary="The network used most in chest X-ray papers, without pretraining.",
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
        summary="The most common residual network, without pretraining.",
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
        summary="Four convolution stages with group normalization, which a few steps can adapt.",
    )
)
