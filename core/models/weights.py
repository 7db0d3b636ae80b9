"""Pretrained weights on this machine: their location and hash, and whether they may be used on a data set.

Files of other publishers are looked for in the folders of `LOWSHOT_WEIGHTS`, laid out as on the hub
(`timm/resnet18.tv_in1k/model.safetensors`), then in the Hugging Face cache. This module never accesses the network;
`core.models.weight_downloads` does. Only safetensors files are read. A file that is missing, is damaged or belongs to
another network raises an error and is never replaced by random weights.
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Literal

from core.data.specs import family_of
from core.errors import WeightsUnavailable
from core.files import cached_sha256_of_file, write_atomically
from core.models.medical_encoders import find_medical_encoder, read_card, variants
from core.models.specs import ModelSpec, Weights, joined_weights
from core.paths import cache_folder, weights_folders

FILE = "model.safetensors"
ExposureState = Literal["seen", "unknown", "not named"]
State = Literal["random", "with the program", "here", "not here"]


def weights_of(spec: ModelSpec, dataset: str) -> Weights:
    """Return a model's initial weights on a data set, with the hash of the file.

    Raises:
        WeightsUnavailable: if they are not on this machine, or may not be used because the encoder has seen the data
            set.
    """
    if spec.seen and exposure_of(spec, dataset) == "seen":
        raise WeightsUnavailable(
            f"{spec.name} was trained on images of {family_of(dataset)} (its data: {spec.seen.named}), so results on "
            f"{dataset} would be meaningless. Choose another model for this data set."
        )
    return _located(spec.weights, dataset)


def _located(weights: Weights, dataset: str) -> Weights:
    """Return the same weights with the hash of the file."""
    if weights.kind == "joined":
        return joined_weights(_located(part, dataset) for part in weights.parts)
    if weights.kind == "own":
        folder = find_medical_encoder(weights.ref, dataset)
        card = read_card(folder)
        return replace(weights, ref=f"{weights.ref}/{folder.name}", sha256=card["sha256"], licence=card["licence"])
    if weights.kind == "package":
        package_file(weights)
    if weights.kind in ("random", "package"):
        return weights
    return replace(weights, sha256=cached_sha256_of_file(find_file(weights)))


def exposure_of(spec: ModelSpec, dataset: str) -> ExposureState:
    """Return whether a third-party encoder has seen a data set or a relative of it, as far as is known."""
    family = family_of(dataset)
    if spec.seen and family in map(family_of, spec.seen.seen):
        return "seen"
    return "unknown" if spec.seen and family in map(family_of, spec.seen.unknown) else "not named"


def state_of(weights: Weights) -> tuple[State, Path | None]:
    """Return the state of weights on this machine and, for downloaded or given files, the path."""
    if weights.kind == "random":
        return "random", None
    if weights.kind == "own":
        return ("with the program" if variants(weights.ref) else "not here"), None
    if weights.kind == "joined":
        states: list[State] = [state_of(part)[0] for part in weights.parts]
        by_severity: tuple[State, ...] = ("not here", "here", "with the program")
        return next((state for state in by_severity if state in states), "random"), None
    try:
        if weights.kind == "package":
            package_file(weights)
            return "with the program", None
        return "here", find_file(weights)
    except WeightsUnavailable:
        return "not here", None


def find_file(weights: Weights, name: str = FILE) -> Path:
    """Return the path of a weights file from another publisher.

    Raises:
        WeightsUnavailable: if it is not on this machine; the message says how to get it.
    """
    if weights.kind == "file":
        path = Path(weights.ref).expanduser()
        candidates = [path] if path.is_absolute() else [folder / path for folder in weights_folders()]
        existing = next((candidate for candidate in candidates if candidate.exists()), None)
        if existing is None:
            raise WeightsUnavailable(f"There is nothing at {' or '.join(map(str, candidates))}. Correct the path.")
        existing = existing / name if existing.is_dir() else existing
        if existing.suffix != Path(name).suffix or not existing.is_file():
            raise WeightsUnavailable(f"Expected a safetensors file, or a folder with {name}, but got {existing}.")
        return existing
    for folder in weights_folders():
        if (folder / weights.ref / name).is_file():
            return folder / weights.ref / name
    if weights.kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        if isinstance(cached := try_to_load_from_cache(weights.ref, name), str):
            return Path(cached)
    raise WeightsUnavailable(how_to_get(weights))


def package_file(weights: Weights) -> Path:
    """Return the path of the weights file in an installed Python package.

    Raises:
        WeightsUnavailable: if the package is not installed, or its file does not have the expected hash.
    """
    package, _, name = weights.ref.partition("/")
    numbers = range(1, weights.shards + 1)
    packages = [package] if weights.shards == 1 else [f"{package}-p{number}" for number in numbers]
    shards = [_file_in(package, Path(name).name) for package in packages]
    present = [path for path in shards if path is not None]
    if len(present) < len(shards):
        raise WeightsUnavailable(how_to_get(weights))
    path = present[0] if weights.shards == 1 else _joined(present, weights.sha256)
    if cached_sha256_of_file(path) != weights.sha256:
        command = weights.install.replace("--no-deps ", "").replace("install", "install --force-reinstall --no-deps", 1)
        raise WeightsUnavailable(f"{path.name} does not have the expected SHA-256. Reinstall it: {command}")
    return path


def _file_in(package: str, name: str) -> Path | None:
    """Find a file of an installed package by its name."""
    try:
        listed = files(package) or []
    except PackageNotFoundError:
        return None
    path = next((Path(str(file.locate())) for file in listed if file.name == name), None)
    return path if path is not None and path.is_file() else None


def _joined(shards: Sequence[Path], sha256: str) -> Path:
    """Join the shards of a file in the cache folder, unless that was done before."""
    path = cache_folder() / "weights" / f"{sha256[:24]}.pt"
    if not path.is_file() or cached_sha256_of_file(path) != sha256:
        write_atomically(path, b"".join(shard.read_bytes() for shard in shards))
    return path


def how_to_get(weights: Weights) -> str:
    """Explain how to get missing weights, with a network connection or by way of another machine."""
    if weights.kind == "joined":
        return " ".join(how_to_get(part) for part in weights.parts if state_of(part)[0] == "not here")
    if weights.kind == "package":
        package = weights.ref.partition("/")[0]
        return f"The weights are in the package {package}, which is not installed. Install it: {weights.install}"
    prerequisite = f"{_terms(weights)}; then " if weights.terms else ""
    return (
        f"The weights {weights.ref} are not on this machine. To download them: {prerequisite}python -m trainer weights "
        f"get {weights.ref}. "
        f"{by_hand(weights)}"
    )


def by_hand(weights: Weights) -> str:
    """Explain how to get weights onto a machine without a network connection."""
    if weights.kind == "converted":
        return (
            f"Without a connection: download {weights.source} on another machine, and run python -m trainer weights "
            "convert-xrv FILE here."
        )
    prerequisite = f"{_terms(weights)}; " if weights.terms else ""
    return (
        f"Without a connection: on another machine {prerequisite}hf download {weights.ref} --local-dir "
        f"{Path(weights.ref).name}; copy that folder to {weights.ref} in the first folder of LOWSHOT_WEIGHTS "
        "(./weights by default)."
    )


def _terms(weights: Weights) -> str:
    return f"accept the terms on {weights.terms}, create a token, run hf auth login (or set HF_TOKEN)"
