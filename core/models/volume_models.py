"""Networks for volumes: ResNet-18 in three dimensions, from scratch or inflated from 2D, and 2D encoders over slices.

Inflated: every 2D kernel is repeated along depth and divided by its depth, so that a volume that is constant along
depth gives the same output as its slice. Over slices: a frozen 2D encoder gets each slice as an image; the stacked maps
form the volume's map, and the head averages them or weights them by attention. Slices are upsampled for the encoder,
because its strides would reduce a small slice to one position.

References:
    Inflation: Carreira and Zisserman 2017, arXiv:1705.07750. Attention over instances: Ilse et al. 2018,
    arXiv:1802.04712. ResNet-18 on volumes of 28 voxels: Yang et al. 2023, doi:10.1038/s41597-022-01721-8.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from core.models.classifier import Classifier, Head, average_pool, linear_layers, mlp_layers
from core.models.encoders import TimmEncoder

SLICE_SIDE = 96
_AT_ONCE = 128  # slices per pass through a frozen encoder
_ATTENTION = 128
Build = Callable[[int, str, int], Classifier]  # as `ModelSpec.build`


class SlicesEncoder(nn.Module):
    """A 2D encoder over the slices of a volume: (B, 3, D, H, W) -> (B, C, D, h, w).

    Args:
        encoder: (B, 3, S, S) -> (B, C, h, w).
        side: side in pixels to which slices are resized.
    """

    def __init__(self, encoder: nn.Module, side: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.side = side

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        slices = volumes.transpose(1, 2).flatten(0, 1)  # (B * D, 3, H, W)
        if torch.compiler.is_exporting():  # splitting would fix the number of volumes in the exported file
            maps = self._maps(slices)
        else:
            maps = torch.cat([self._maps(part) for part in slices.split(_AT_ONCE)])
        return maps.unflatten(0, (-1, volumes.shape[2])).transpose(1, 2)

    def _maps(self, slices: torch.Tensor) -> torch.Tensor:
        large = F.interpolate(slices, size=(self.side, self.side), mode="bilinear", align_corners=False)
        return self.encoder(large.contiguous(memory_format=torch.channels_last))  # (n, C, h, w)


class SlicePool(nn.Module):
    """Average of each slice over its positions, concatenated: (B, C, D, h, w) -> (B, D * C)."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean(dim=(3, 4)).transpose(1, 2).flatten(1)


class SliceAttention(nn.Module):
    """Attention-weighted mean of the slices' embeddings: (B, D * C) -> (B, C).

    Args:
        features: C, the width of a slice's embedding.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.score = nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, _ATTENTION), nn.Tanh(), nn.Linear(_ATTENTION, 1, bias=False)
        )

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        slices = embeddings.unflatten(1, (-1, self.features))  # (B, D, C)
        return (self.score(slices).softmax(dim=1) * slices).sum(dim=1)


def over_slices(classifier: Classifier, classes: int, attention: bool) -> Classifier:
    """Build a classifier of volumes from one of images: its encoder gets each slice, and the head is new."""
    features = classifier.head.layers[0].get_parameter("weight").shape[1]
    encoder = SlicesEncoder(classifier.encoder, SLICE_SIDE)
    layers = mlp_layers(features, classes)
    if attention:
        return Classifier(encoder, Head(SlicePool(), nn.Sequential(SliceAttention(features), *layers)))
    return Classifier(encoder, Head(average_pool(3), layers))


def inflate(network: nn.Module) -> nn.Module:
    """Convert a 2D network to 3D in place, with kernels repeated along depth and divided by it; return the network.

    Raises:
        TypeError: if a layer for images has no 3D counterpart here.
    """
    for name, layer in network.named_children():
        setattr(network, name, _in_3d(layer) if not list(layer.children()) else inflate(layer))
    return network


def _in_3d(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        depth, bias = layer.kernel_size[0], layer.bias is not None
        new = nn.Conv3d(layer.in_channels, layer.out_channels, depth, layer.stride[0], int(layer.padding[0]), bias=bias)
        with torch.no_grad():
            new.weight.copy_(layer.weight[:, :, None].expand_as(new.weight) / depth)
            if layer.bias is not None and new.bias is not None:
                new.bias.copy_(layer.bias)
        return new
    if isinstance(layer, nn.BatchNorm2d):
        norm = nn.BatchNorm3d(layer.num_features, layer.eps, layer.momentum)
        norm.load_state_dict(layer.state_dict())
        return norm
    if isinstance(layer, nn.MaxPool2d):
        return nn.MaxPool3d(layer.kernel_size, layer.stride, layer.padding)
    if "2d" in type(layer).__name__:
        raise TypeError(f"{type(layer).__name__} has no counterpart for volumes here; add one to `_in_3d`.")
    return layer


def build_scratch(classes: int, dataset: str, seed: int) -> Classifier:
    """Build a 3D ResNet-18 with random weights, for small volumes of one channel.

    The first convolution has kernel size 3 and no pooling follows it, as usual for small images: 32 voxels give a map
    of side 2. Group normalization replaces batch normalization, because batches of volumes are small and each volume
    is then normalized independently of the others (Wu and He 2018, arXiv:1803.08494).
    """
    import timm

    torch.manual_seed(seed)
    network: Any = timm.create_model("resnet18", pretrained=False, in_chans=1, norm_layer="groupnorm")
    width = network.conv1.out_channels
    network.conv1, network.maxpool = nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False), nn.Identity()
    network.reset_classifier(0, "")
    encoder = TimmEncoder(_reinitialized(inflate(network)))
    return Classifier(encoder, Head(average_pool(3), linear_layers(network.num_features, classes)))


def _reinitialized(network: nn.Module) -> nn.Module:
    """Initialize 3D kernels again with independent values: inflated random kernels would be constant along depth."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return network


def _inflated_classifier(classifier_2d: Classifier, classes: int) -> Classifier:
    network: Any = classifier_2d.encoder.network
    network.reset_classifier(0, "")
    features = int(network.num_features)
    return Classifier(TimmEncoder(inflate(network)), Head(average_pool(3), mlp_layers(features, classes)))


def build_inflated(build: Build, classes: int, dataset: str, seed: int) -> Classifier:
    """Build a classifier of volumes with the inflated kernels of one of images, which `build` builds."""
    classifier_2d = build(classes, dataset, seed)
    torch.manual_seed(seed)
    return _inflated_classifier(classifier_2d, classes)


def outline_inflated(outline: Callable[[int], Classifier], classes: int) -> Classifier:
    """Build the same network without pretrained weights, to read its shape; `outline` builds that of images."""
    return _inflated_classifier(outline(classes), classes)


def build_slices(build: Build, attention: bool, classes: int, dataset: str, seed: int) -> Classifier:
    """Build a classifier of volumes with the encoder of one of images, which `build` builds, over slices."""
    classifier_2d = build(classes, dataset, seed)
    torch.manual_seed(seed)
    return over_slices(classifier_2d, classes, attention)


def outline_slices(outline: Callable[[int], Classifier], attention: bool, classes: int) -> Classifier:
    """Build the same network without pretrained weights, to read its shape; `outline` builds that of images."""
    return over_slices(outline(classes), classes, attention)
