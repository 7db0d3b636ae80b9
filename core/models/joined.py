"""Embeddings of two networks side by side: EfficientNet-Lite0 after every stage, and DINOv2-S.

Both see the same image, each at its own size and normalization: the joint input has 224 pixels, which is DINOv2's, and
is reduced to 160 for EfficientNet-Lite0. (On validation images of Kermany et al. heads learn the same from it as from
images decoded at 160, and less from EfficientNet-Lite0 run at 224.) The scales of the two embeddings have nothing in
common, so the classifier states a block for each (`Classifier.blocks`), for heads that normalize them one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from core.data.transforms import normalise
from core.models import dinov2, efficientnet_lite0
from core.models.classifier import Classifier, Head, Rest, mlp_layers
from core.models.encoders import expect_size
from core.models.specs import FROZEN, MODELS, ModelSpec, joined_weights
from core.types import ImageSpec

NAME = "generic-joined-lite0-stages-dinov2-vits14"
IMAGE = dinov2.IMAGE


@dataclass(frozen=True)
class Part:
    """A model whose encoder is joined with others.

    Attributes:
        spec: its row in the table of models.
        side: places along a side of its map.
        channels: of its map, without what it carries past the tap.
    """

    spec: ModelSpec
    side: int
    channels: int


PARTS = (Part(MODELS[f"{efficientnet_lite0.IMAGENET}-stages"], 5, 512), Part(MODELS[dinov2.NAME], 16, 384))


class JoinedEncoder(nn.Module):
    """The maps of several encoders on the finest of their grids: (B, 3, S, S) -> (B, C, h, w).

    Channels are those of each encoder's map in turn, then those that each carries past the tap. A place of a coarser
    map is repeated at the places of the finest grid whose centres it covers, and pooled as the one place that it is, so
    that the embedding is the encoders' own, one after another.

    Args:
        parts: what is joined.
        classifiers: of the parts; the layers of their heads are dropped.
        image: the joint input, no smaller than any part's.
    """

    def __init__(self, parts: Sequence[Part], classifiers: Sequence[Classifier], image: ImageSpec) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(one.encoder for one in classifiers)
        self.pools = nn.ModuleList(one.head.pool for one in classifiers)
        self.blocks = tuple(width for one in classifiers for width in one.blocks)
        self.widths = [part.channels for part in parts] + [one.tapped.carried for one in classifiers]
        self.carried = sum(self.widths[len(parts) :])
        self.parts, self.image = tuple(parts), image
        for number, part in enumerate(parts):
            self.register_buffer(f"reduction{number}", _reduction(image.size, part.spec.image.size), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        expect_size(images, self.image.size)
        finest = max(part.side for part in self.parts)
        unit = images * images.new_tensor(self.image.std).view(3, 1, 1)
        unit = unit + images.new_tensor(self.image.mean).view(3, 1, 1)
        places, carried = [], []
        for number, (part, encoder) in enumerate(zip(self.parts, self.encoders, strict=True)):
            reduction = self.get_buffer(f"reduction{number}")
            smaller = reduction @ unit @ reduction.T  # (B, 3, s, s)
            features = _repeated(encoder(normalise(smaller, part.spec.image)), finest)
            places.append(features[:, : part.channels])
            carried.append(features[:, part.channels :])
        return torch.cat([*places, *carried], dim=1)

    def rest(self, features: torch.Tensor) -> torch.Tensor:
        """Each encoder's own map, pooled as the encoder alone is: (B, C, h, w) -> (B, sum of the blocks)."""
        count, split = len(self.parts), features.split(self.widths, dim=1)
        maps = [torch.cat([split[number], split[count + number]], dim=1) for number in range(count)]
        pooled = [pool(_once(one, part.side)) for pool, one, part in zip(self.pools, maps, self.parts, strict=True)]
        return torch.cat(pooled, dim=1)


def _reduction(size: int, wanted: int) -> torch.Tensor:
    """(wanted, size): rows by which a side is resized as PyTorch does, bilinear with antialias."""
    return F.interpolate(torch.eye(size)[None, None], (wanted, size), mode="bilinear", antialias=True)[0, 0]


def _repeated(features: torch.Tensor, whole: int) -> torch.Tensor:
    """Repeat places on a finer grid: (B, C, h, h) -> (B, C, H, H), H = `whole`."""
    rows = _covering(features, features.shape[-1], whole)
    return features if rows is None else rows @ features @ rows.T


def _once(features: torch.Tensor, side: int) -> torch.Tensor:
    """Take the repetition back: (B, C, H, H) -> (B, C, h, h), h = `side`, means over the equal places."""
    rows = _covering(features, side, features.shape[-1])
    return features if rows is None else (rows / rows.sum(0)).T @ features @ (rows / rows.sum(0))


def _covering(like: torch.Tensor, side: int, whole: int) -> torch.Tensor | None:
    """(H, h): one where a row of the coarser grid covers the centre of one of the finer; None where they are alike."""
    if side == whole:
        return None
    source = ((torch.arange(whole, device=like.device) + 0.5) * side / whole).long()
    return F.one_hot(source, side).to(like.dtype)


def _joined(classifiers: Sequence[Classifier], classes: int, seed: int) -> Classifier:
    encoder = JoinedEncoder(PARTS, classifiers, IMAGE)
    torch.manual_seed(seed)
    return Classifier(encoder, Head(Rest(encoder), mlp_layers(sum(encoder.blocks), classes)), encoder.carried)


def build(classes: int, dataset: str, seed: int) -> Classifier:
    """Both encoders with their weights."""
    return _joined([part.spec.build(classes, dataset, seed) for part in PARTS], classes, seed)


def outline(classes: int) -> Classifier:
    """The same without their weights, for its shape alone."""
    return _joined([part.spec.outline(classes) for part in PARTS if part.spec.outline], classes, 0)


MODELS.add(
    ModelSpec(
        name=NAME,
        title="EfficientNet-Lite0, every stage, joined with DINOv2-S, saliency-tuned",
        family="generic",
        image=IMAGE,
        weights=joined_weights(part.spec.weights for part in PARTS),
        strategies=FROZEN,
        build=build,
        outline=outline,
        summary="Both encoders on the same image, their embeddings one after another: what everyday photographs with "
        "labels and web images without teach together.",
    )
)
