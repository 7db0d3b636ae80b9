"""MedSigLIP (family C): the vision tower of Google's medical SigLIP, through transformers.

448 pixels, its own mean and deviation, the pooled 1152-wide embedding as it is (bringing it to length 1 hurts linear
heads), frozen. Its terms must be accepted on its page, so the files come with a token or from another machine.

References:
    MedGemma technical report: Sellergren et al. 2025, arXiv:2507.05201. SigLIP: Zhai et al. 2023, arXiv:2303.15343.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from core.errors import WeightsUnavailable
from core.models.classifier import Classifier, Head, Rest, mlp_layers
from core.models.encoders import SiglipEncoder
from core.models.specs import FROZEN, MODELS, Exposure, ModelSpec, Weights
from core.models.weights import find_file, weights_of
from core.types import ImageSpec

NAME = "medical-medsiglip"
PAGE = "https://huggingface.co/google/medsiglip-448"
IMAGE = ImageSpec(size=448)
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
_TOWER: dict[str, Any] = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "image_size": 448, "patch_size": 14,
}  # fmt: skip


def load_tower(folder: Path) -> Any:
    """The vision tower of a folder as transformers saves it, every tensor of which must be met.

    Raises:
        WeightsUnavailable: if its files are missing, damaged, or not of a SigLIP model.
    """
    from safetensors import SafetensorError
    from transformers import SiglipVisionModel

    try:
        found: Any = SiglipVisionModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        network, loaded = found
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        why = " ".join(str(error).split())[:200]
        raise WeightsUnavailable(f"{folder} does not hold a SigLIP model of transformers: {why}") from None
    if lacking := sorted([*loaded["missing_keys"], *map(str, loaded["mismatched_keys"])]):
        raise WeightsUnavailable(
            f"{folder} lacks {len(lacking)} tensors of a SigLIP vision tower, such as {lacking[0]}. Fetch it again."
        )
    return network.eval()


def check_processor(path: Path, image: ImageSpec) -> None:
    """Raises WeightsUnavailable where a folder's processor prepares images otherwise than this program would."""
    try:
        stated = json.loads(path.read_text())
        found = (stated["size"]["height"], tuple(stated["image_mean"]), tuple(stated["image_std"]), stated["resample"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsUnavailable(f"{path} cannot be read ({error}). Fetch it again.") from None
    wanted = (image.size, image.mean, image.std, {"bilinear": 2, "bicubic": 3}[image.interpolation])
    if found != wanted:
        raise WeightsUnavailable(f"{path} states size, mean, deviation and resampling {found}; expected {wanted}.")


def classifier_of(network: Any, classes: int) -> Classifier:
    """A SigLIP tower as encoder, tap and the head that all frozen families share."""
    encoder = SiglipEncoder(network)
    return Classifier(encoder, Head(Rest(encoder), mlp_layers(network.config.hidden_size, classes)))


def build(classes: int, dataset: str, seed: int) -> Classifier:
    """MedSigLIP with its published weights."""
    spec = MODELS[NAME]
    weights_of(spec, dataset)
    check_processor(find_file(spec.weights, PROCESSOR), spec.image)
    network = load_tower(find_file(spec.weights, CONFIG).parent)
    if network.config.image_size != spec.image.size:
        raise WeightsUnavailable(
            f"Expected a tower for {spec.image.size} pixels, but {CONFIG} states {network.config.image_size}."
        )
    torch.manual_seed(seed)
    return classifier_of(network, classes)


def outline(classes: int) -> Classifier:
    """The same without the published weights, for its shape alone."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return classifier_of(SiglipVisionModel(SiglipVisionConfig(**_TOWER)), classes)


MODELS.add(
    ModelSpec(
        name=NAME,
        title="MedSigLIP",
        family="medical",
        image=IMAGE,
        weights=Weights(
            "hub",
            "google/medsiglip-448",
            licence="Health AI Developer Foundations terms of use",
            source="Google, on medical and everyday image-text pairs",
            terms=PAGE,
        ),
        strategies=FROZEN,
        build=build,
        outline=outline,
        summary="Google's medical image-text encoder, 400 million parameters, kept frozen.",
        seen=Exposure(
            named="MIMIC-CXR, PAD-UFES-20, SCIN, TCGA, CAMELYON, PMC-OA, SLAKE, and private sets, dermatoscopic, "
            "ophthalmological, CT and MRI ones among them",
            unknown=("ham10000",),
        ),
    )
)
