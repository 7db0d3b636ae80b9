"""Concatenated embeddings of two networks: EfficientNet-Lite0 after every stage, and DINOv2-S.

Both get the same image, each at its own size and normalization: the joint input has the 224 pixels of DINOv2 and is
downsampled to 160 for EfficientNet-Lite0. (On validation images of Kermany et al., heads do as well on downsampled
images as on images decoded at 160, and worse with EfficientNet-Lite0 at 224.) The scales of the two embeddings are
unrelated, so each is a block (`Classifier.blocks`) that heads can normalize separately.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from core.data.transforms import normalize
from core.models.classifier import Classifier, EncoderPooling, Head, mlp_layers
from core.models.encoders import expect_size
from core.models.specs import MODELS, ModelSpec
from core.types import ImageSpec

SPEC = MODELS["generic-joined-lite0-stages-dinov2-vits14"]


@dataclass(frozen=True)
class Part:
    """A model whose encoder is joined with others.

    Attributes:
        spec: its row in the table of models.
        side: side of its feature map in positions.
        channels: channels of its map, without those that bypass the tap.
    """

    spec: ModelSpec
    side: int
    channels: int


PARTS = (
    Part(MODELS["imagenet-efficientnet-lite0-stages"], 5, 512),
    Part(MODELS["generic-dinov2-vits14-imgfocus"], 16, 384),
)


class JoinedEncoder(nn.Module):
    """Concatenated feature maps of several encoders on the finest of their grids: (B, 3, S, S) -> (B, C, h, w).

    The channels are those of each encoder's map in turn, then those of each encoder that bypass the tap. A position of
    a coarser map is repeated at all positions of the finest grid whose centers it covers, and counts once in the
    pooling. The joint embedding is therefore the concatenation of the encoders' own embeddings.

    Args:
        parts: the models to join.
        classifiers: classifiers of the parts; the layers of their heads are dropped.
        image: the joint input, at least as large as the input of each part.
    """

    def __init__(self, parts: Sequence[Part], classifiers: Sequence[Classifier], image: ImageSpec) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(classifier.encoder for classifier in classifiers)
        self.pools = nn.ModuleList(classifier.head.pool for classifier in classifiers)
        self.blocks = tuple(width for classifier in classifiers for width in classifier.blocks)
        self.widths = [part.channels for part in parts] + [
            classifier.tapped.bypass_channels for classifier in classifiers
        ]
        self.bypass_channels = sum(self.widths[len(parts) :])
        self.parts, self.image = tuple(parts), image
        self.inputs = nn.ModuleList(_Resize(image, part.spec.image) for part in parts)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        expect_size(images, self.image.size)
        finest = max(part.side for part in self.parts)
        spatial, without_position = [], []
        for part, resize, encoder in zip(self.parts, self.inputs, self.encoders, strict=True):
            features = _repeat(encoder(resize(images)), finest)
            spatial.append(features[:, : part.channels])
            without_position.append(features[:, part.channels :])
        return torch.cat([*spatial, *without_position], dim=1)

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Pool each encoder's map as that encoder does: (B, C, h, w) -> (B, sum of the blocks)."""
        count, split = len(self.parts), features.split(self.widths, dim=1)
        maps = [torch.cat([split[number], split[count + number]], dim=1) for number in range(count)]
        pooled = [
            pool(_average_repeats(features_of_part, part.side))
            for pool, features_of_part, part in zip(self.pools, maps, self.parts, strict=True)
        ]
        return torch.cat(pooled, dim=1)

    def separate(self) -> list[Classifier]:
        """Return a classifier for each part; their embeddings of a joint input, concatenated, are the joint embedding.

        A part that takes the joint input as it is equals its own model, so that both share cached embeddings.
        """
        encoders = [
            encoder if part.spec.image == self.image else nn.Sequential(resize, encoder)
            for part, resize, encoder in zip(self.parts, self.inputs, self.encoders, strict=True)
        ]
        return [
            Classifier(encoder, Head(pool, nn.Sequential())) for encoder, pool in zip(encoders, self.pools, strict=True)
        ]


class _Resize(nn.Module):
    """Conversion of a normalized image to the size and normalization of another input: (B, 3, S, S) -> (B, 3, s, s)."""

    matrix: torch.Tensor

    def __init__(self, given: ImageSpec, wanted: ImageSpec) -> None:
        super().__init__()
        self.given, self.wanted = given, wanted
        self.register_buffer("matrix", _reduction(given.size, wanted.size), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        unit = images * images.new_tensor(self.given.std).view(3, 1, 1)
        unit = unit + images.new_tensor(self.given.mean).view(3, 1, 1)
        return normalize(self.matrix @ unit @ self.matrix.T, self.wanted)


def _reduction(size: int, target_size: int) -> torch.Tensor:
    """Return the (target_size, size) matrix that resizes one side as PyTorch does, bilinear with antialiasing."""
    return F.interpolate(torch.eye(size)[None, None], (target_size, size), mode="bilinear", antialias=True)[0, 0]


def _repeat(features: torch.Tensor, finer_side: int) -> torch.Tensor:
    """Repeat positions on a finer grid: (B, C, h, h) -> (B, C, H, H), where H is `finer_side`."""
    rows = _covering(features, features.shape[-1], finer_side)
    return features if rows is None else rows @ features @ rows.T


def _average_repeats(features: torch.Tensor, side: int) -> torch.Tensor:
    """Undo the repetition by averaging equal positions: (B, C, H, H) -> (B, C, h, h), where h is `side`."""
    rows = _covering(features, side, features.shape[-1])
    return features if rows is None else (rows / rows.sum(0)).T @ features @ (rows / rows.sum(0))


def _covering(like: torch.Tensor, side: int, finer_side: int) -> torch.Tensor | None:
    """Return an (H, h) matrix: 1 if a coarse row covers the center of a fine row; None if the grids are equal."""
    if side == finer_side:
        return None
    source = ((torch.arange(finer_side, device=like.device) + 0.5) * side / finer_side).long()
    return F.one_hot(source, side).to(like.dtype)


def _joined(classifiers: Sequence[Classifier], classes: int, seed: int) -> Classifier:
    encoder = JoinedEncoder(PARTS, classifiers, SPEC.image)
    torch.manual_seed(seed)
    return Classifier(
        encoder, Head(EncoderPooling(encoder), mlp_layers(sum(encoder.blocks), classes)), encoder.bypass_channels
    )


def build(classes: int, dataset: str, seed: int) -> Classifier:
    """Build the classifier with the weights of both encoders."""
    return _joined([part.spec.build(classes, dataset, seed) for part in PARTS], classes, seed)


def outline(classes: int) -> Classifier:
    """Build the same network without pretrained weights, to read its shape."""
    return _joined([part.spec.outline(classes) for part in PARTS if part.spec.outline], classes, 0)
