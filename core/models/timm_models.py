"""Family B through timm: a table with one row per network, and the builder of their classifiers.

The facts are timm's own (a test compares them), and so is the embedding: all layers after the feature map (VGG's two
wide layers, ConvNeXt's norm) are part of it. Images are squashed to a square as everywhere in this program; the center
crop of published ImageNet scores would cut off borders.

References:
    timm: Wightman 2019, doi:10.5281/zenodo.4414861. DINO: Caron et al. 2021, arXiv:2104.14294. DINOv2: Oquab et al.
    2023, arXiv:2304.07193. ConvNeXt: Liu et al. 2022, arXiv:2201.03545. ResNet: He et al. 2015, arXiv:1512.03385. VGG:
    Simonyan and Zisserman 2014, arXiv:1409.1556. Inception-v3: Szegedy et al. 2015, arXiv:1512.00567.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from core.errors import WeightsUnavailable
from core.models.classifier import Classifier, EncoderPooling, Head, mlp_layers
from core.models.encoders import ClassTokenEncoder, TimmEncoder
from core.models.specs import MODELS, TRANSFER, Family, ModelSpec, Weights
from core.models.weights import find_file, weights_of
from core.types import ImageSpec, Interpolation

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TimmFacts:
    """One network with its weights, as published by timm.

    Attributes:
        name, title, summary: as in `ModelSpec`.
        timm: timm's name of architecture and weights, also the name of the repository.
        licence, source: terms and origin of the weights.
        size: side of the input in pixels.
        mean, std, interpolation: normalization and resizing of the input.
        classes: number of classes of the classifier in the file; 0 if there is none.
        published_size: the published input size, if it differs from `size`; else 0.
        family: as in `ModelSpec`.
    """

    name: str
    title: str
    timm: str
    licence: str
    source: str = "ImageNet-1k"
    summary: str = "Pretrained on 1.3 million everyday photographs."
    size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Interpolation = "bicubic"
    classes: int = 1000
    published_size: int = 0
    family: Family = "imagenet"

    @property
    def image(self) -> ImageSpec:
        """The encoder's input."""
        return ImageSpec(self.size, self.mean, self.std, interpolation=self.interpolation)

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments for timm: vision transformers resample their positions to the input size."""
        return {"img_size": self.size} if self.timm.startswith("vit_") else {}


NETWORKS = (
    TimmFacts(
        "imagenet-resnet18", "ResNet-18, ImageNet", "resnet18.tv_in1k", "BSD-3-Clause", interpolation="bilinear"
    ),
    TimmFacts(
        "imagenet-resnet50", "ResNet-50, ImageNet", "resnet50.tv_in1k", "BSD-3-Clause", interpolation="bilinear"
    ),
    TimmFacts("imagenet-densenet121", "DenseNet-121, ImageNet", "densenet121.tv_in1k", "Apache-2.0"),
    TimmFacts("imagenet-vgg16", "VGG-16, ImageNet", "vgg16.tv_in1k", "BSD-3-Clause", interpolation="bilinear"),
    TimmFacts("imagenet-vgg19", "VGG-19, ImageNet", "vgg19.tv_in1k", "BSD-3-Clause", interpolation="bilinear"),
    TimmFacts(
        "imagenet-inception-v3", "Inception-v3, ImageNet", "inception_v3.tf_in1k", "Apache-2.0",
        size=299, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    ),
    TimmFacts("imagenet-convnext-tiny", "ConvNeXt-Tiny, ImageNet", "convnext_tiny.fb_in1k", "Apache-2.0"),
    TimmFacts(
        "imagenet-dino-vits16", "ViT-S/16, DINO on ImageNet", "vit_small_patch16_224.dino", "Apache-2.0", classes=0,
        source="ImageNet-1k without its labels",
        summary="Pretrained on 1.3 million everyday photographs without their labels.",
    ),
    TimmFacts(
        "generic-dinov2-vits14", "ViT-S/14, DINOv2 on web images", "vit_small_patch14_dinov2.lvd142m", "Apache-2.0",
        classes=0, size=224, published_size=518, family="generic",
        source="LVD-142M: web images chosen for their likeness to curated sets, and those sets, ImageNet-22k "
        "among them",
        summary="Generic transfer, not ImageNet pretraining: pretrained on 142 million unlabeled web images. The "
        "strongest generic encoder here; family C has to beat it.",
    ),
)  # fmt: skip


def classifier_of(network: Any, classes: int, size: int = 0) -> Classifier:
    """Build a classifier from a timm network, without its own classifier, and the head that all frozen families share.

    Args:
        network: the timm network.
        classes: number of classes.
        size: see `TimmEncoder`; not needed for vision transformers.
    """
    network.reset_classifier(0)
    encoder = ClassTokenEncoder(network) if has_class_token(network) else TimmEncoder(network, size)
    head = Head(EncoderPooling(encoder), mlp_layers(int(network.head_hidden_size), classes))
    return Classifier(encoder, head, encoder.bypass_channels if isinstance(encoder, ClassTokenEncoder) else 0)


def has_class_token(network: Any) -> bool:
    """Whether the embedding of a timm network is the class token of a vision transformer."""
    return bool(getattr(network, "num_prefix_tokens", 0)) and getattr(network, "global_pool", "") == "token"


def load_timm(name: str, path: Path, classes: int, **options: Any) -> Any:
    """Build a timm network with the weights of a safetensors file; every tensor must match.

    Args:
        name: timm's name.
        path: the file.
        classes: number of classes of the classifier in the file; with another number, timm loads the matching tensors
            and leaves the others random.
        options: further arguments for timm.
    Raises:
        WeightsUnavailable: if the file is damaged or belongs to another network.
    """
    import timm
    from safetensors import SafetensorError

    overlay = {"file": str(path), "num_classes": classes}
    try:
        return timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=classes, **options
        ).eval()
    except (SafetensorError, RuntimeError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsUnavailable(
            f"{path} does not contain the weights of {name}: {reason}. Download it again."
        ) from None


def build(facts: TimmFacts, classes: int, dataset: str, seed: int) -> Classifier:
    """Build the classifier of a row with its published weights."""
    spec = MODELS[facts.name]
    weights_of(spec, dataset)
    network = load_timm(facts.timm, find_file(spec.weights), facts.classes, **facts.options)
    torch.manual_seed(seed)
    return classifier_of(network, classes)


def outline(facts: TimmFacts, classes: int) -> Classifier:
    """Build the same network without the published weights, to read its shape."""
    import timm

    return classifier_of(timm.create_model(facts.timm, pretrained=False, **facts.options), classes)


def model_of(facts: TimmFacts) -> ModelSpec:
    """Return the row of a network in the table of models."""
    return ModelSpec(
        name=facts.name,
        title=facts.title,
        family=facts.family,
        image=facts.image,
        weights=Weights("hub", f"timm/{facts.timm}", licence=facts.licence, source=facts.source),
        strategies=TRANSFER,
        build=partial(build, facts),
        outline=partial(outline, facts),
        summary=facts.summary,
    )


MODELS.add(*map(model_of, NETWORKS))
