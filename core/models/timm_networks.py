"""Builder of classifiers from networks of timm.

The embedding is timm's own: all layers after the feature map (VGG's two wide layers, ConvNeXt's norm) are part of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.errors import WeightsUnavailable
from core.models.classifier import Classifier, EncoderPooling, Head, mlp_layers
from core.models.encoders import ClassTokenEncoder, TimmEncoder
from core.models.specs import MODELS
from core.models.weights import find_file, weights_of

if TYPE_CHECKING:
    from core.models.timm_models import TimmFacts


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
