"""EfficientNet-Lite0 with ImageNet weights (B, at two image sizes), medical weights (C) and random weights (control).

At the smaller size the embedding is taken after the last layer, or after every stage.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

from core.models.classifier import Classifier, Head, average_pool, mlp_layers
from core.models.encoders import LITE0_WEIGHTS, StagesEncoder, TimmEncoder, imagenet_lite0_state, lite0_network
from core.models.medical_encoders import find_medical_encoder, load_pretrained
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


def build_medical(classes: int, dataset: str, seed: int) -> Classifier:
    """Build the encoder further pretrained on medical images, excluding the data set and its family."""
    classifier = build_imagenet(classes, dataset, seed)
    load_pretrained(classifier.encoder, find_medical_encoder(MEDICAL, dataset))
    return classifier


def build_random(classes: int, dataset: str, seed: int) -> Classifier:
    """Build the encoder with random weights that depend on the seed."""
    torch.manual_seed(seed)
    return _classifier(lite0_network(), classes, seed)


def _outline(classes: int) -> Classifier:
    return build_random(classes, "", 0)


def _of_every_stage(build: Callable[[int, str, int], Classifier]) -> Callable[[int, str, int], Classifier]:
    """Return a builder of the same encoder, read after every stage instead of its last layer, with a new head."""

    def build_stages(classes: int, dataset: str, seed: int) -> Classifier:
        network: Any = build(classes, dataset, seed).encoder.network
        network.conv_head = network.bn2 = nn.Identity()  # after the last stage, not used
        torch.manual_seed(seed)
        features = sum(stage["num_chs"] for stage in network.feature_info)
        return Classifier(StagesEncoder(network), Head(average_pool(), mlp_layers(features, classes)))

    return build_stages


def _outline_of_every_stage(classes: int) -> Classifier:
    return _of_every_stage(build_random)(classes, "", 0)


MODELS.add(
    ModelSpec(
        name=IMAGENET,
        title="EfficientNet-Lite0, ImageNet",
        family="imagenet",
        image=IMAGE,
        weights=LITE0_WEIGHTS,
        strategies=TRANSFER,
        build=build_imagenet,
        outline=_outline,
        summary="Pretrained on 1.3 million everyday photographs.",
    )
)
MODELS.add(
    ModelSpec(
        name=f"{IMAGENET}-224",
        title="EfficientNet-Lite0 at 224 px, ImageNet",
        family="imagenet",
        image=LARGER,
        weights=LITE0_WEIGHTS,
        strategies=TRANSFER,
        build=build_imagenet,
        outline=_outline,
        summary="The same encoder on larger images, for fine structure: twice the pixels, twice the time.",
    )
)
MODELS.add(
    ModelSpec(
        name=MEDICAL,
        twin_of=IMAGENET,
        title="EfficientNet-Lite0, medical",
        family="medical",
        image=IMAGE,
        weights=Weights(
            "own",
            MEDICAL,
            source="this program, from the ImageNet start on medical images",
            install=f"python -m trainer pretrain --start {IMAGENET}",
        ),
        strategies=TRANSFER,
        build=build_medical,
        outline=_outline,
        summary="The ImageNet encoder, further trained on medical images without the target data set.",
    )
)
MODELS.add(
    ModelSpec(
        name=CONTROL,
        twin_of=IMAGENET,
        title="EfficientNet-Lite0, random",
        family="control",
        image=IMAGE,
        weights=Weights("random"),
        strategies=FROZEN,
        build=build_random,
        summary="The same encoder without any training: is it the pretraining or the architecture?",
    )
)
for _whole in (IMAGENET, MEDICAL, CONTROL):
    _row = MODELS[_whole]
    MODELS.add(
        replace(
            _row,
            name=f"{_whole}-stages",
            title=f"{_row.title}, every stage",
            strategies=FROZEN,
            build=_of_every_stage(_row.build),
            twin_of=f"{IMAGENET}-stages" if _row.twin_of else "",
            outline=_outline_of_every_stage,
            summary="The same encoder, read after each of its five stages instead of its last layer.",
        )
    )
