"""MedSigLIP (family C): the vision tower of Google's medical SigLIP, through transformers.

It uses 448 pixels, its own mean and standard deviation, and the pooled 1152-wide embedding without normalization to
unit length, which harms linear heads. It is always frozen. Its terms must be accepted on its page, so the files are
downloaded with an access token or copied from another machine.

References:
    MedGemma technical report: Sellergren et al. 2025, arXiv:2507.05201. SigLIP: Zhai et al. 2023, arXiv:2303.15343.
"""

import json
from pathlib import Path
from typing import Any

import torch

from core.errors import WeightsUnavailable
from core.models.classifier import Classifier, EncoderPooling, Head, mlp_layers
from core.models.encoders import SiglipEncoder
from core.models.specs import MODELS
from core.models.weights import find_file, weights_of
from core.types import ImageSpec

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
_TOWER: dict[str, Any] = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "image_size": 448, "patch_size": 14,
}  # fmt: skip


def load_tower(folder: Path) -> Any:
    """Load the vision tower from a folder saved by transformers; every tensor must match.

    Raises:
        WeightsUnavailable: if its files are missing, damaged, or not of a SigLIP model.
    """
    from safetensors import SafetensorError
    from transformers import SiglipVisionModel

    try:
        result: Any = SiglipVisionModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        network, loaded = result
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsUnavailable(f"{folder} does not contain a transformers SigLIP model: {reason}") from None
    if missing := sorted([*loaded["missing_keys"], *map(str, loaded["mismatched_keys"])]):
        raise WeightsUnavailable(
            f"{folder} lacks {len(missing)} tensors of a SigLIP vision tower, such as {missing[0]}. Download it again."
        )
    return network.eval()


def read_processor(path: Path) -> ImageSpec:
    """Return the input that a transformers processor prepares.

    Raises:
        WeightsUnavailable: if the file is missing or not a processor.
    """
    try:
        processor = json.loads(path.read_text())
        mean, std, size = processor["image_mean"], processor["image_std"], int(processor["size"]["height"])
        interpolation: Any = {2: "bilinear", 3: "bicubic"}[processor["resample"]]
        return ImageSpec(size, tuple(mean), tuple(std), interpolation=interpolation)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsUnavailable(f"{path} is not a transformers processor ({error!r}). Download it again.") from None


def classifier_of(network: Any, classes: int) -> Classifier:
    """Build a classifier from a SigLIP tower and the head that all frozen families share."""
    encoder = SiglipEncoder(network)
    return Classifier(encoder, Head(EncoderPooling(encoder), mlp_layers(network.config.hidden_size, classes)))


def build(name: str, classes: int, dataset: str, seed: int) -> Classifier:
    """Build a SigLIP vision tower with its weights.

    Args:
        name: name of the model.
        classes: number of classes.
        dataset: name of the data set.
        seed: random seed of the head.
    """
    spec = MODELS[name]
    weights_of(spec, dataset)
    path = find_file(spec.weights, PROCESSOR)
    if (actual := read_processor(path)) != spec.image:
        raise WeightsUnavailable(f"{path} prepares images as {actual}; expected {spec.image}.")
    network = load_tower(find_file(spec.weights, CONFIG).parent)
    if network.config.image_size != spec.image.size:
        raise WeightsUnavailable(
            f"Expected a tower for {spec.image.size} pixels, but {CONFIG} says {network.config.image_size}."
        )
    torch.manual_seed(seed)
    return classifier_of(network, classes)


def outline(classes: int) -> Classifier:
    """Build the same network without the published weights, to read its shape."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return classifier_of(SiglipVisionModel(SiglipVisionConfig(**_TOWER)), classes)
