"""Encoders that this program pretrained: a folder with `weights.safetensors` (half precision) and `card.json`.

`checkpoints/encoders/<model>/<variant>/`. A model may have several variants that differ in what they have seen; the
one taken for a data set has seen neither it nor a relative of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from core.data.specs import DATASETS, DatasetSpec
from core.errors import WeightsUnavailable
from core.runtime import encoders_folder
from core.storage import canonical_json, sha256_of_file, write_atomically

WEIGHTS_FILE, CARD_FILE = "weights.safetensors", "card.json"


def relatives(name: str) -> set[str]:
    """A data set and every set made of the same images."""
    root = DATASETS[name].derived_from or name if name in DATASETS else name
    return {root, *(other.name for other in DATASETS.values() if other.derived_from == root)}


def read_card(folder: Path) -> dict[str, Any]:
    """What is stored about an encoder.

    Raises:
        WeightsUnavailable: if the card is missing or damaged.
    """
    try:
        card: dict[str, Any] = json.loads((folder / CARD_FILE).read_text())
        return card
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(f"The encoder in {folder.name} has no readable {CARD_FILE}: {error}") from None


def find_own_encoder(model: str, dataset: DatasetSpec) -> Path:
    """The variant of a model that has not seen the data set.

    Raises:
        WeightsUnavailable: if there is none.
    """
    kept_apart = relatives(dataset.name)
    folder = encoders_folder() / model
    for variant in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (variant / CARD_FILE).exists() and not kept_apart & set(read_card(variant)["seen"]):
            return variant
    raise WeightsUnavailable(
        f"There is no {model} encoder that has never seen {dataset.title}. "
        f"Make one: python -m trainer pretrain --target {dataset.name}"
    )


def load_own_encoder(model: str, dataset: DatasetSpec) -> dict[str, torch.Tensor]:
    """The encoder's weights in single precision.

    Raises:
        WeightsUnavailable: if there is none for this data set, or its file is not the one its card names.
    """
    from safetensors.torch import load_file

    folder = find_own_encoder(model, dataset)
    path = folder / WEIGHTS_FILE
    if not path.exists() or sha256_of_file(path) != read_card(folder)["sha256"]:
        raise WeightsUnavailable(
            f"{path.parent.name}/{path.name} is missing or is not the file its card names. Restore it from the "
            "repository, or make it again with python -m trainer pretrain."
        )
    return {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}


def save_own_encoder(folder: Path, state: dict[str, torch.Tensor], card: dict[str, Any]) -> None:
    """Writes weights in half precision, then the card that names their hash."""
    from safetensors.torch import save

    half = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu() for key, value in state.items()
    }
    write_atomically(folder / WEIGHTS_FILE, save(half))
    stated = {**card, "sha256": sha256_of_file(folder / WEIGHTS_FILE)}
    write_atomically(folder / CARD_FILE, (json.dumps(json.loads(canonical_json(stated)), indent=1) + "\n").encode())
