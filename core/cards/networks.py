"""Facts about a network before training: its weights, their training data, its input and its shape.

They are read from the model's row, from the cards of encoders that this program pretrained, and from the network
itself. Nothing is downloaded, and no weights are needed.
"""

from collections.abc import Iterator
from contextlib import suppress

from core.cards.subject import own_training_data, third_party_training_data
from core.data import DATASETS
from core.errors import LowshotError
from core.models import FAMILY_LETTERS
from core.models.medical_encoders import read_card, variants
from core.models.specs import FROZEN, ModelSpec
from core.models.summary import Architecture, format_count, format_shape
from core.models.weights import how_to_get, state_of
from core.types import ImageSpec


def title_of(spec: ModelSpec) -> str:
    """Format family and title: `B · ResNet-18, ImageNet`."""
    return f"{FAMILY_LETTERS[spec.family]} · {spec.title}"


def encoder_training_data(spec: ModelSpec) -> tuple[str, ...]:
    """Describe the training data of a network's encoder, in sentences; one per encoder pretrained by this program."""
    weights, exposure = spec.weights, spec.seen
    if weights.kind == "own":
        return tuple(_own(spec)) or ("No encoder of this kind has been pretrained on this machine.",)
    sentences = [third_party_training_data(weights.kind, weights.source, exposure)]
    if exposure and exposure.seen:
        sentences.append(f"It is not used on data it was trained on, or on the same images: {_titles(exposure.seen)}.")
    if exposure and exposure.unknown:
        sentences.append(f"It is unknown whether it was trained on: {_titles(exposure.unknown)}.")
    return tuple(sentences)


def _own(spec: ModelSpec) -> Iterator[str]:
    for folder in variants(spec.weights.ref):
        try:
            yield f"{folder.name}: {own_training_data(read_card(folder))}"
        except LowshotError as error:
            yield f"{folder.name}: {error}"


def _titles(names: tuple[str, ...]) -> str:
    return ", ".join(DATASETS[name].title for name in names)


def weights_facts(spec: ModelSpec) -> dict[str, str]:
    """Return the source and terms of the weights, and whether they are available on this machine."""
    weights = spec.weights
    if weights.kind == "random":
        return {"Source": "none: random initialization from the seed", "License": "none needed"}
    facts = {"Source": weights.source, "Name": weights.ref, "License": weights.licence or _own_licenses(spec)}
    if weights.terms:
        facts["Terms to accept"] = weights.terms
    return facts | {"On this machine": _here(spec)}


def _own_licenses(spec: ModelSpec) -> str:
    licenses = []
    for folder in variants(spec.weights.ref):
        with suppress(LowshotError):  # `encoder_training_data` reports what is wrong with its card
            licenses.append(f"{folder.name}: {read_card(folder)['licence']}")
    return "; ".join(licenses) or "not stated"


def _here(spec: ModelSpec) -> str:
    """Return whether the weights are available on this machine, or how to get them."""
    if spec.weights.kind == "own":
        names = ", ".join(folder.name for folder in variants(spec.weights.ref))
        return f"yes, as {names}" if names else f"not available. To create one: {spec.weights.install}"
    state, _ = state_of(spec.weights)
    if state == "not here":
        return how_to_get(spec.weights)
    return "yes, they come with the program" if state == "with the program" else "yes"


def input_facts(image: ImageSpec) -> dict[str, str]:
    """Return the input of the network: size, channels and range of pixel values."""
    low = min((0 - mean) / std for mean, std in zip(image.mean, image.std, strict=True))
    high = max((1 - mean) / std for mean, std in zip(image.mean, image.std, strict=True))
    return {
        "Kind": "volumes" if image.dims == 3 else "images",
        "Size": " x ".join([str(image.size)] * image.dims) + (" voxels" if image.dims == 3 else " pixels"),
        "Resized": "linear, to a cube" if image.dims == 3 else f"{image.interpolation}, to a square",
        "Channels": "3; grayscale is repeated" if image.channels == 3 else "1; colors are averaged",
        "Normalization": f"values in [0, 1], minus {_each(image.mean)}, divided by {_each(image.std)}; "
        f"from {low:.4g} to {high:.4g}",
    }


def _each(values: tuple[float, ...]) -> str:
    """Format one value, or one per channel if they differ."""
    return ", ".join(f"{value:.4g}" for value in dict.fromkeys(values))


def shape_facts(spec: ModelSpec, shape: Architecture) -> dict[str, str]:
    """Return the shape in numbers: input, feature map, embedding, parameters and multiply-adds."""
    frozen = any(name in FROZEN for name in spec.strategies)
    tuned = any(name not in FROZEN for name in spec.strategies)
    trained = [f"{shape.head_parameters:,} (the head) with a frozen encoder"] if frozen else []
    trained += [f"up to {shape.parameters:,} with fine-tuning" if frozen else "all"] if tuned else []
    unit = "volume" if len(shape.input) > 3 else "image"
    return {
        "Input": format_shape(shape.input),
        "Feature map": format_shape(shape.features),
        "Embedding": f"{shape.embedding:,} numbers",
        "Parameters": f"{shape.parameters:,}",
        "Trainable": "; ".join(trained),
        "Multiply-adds": f"{shape.macs:,} ({format_count(shape.macs)}) for one {unit}",
    }
