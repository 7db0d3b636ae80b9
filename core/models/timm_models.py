"""Networks of timm with their published weights (family B): one row each, with timm's own facts.

A test compares the facts with timm's. Images are squashed to a square as everywhere in this program; the center crop of
published ImageNet scores would cut off borders.

References:
    timm: Wightman 2019, doi:10.5281/zenodo.4414861. DINO: Caron et al. 2021, arXiv:2104.14294. DINOv2: Oquab et al.
    2023, arXiv:2304.07193. ConvNeXt: Liu et al. 2022, arXiv:2201.03545. ResNet: He et al. 2015, arXiv:1512.03385. VGG:
    Simonyan and Zisserman 2014, arXiv:1409.1556. Inception-v3: Szegedy et al. 2015, arXiv:1512.00567.
"""

from dataclasses import dataclass
from typing import Any

from core.models.specs import TRANSFER, Family, ModelSpec, Weights
from core.registry import LazyFunction
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
        "strongest generic encoder here, and the baseline for family C.",
    ),
)  # fmt: skip


def model_of(facts: TimmFacts) -> ModelSpec:
    """Return the row of a network in the table of models."""
    return ModelSpec(
        name=facts.name,
        title=facts.title,
        family=facts.family,
        image=facts.image,
        weights=Weights("hub", f"timm/{facts.timm}", licence=facts.licence, source=facts.source),
        strategies=TRANSFER,
        build=LazyFunction("core.models.timm_networks:build", facts),
        outline=LazyFunction("core.models.timm_networks:outline", facts),
        summary=facts.summary,
    )
