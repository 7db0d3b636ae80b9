"""EfficientNet-Lite0 three times over: with ImageNet weights (B), with medical weights (C), with none (control)."""

from __future__ import annotations

import copy
from functools import cache

import torch
from torch import nn

from core.models.classifier import Classifier, Head, average_pool, mlp_layers
from core.models.encoders import LITE0_WEIGHTS, TimmEncoder, imagenet_lite0_state, lite0_network
from core.models.own_encoders import load_own_encoder
from core.models.specs import MODELS, ModelSpec, Weights
from core.types import ImageSpec

IMAGE = ImageSpec(size=160)
MEDICAL = "medical-efficientnet-lite0"


def _classifier(network: nn.Module, classes: int, seed: int) -> Classifier:
    network.reset_classifier(0)  # type: ignore[operator]
    torch.manual_seed(seed)
    features = int(network.num_features)  # type: ignore[arg-type]
    return Classifier(TimmEncoder(network), Head(average_pool(), mlp_layers(features, classes)))


@cache
def _imagenet_network() -> nn.Module:
    network = lite0_network()
    network.load_state_dict(imagenet_lite0_state())
    return network


def build_imagenet(classes: int, dataset: str, seed: int) -> Classifier:
    """The encoder with ImageNet weights."""
    return _classifier(copy.deepcopy(_imagenet_network()), classes, seed)


def build_medical(classes: int, dataset: str, seed: int) -> Classifier:
    """The encoder further pretrained on medical images, never on the data set or its relatives."""
    classifier = build_imagenet(classes, dataset, seed)
    classifier.encoder.load_state_dict(load_own_encoder(MEDICAL, dataset))
    return classifier


def build_random(classes: int, dataset: str, seed: int) -> Classifier:
    """The encoder with random weights, drawn anew for every seed."""
    torch.manual_seed(seed)
    return _classifier(lite0_network(), classes, seed)


MODELS.add(
    ModelSpec(
        name="imagenet-efficientnet-lite0",
        title="EfficientNet-Lite0, ImageNet",
        family="imagenet",
        image=IMAGE,
        weights=LITE0_WEIGHTS,
        strategies=("frozen", "frozen-logistic", "finetune"),
        build=build_imagenet,
        summary="Learnt on 1.3 million everyday photographs.",
    )
)
MODELS.add(
    ModelSpec(
        name=MEDICAL,
        title="EfficientNet-Lite0, medical",
        family="medical",
        image=IMAGE,
        weights=Weights("own", MEDICAL, source="this program, from the ImageNet start on medical images"),
        strategies=("frozen", "frozen-logistic", "finetune"),
        build=build_medical,
        summary="The ImageNet encoder, further trained on medical images, the target set left out.",
    )
)
MODELS.add(
    ModelSpec(
        name="control-random-frozen",
        title="EfficientNet-Lite0, random",
        family="control",
        image=IMAGE,
        weights=Weights("random"),
        strategies=("frozen", "frozen-logistic"),
        build=build_random,
        summary="The same encoder without any learning: is it the pretraining or the architecture?",
    )
)
