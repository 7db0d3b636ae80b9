"""Builders of family A: networks trained from random weights on the small training subset only."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from core.models.classifier import Classifier, Head, average_pool, linear_layers

NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "": None, "batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 8),
}  # fmt: skip


def build_cnn(
    widths: Sequence[int],
    norm: str,
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
        norm: kind of normalization, of `NORMS`; "" for none.
        stem: whether a convolution of stride 2 with `widths[0]` channels precedes the stages.
        classes: number of classes.
        dataset: not used.
        seed: random seed of the weights.
        pooled: number of stages that end in pooling, from the first on. Fewer leave a finer map for heatmaps.
    """
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    normalization = NORMS[norm]
    if stem and normalization:
        layers += [nn.Conv2d(3, widths[0], 5, stride=2, padding=2, bias=False), normalization(widths[0]), nn.ReLU()]
    for stage, (channels, width) in enumerate(pairwise(widths)):
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=normalization is None))
        layers += [normalization(width)] if normalization else []
        layers += [nn.ReLU(), nn.MaxPool2d(2)] if stage < pooled else [nn.ReLU()]
    return Classifier(nn.Sequential(*layers), Head(average_pool(), linear_layers(widths[-1], classes)))


def build_timm(architecture: str, classes: int, dataset: str, seed: int) -> Classifier:
    """Build an architecture of timm with random weights."""
    import timm

    from core.models.encoders import TimmEncoder

    torch.manual_seed(seed)
    network: Any = timm.create_model(architecture, pretrained=False, num_classes=0, global_pool="")
    return Classifier(TimmEncoder(network), Head(average_pool(), linear_layers(network.num_features, classes)))
