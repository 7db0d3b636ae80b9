"""Models whose weights are given by path: `FAMILY:ARCHITECTURE@PATH`, accepted in place of a model's name.

    medical:resnet50@radimagenet/resnet50.safetensors
    imagenet:vit_small_patch16_224.augreg_in1k@/weights/vit.safetensors
    medical:siglip@/weights/my-siglip

FAMILY is `imagenet`, `generic` or `medical`, the family whose learning curve it belongs to; only the user can know it.
ARCHITECTURE is a name from timm, with a tag if mean and standard deviation depend on it, or `siglip` for a vision tower
saved by transformers. PATH is a safetensors file (or a folder with `model.safetensors`), absolute or relative to
`LOWSHOT_WEIGHTS`. Every tensor must match; a classifier in the file is dropped. The record of every run has the file's
SHA-256. The training data of such weights is unknown, and runs say so.
"""

from functools import cache, partial
from typing import Any

import torch

from core.errors import BadRequest, UnknownName, WeightsUnavailable
from core.models import medsiglip, timm_networks
from core.models.classifier import Classifier
from core.models.specs import FROZEN, PATH_MARK, TRANSFER, Family, ModelSpec, Weights
from core.models.weights import find_file, weights_of
from core.types import ImageSpec

FAMILIES: dict[str, Family] = {"imagenet": "imagenet", "generic": "generic", "medical": "medical"}
SIGLIP = "siglip"


def model_at(name: str) -> ModelSpec:
    """Return the model of a name with a path.

    Raises:
        UnknownName: if the name has another form, or timm has no such architecture.
        WeightsUnavailable: if a vision tower's folder is missing or damaged.
    """
    kind, _, path = name.partition(PATH_MARK)
    family, _, architecture = kind.partition(":")
    if family not in FAMILIES or not architecture or not path:
        raise UnknownName(
            f"Expected FAMILY:ARCHITECTURE@PATH with FAMILY {' or '.join(FAMILIES)}, such as "
            f"medical:resnet50@/weights/resnet50.safetensors, but got {name!r}."
        )
    is_tower = architecture == SIGLIP
    weights = Weights("file", path, source="given by path", licence="not known")
    return ModelSpec(
        name=name,
        title=f"{architecture}, {path.rstrip('/').rpartition('/')[2]}",
        family=FAMILIES[family],
        image=medsiglip.read_processor(find_file(weights, medsiglip.PROCESSOR))
        if is_tower
        else _timm_image(architecture),
        weights=weights,
        strategies=FROZEN if is_tower else TRANSFER,
        build=partial(medsiglip.build, name) if is_tower else partial(_build_timm, name, architecture),
        outline=partial(_outline_tower, weights) if is_tower else partial(_outline_timm, architecture),
        summary="Weights given by path; their training data is unknown.",
    )


def _timm_image(architecture: str) -> ImageSpec:
    facts = _timm_facts(architecture)
    interpolation = "bilinear" if facts.interpolation == "bilinear" else "bicubic"
    return ImageSpec(facts.input_size[1], tuple(facts.mean), tuple(facts.std), interpolation=interpolation)  # type: ignore[arg-type]


def _timm_facts(architecture: str) -> Any:
    import timm

    unknown = UnknownName(f"timm has no architecture {architecture!r}; see timm.list_models(pretrained=True).")
    if not timm.is_model(architecture):
        raise unknown
    try:
        facts = timm.get_pretrained_cfg(architecture)
    except RuntimeError:  # the tag after the dot is unknown
        raise unknown from None
    if facts is None:
        raise unknown
    return facts


def _build_timm(name: str, architecture: str, classes: int, dataset: str, seed: int) -> Classifier:
    from safetensors import SafetensorError, safe_open

    spec = model_at(name)
    weights_of(spec, dataset)
    path = find_file(spec.weights)
    classifier_name = _timm_facts(architecture).classifier
    classifier = f"{classifier_name[0] if isinstance(classifier_name, tuple) else classifier_name}.weight"
    try:
        with safe_open(path, "pt") as file:
            file_classes = file.get_slice(classifier).get_shape()[0] if classifier in file.keys() else 0  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsUnavailable(f"{path} is not a safetensors file: {error}.") from None
    check_feature_map(architecture)
    network = timm_networks.load_timm(architecture, path, file_classes)
    torch.manual_seed(seed)
    return timm_networks.classifier_of(network, classes)


@cache
def check_feature_map(architecture: str) -> None:
    """Refuse networks that have neither a (B, C, h, w) feature map nor a class token: heatmaps would be wrong.

    Raises:
        BadRequest: for such an architecture.
    """
    import timm

    with torch.device("meta"), torch.no_grad():
        network: Any = timm.create_model(architecture, pretrained=False).eval()
        shape = network.forward_features(torch.zeros(1, *_timm_facts(architecture).input_size)).shape
    if not timm_networks.has_class_token(network) and (len(shape) != 4 or shape[1] != network.num_features):
        raise BadRequest(
            f"{architecture} has no feature map from which heatmaps could be computed. Choose a convolutional network, "
            "such as resnet50, or a vision transformer with a class token."
        )


def _outline_timm(architecture: str, classes: int) -> Classifier:
    import timm

    return timm_networks.classifier_of(timm.create_model(architecture, pretrained=False), classes)


def _outline_tower(weights: Weights, classes: int) -> Classifier:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig.from_pretrained(find_file(weights, medsiglip.CONFIG).parent)
    return medsiglip.classifier_of(SiglipVisionModel(config), classes)
