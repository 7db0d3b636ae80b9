"""What is known of a network before anything is trained with it: its weights, what they have seen, its input and shape.

Read from the model's row, from the cards of encoders that this program pretrained, and from the network itself. Nothing
is fetched, and no weights are needed.
"""

from __future__ import annotations

from collections.abc import Iterator

from core.cards.subject import encoder_saw, own_encoder_saw
from core.data import DATASETS
from core.errors import LowshotError
from core.models import FAMILY_LETTERS
from core.models.medical_encoders import read_card, variants
from core.models.specs import FROZEN, ModelSpec
from core.models.summary import Architecture, as_text, short
from core.models.weights import how_to_get, state_of
from core.types import ImageSpec


def title_of(spec: ModelSpec) -> str:
    """Family and title: `B · ResNet-18, ImageNet`."""
    return f"{FAMILY_LETTERS[spec.family]} · {spec.title}"


def has_seen(spec: ModelSpec) -> tuple[str, ...]:
    """What its encoder learnt from before it is used here, in sentences; those pretrained here one by one."""
    weights, exposure = spec.weights, spec.seen
    if weights.kind == "own":
        return tuple(_own(spec)) or ("No encoder was pretrained here, so there is none to say it of.",)
    found = [encoder_saw(weights.kind, weights.source, exposure)]
    if exposure and exposure.seen:
        found.append(f"It is refused on what it has seen, and on sets of the same images: {_titles(exposure.seen)}.")
    if exposure and exposure.unknown:
        found.append(f"Whether it has seen these is not known: {_titles(exposure.unknown)}.")
    return tuple(found)


def _own(spec: ModelSpec) -> Iterator[str]:
    for folder in variants(spec.weights.ref):
        try:
            yield f"{folder.name}: {own_encoder_saw(read_card(folder))}"
        except LowshotError as error:
            yield f"{folder.name}: {error}"


def _titles(names: tuple[str, ...]) -> str:
    return ", ".join(DATASETS[name].title for name in names)


def weights_facts(spec: ModelSpec) -> dict[str, str]:
    """Where its weights come from, on what terms, and whether they are on this machine."""
    weights = spec.weights
    if weights.kind == "random":
        return {"Come from": "nowhere: they are drawn at random, by the seed", "Licence": "none is needed"}
    found = {"Come from": weights.source, "Name": weights.ref, "Licence": weights.licence or _own_licences(spec)}
    if weights.terms:
        found["Terms to accept"] = weights.terms
    return found | {"On this machine": _here(spec)}


def _own_licences(spec: ModelSpec) -> str:
    found = []
    for folder in variants(spec.weights.ref):
        try:
            found.append(f"{folder.name}: {read_card(folder)['licence']}")
        except LowshotError:  # what is wrong with its card stands among what it has seen
            continue
    return "; ".join(found) or "not stated"


def _here(spec: ModelSpec) -> str:
    """Whether they are on this machine, or the way to get them."""
    if spec.weights.kind == "own":
        found = ", ".join(folder.name for folder in variants(spec.weights.ref))
        return f"yes, as {found}" if found else f"not here. Make one: {spec.weights.install}"
    state, _ = state_of(spec.weights)
    if state == "not here":
        return how_to_get(spec.weights)
    return "yes, they come with the program" if state == "with the program" else "yes"


def input_facts(image: ImageSpec) -> dict[str, str]:
    """What the network is given: size, channels and the values of its pixels."""
    low = min((0 - mean) / std for mean, std in zip(image.mean, image.std, strict=True))
    high = max((1 - mean) / std for mean, std in zip(image.mean, image.std, strict=True))
    return {
        "Kind": "volumes" if image.dims == 3 else "images",
        "Size": " x ".join([str(image.size)] * image.dims) + (" voxels" if image.dims == 3 else " pixels"),
        "Resized": "linearly, to the cube" if image.dims == 3 else f"{image.interpolation}, to the square",
        "Channels": "3; grey is repeated" if image.channels == 3 else "1; colours are averaged",
        "Normalisation": f"values in [0, 1], less {_each(image.mean)}, divided by {_each(image.std)}; "
        f"from {low:.4g} to {high:.4g}",
    }


def _each(values: tuple[float, ...]) -> str:
    """One number, or one a channel where they differ."""
    return ", ".join(f"{value:.4g}" for value in dict.fromkeys(values))


def shape_facts(spec: ModelSpec, found: Architecture) -> dict[str, str]:
    """The shape in numbers: input, feature map, embedding, parameters and multiply-adds in all."""
    frozen = any(name in FROZEN for name in spec.strategies)
    tuned = any(name not in FROZEN for name in spec.strategies)
    trained = [f"{found.head_parameters:,}, the head's, where the encoder is frozen"] if frozen else []
    trained += [f"up to {found.parameters:,} where it is fine-tuned" if frozen else "all of them"] if tuned else []
    one = "volume" if len(found.input) > 3 else "image"
    return {
        "Input": as_text(found.input),
        "Feature map": as_text(found.features),
        "Embedding": f"{found.embedding:,} numbers",
        "Parameters": f"{found.parameters:,}",
        "Trainable": "; ".join(trained),
        "Multiply-adds": f"{found.macs:,} ({short(found.macs)}) for one {one}",
    }
