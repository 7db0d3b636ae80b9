"""EfficientNet-Lite0 with ImageNet weights (B, at two image sizes), medical weights (C) and random weights (control).

At the smaller size the embedding is taken after the last layer, or after every stage.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from core.models.classifier import Classifier, Head, average_pool, mlp_layers
from core.models.encoders import LITE0_WEIGHTS, StagesEncoder, TimmEncoder, imagenet_lite0_state, lite0_network
from core.models.medical_encoders import build_further_pretrained
from core.models.specs import FROZEN, MODELS, TRANSFER, ModelSpec, Weights
from core.types import ImageSpec

IMAGE, LARGER = ImageSpec(size=160), ImageSpec(size=224)
IMAGENET, MEDICAL, CONTROL = "imagenet-efficientnet-lite0", "medical-efficientnet-lite0", "control-random-frozen"


def _classifier(network: Any, classes: int, seed: int) -> Classifier:
    network.reset_classifier(0)
    torch.manual_seed(seed)
    return Classifier(TimmEncoder(network), Head(average_pool(), mlp_layers(network.num_features, classes)))


@cache
def _imagenet_network() -> Any:
    network = lite0_network()
    network.load_state_dict(imagenet_lite0_state())
    return network


def build_imagenet(classes: int, dataset: str, seed: int) -> Classifier:
    """Build the encoder with ImageNet weights."""
    return _classifier(copy.deepcopy(_imagenet_network()), classes, seed)


def build_random(classes: int, dataset: str, seed: int) -> Classifier:
    """Build the encoder with random weights that depend on the seed."""
    torch.manual_seed(seed)
    return _classifier(lite0_network(), classes, seed)


def _build_stages(build: Callable[[int, str, int], Classifier], classes: int, dataset: str, seed: int) -> Classifier:
    """Build the same encoder, read after every stage instead of its last layer, with a new head."""
    network: Any = build(classes, dataset, seed).encoder.network
    network.conv_head = network.bn2 = nn.Identity()  # after the last stage, not used
    torch.manual_seed(seed)
    features = sum(stage["num_chs"] for stage in network.feature_info)
    return Classifier(StagesEncoder(network), Head(average_pool(), mlp_layers(features, classes)))


_IMAGENET_ROW = ModelSpec(
    name=IMAGENET,
    title="EfficientNet-Lite0, ImageNet",
    family="imagenet",
    image=IMAGE,
    weights=LITE0_WEIGHTS,
    strategies=TRANSFER,
    build=build_imagenet,
    outline=lambda classes: build_random(classes, "", 0),
    summary="Pretrained on 1.3 million everyday photographs.",
)
MODELS.add(
    _IMAGENET_ROW,
    replace(
        _IMAGENET_ROW,
        name=f"{IMAGENET}-224",
        title="EfficientNet-Lite0 at 224 px, ImageNet",
        image=LARGER,
        summary="The same encoder on larger images, for fine structure: twice the pixels, twice the time.",
    ),
    replace(
        _IMAGENET_ROW,
        name=MEDICAL,
        settings_from=IMAGENET,
        title="EfficientNet-Lite0, medical",
        family="medical",
        weights=Weights(
            "own",
            MEDICAL,
            source="this program, from the ImageNet start on medical images",
            install=f"python -m trainer pretrain --start {IMAGENET}",
        ),
        build=partial(build_further_pretrained, build_imagenet, MEDICAL),
        summary="The ImageNet encoder, further trained on medical images without the target data set.",
    ),
    replace(
        _IMAGENET_ROW,
        name=CONTROL,
        settings_from=IMAGENET,
        title="EfficientNet-Lite0, random",
        family="control",
        weights=Weights("random"),
        strategies=FROZEN,
        build=build_random,
        outline=None,
        summary="The same encoder without any training: is it the pretraining or the architecture?",
    ),
)
for _whole in (IMAGENET, MEDICAL, CONTROL):
    _row = MODELS[_whole]
    MODELS.add(
        replace(
            _row,
            name=f"{_whole}-stages",
            title=f"{_row.title}, every stage",
            strategies=FROZEN,
            build=partial(_build_stages, _row.build),
            settings_from=f"{IMAGENET}-stages" if _row.settings_from else "",
            outline=lambda classes: _build_stages(build_random, classes, "", 0),
            summary="The same encoder, read after each of its five stages instead of its last layer.",
        )
    )
