"""Family A: networks trained from random weights on the small training subset only."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from core.models.classifier import Classifier, Head, average_pool, linear_layers
from core.models.specs import MODELS, SCRATCH, ModelSpec, Weights
from core.types import ImageSpec

GROUP_NORM = partial(nn.GroupNorm, 8)


def build_cnn(
    widths: Sequence[int],
    norm: Callable[[int], nn.Module] | None,
    stem: bool,
    classes: int,
    dataset: str,
    seed: int,
    pooled: int = 4,
) -> Classifier:
    """Build a CNN of stages of convolution, normalization, ReLU and pooling, then average pooling and a linear layer.

    With group normalization (Wu and He 2018, arXiv:1803.08494) and four stages this is the small network of the
    few-shot literature (Vinyals et al. 2016, arXiv:1606.04080). Each image is then normalized on its own, so the
    prediction of an adapted network for one image does not depend on the other images of the batch.

    Args:
        widths: channels of the input, then of each stage.
        norm: channels -> a normalization layer; None for no normalization.
        stem: whether a convolution of stride 2 with `widths[0]` channels precedes the stages.
        classes: number of classes.
        dataset: not used.
        seed: random seed of the weights.
        pooled: number of stages that end in pooling, from the first on. Fewer leave a finer map for heatmaps.
    """
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    if stem and norm:
        layers += [nn.Conv2d(3, widths[0], 5, stride=2, padding=2, bias=False), norm(widths[0]), nn.ReLU()]
    for stage, (channels, width) in enumerate(pairwise(widths)):
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=norm is None))
        layers += [norm(width)] if norm else []
        layers += [nn.ReLU(), nn.MaxPool2d(2)] if stage < pooled else [nn.ReLU()]
    return Classifier(nn.Sequential(*layers), Head(average_pool(), linear_layers(widths[-1], classes)))


def build_timm(architecture: str, classes: int, dataset: str, seed: int) -> Classifier:
    """Build an architecture of timm with random weights."""
    import timm

    from core.models.encoders import TimmEncoder

    torch.manual_seed(seed)
    network: Any = timm.create_model(architecture, pretrained=False, num_classes=0, global_pool="")
    return Classifier(TimmEncoder(network), Head(average_pool(), linear_layers(network.num_features, classes)))


def _add(
    name: str, title: str, size: int, build: Callable[[int, str, int], Classifier], summary: str, **facts: Any
) -> None:
    image, weights = ImageSpec(size), Weights("random")
    MODELS.add(ModelSpec(name, title, "scratch", image, weights, SCRATCH, build, summary=summary, **facts))


_add(
    "scratch-cnn", "Small CNN", 64, partial(build_cnn, (3, 32, 64, 128), None, False),
    "Three convolution, ReLU and pooling stages and one fully connected layer.",
)  # fmt: skip
for _name, _title, _width, _norm, _words in (
    ("scratch-cnn-160", "CNN at 160 px", 32, nn.BatchNorm2d, "batch normalization"),
    ("scratch-cnn-160-narrow", "Narrow CNN at 160 px", 16, nn.BatchNorm2d, "batch normalization, half as wide"),
    ("scratch-cnn-160-groupnorm", "CNN at 160 px, group norm", 32, GROUP_NORM, "group normalization"),
):
    _add(
        _name, _title, 160, partial(build_cnn, [_width * factor for factor in (1, 1, 2, 4, 4)], _norm, True),
        f"A stem of stride 2 and four convolution stages with {_words}, at the image size of B and C.",
        uses_batch_norm=_norm is nn.BatchNorm2d,
    )  # fmt: skip
_add(
    "scratch-cnn-64", "CNN at 64 px", 64, partial(build_cnn, (16, 16, 32, 64, 64), nn.BatchNorm2d, True, pooled=2),
    "The CNN at 160 px for smaller images, half as wide and with less pooling; it learns in few steps.",
    uses_batch_norm=True,
)  # fmt: skip
_add(  # Huang et al. 2017, arXiv:1608.06993
    "scratch-densenet121", "DenseNet-121", 128, partial(build_timm, "densenet121"),
    "The network used most in chest X-ray papers, without pretraining.",
    settings={"epochs": 25}, uses_batch_norm=True,
)  # fmt: skip
_add(  # He et al. 2015, arXiv:1512.03385
    "scratch-resnet18", "ResNet-18", 128, partial(build_timm, "resnet18"),
    "The most common residual network, without pretraining.",
    settings={"epochs": 25}, uses_batch_norm=True,
)  # fmt: skip
_add(
    "scratch-groupnorm-cnn", "Small CNN, group norm", 64,
    partial(build_cnn, (3, 64, 64, 128, 128), GROUP_NORM, False),
    "Four convolution stages with group normalization, which a few steps can adapt.",
)  # fmt: skip
