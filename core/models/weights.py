"""Where starting weights lie on this machine, which file they are, and whether they may be used on a data set.

Files of other publishers are looked for in the folders of `LOWSHOT_WEIGHTS`, laid out as on the hub
(`timm/resnet18.tv_in1k/model.safetensors`), then in the Hugging Face cache. Nothing here goes to the network; fetching
is `core.models.download`. Only safetensors are read. A file that is missing, damaged or of another network is never
answered with random weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Literal

from core.data.specs import family_of
from core.errors import WeightsUnavailable
from core.files import sha256_unless_changed, write_atomically
from core.models.medical_encoders import find_own_encoder, read_card, variants
from core.models.specs import ModelSpec, Weights, joined_weights
from core.paths import cache_folder, weights_folders

FILE = "model.safetensors"
Standing = Literal["seen", "unknown", "not named"]
State = Literal["random", "with the program", "here", "not here"]


def weights_of(spec: ModelSpec, dataset: str) -> Weights:
    """The weights a model starts from on a data set, with the hash of the very file.

    Raises:
        WeightsUnavailable: if they are not here, or may not be used because the encoder has seen the data set.
    """
    if spec.seen and standing(spec, dataset) == "seen":
        raise WeightsUnavailable(
            f"{spec.name} learnt from images of {family_of(dataset)} (it saw {spec.seen.named}), so results on "
            f"{dataset} would say nothing. Choose another model for this data set."
        )
    return _located(spec.weights, dataset)


def _located(weights: Weights, dataset: str) -> Weights:
    """The same weights with the hash of the very file."""
    if weights.kind == "joined":
        return joined_weights(_located(part, dataset) for part in weights.parts)
    if weights.kind == "own":
        folder = find_own_encoder(weights.ref, dataset)
        card = read_card(folder)
        return replace(weights, ref=f"{weights.ref}/{folder.name}", sha256=card["sha256"], licence=card["licence"])
    if weights.kind == "package":
        package_file(weights)
    if weights.kind in ("random", "package"):
        return weights
    return replace(weights, sha256=sha256_unless_changed(find_file(weights)))


def standing(spec: ModelSpec, dataset: str) -> Standing:
    """What is known of whether a third party's encoder has seen a data set or a relative of it."""
    family = family_of(dataset)
    if spec.seen and family in map(family_of, spec.seen.seen):
        return "seen"
    return "unknown" if spec.seen and family in map(family_of, spec.seen.unknown) else "not named"


def state_of(weights: Weights) -> tuple[State, Path | None]:
    """Where weights are, in few words, and the file where they are one of a folder of weights."""
    if weights.kind == "random":
        return "random", None
    if weights.kind == "own":
        return ("with the program" if variants(weights.ref) else "not here"), None
    if weights.kind == "joined":
        states: list[State] = [state_of(part)[0] for part in weights.parts]
        worst: tuple[State, ...] = ("not here", "here", "with the program")
        return next((state for state in worst if state in states), "random"), None
    try:
        if weights.kind == "package":
            package_file(weights)
            return "with the program", None
        return "here", find_file(weights)
    except WeightsUnavailable:
        return "not here", None


def find_file(weights: Weights, name: str = FILE) -> Path:
    """A file of weights from elsewhere, where it lies on this machine.

    Raises:
        WeightsUnavailable: if it is not here; the message says how to get it.
    """
    if weights.kind == "file":
        path = Path(weights.ref).expanduser()
        candidates = [path] if path.is_absolute() else [folder / path for folder in weights_folders()]
        found = next((one for one in candidates if one.exists()), None)
        if found is None:
            raise WeightsUnavailable(f"There is nothing at {' or '.join(map(str, candidates))}.")
        found = found / name if found.is_dir() else found
        if found.suffix != Path(name).suffix or not found.is_file():
            raise WeightsUnavailable(f"Expected a safetensors file, or a folder with {name}, but got {found}.")
        return found
    for folder in weights_folders():
        if (folder / weights.ref / name).is_file():
            return folder / weights.ref / name
    cached = _in_hub_cache(weights.ref, name) if weights.kind == "hub" else None
    if cached is None:
        raise WeightsUnavailable(how_to_get(weights))
    return cached


def package_file(weights: Weights) -> Path:
    """Find the file of weights inside an installed Python package.

    Raises:
        WeightsUnavailable: if the package is not installed, or its file is not the pinned one.
    """
    package, _, name = weights.ref.partition("/")
    numbers = range(1, weights.shards + 1)
    packages = [package] if weights.shards == 1 else [f"{package}-p{number}" for number in numbers]
    shards = [_file_in(package, Path(name).name) for package in packages]
    present = [path for path in shards if path is not None]
    if len(present) < len(shards):
        raise WeightsUnavailable(how_to_get(weights))
    path = present[0] if weights.shards == 1 else _joined(present, weights.sha256)
    if sha256_unless_changed(path) != weights.sha256:
        again = weights.install.replace("--no-deps ", "").replace("install", "install --force-reinstall --no-deps", 1)
        raise WeightsUnavailable(f"{path.name} is not the file this program was made for. Reinstall it: {again}")
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
    """Join the shards of a file below the cache, unless that was done before."""
    path = cache_folder() / "weights" / f"{sha256[:24]}.pt"
    if not path.is_file() or sha256_unless_changed(path) != sha256:
        write_atomically(path, b"".join(shard.read_bytes() for shard in shards))
    return path


def _in_hub_cache(repository: str, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name)
    return Path(found) if isinstance(found, str) else None


def how_to_get(weights: Weights) -> str:
    """The way to weights that are not here: with a connection, and by way of another machine."""
    if weights.kind == "joined":
        return " ".join(how_to_get(part) for part in weights.parts if state_of(part)[0] == "not here")
    if weights.kind == "package":
        package = weights.ref.partition("/")[0]
        return f"The weights come inside the package {package}, which is not installed. Install it: {weights.install}"
    first = f"{_terms(weights)}; then " if weights.terms else ""
    return (
        f"The weights {weights.ref} are not here. To fetch them: {first}python -m trainer weights get {weights.ref}. "
        f"{by_hand(weights)}"
    )


def by_hand(weights: Weights) -> str:
    """The way to weights for a machine without a connection."""
    if weights.kind == "converted":
        return (
            f"Without a connection: download {weights.source} on another machine, and run python -m trainer weights "
            "convert-xrv FILE here."
        )
    first = f"{_terms(weights)}; " if weights.terms else ""
    return (
        f"Without a connection: on another machine {first}hf download {weights.ref} --local-dir "
        f"{Path(weights.ref).name}; copy that folder to {weights.ref} in the first folder of LOWSHOT_WEIGHTS "
        "(./weights by default)."
    )


def _terms(weights: Weights) -> str:
    return f"accept the terms on {weights.terms}, make a token, run hf auth login (or set HF_TOKEN)"
