"""Encoders that this program pretrained: a folder with `weights.safetensors` (half precision) and `card.json`.

`checkpoints/encoders/<model>/<variant>/`. A model may have several variants that differ in what they have seen; the
one taken for a data set has seen neither it nor a relative of it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from core.data import DATASETS
from core.data.specs import family_of
from core.errors import WeightsUnavailable
from core.runtime import encoders_folder
from core.storage import sha256_of_file, write_atomically

WEIGHTS_FILE, CARD_FILE = "weights.safetensors", "card.json"
JUDGE = "nih-chestxray14"  # on whose held-out patients encoders are judged, but for one made for it


def relatives(name: str) -> set[str]:
    """A data set and every set made of the same images."""
    family = family_of(name)
    return {family, *(other for other in DATASETS if family_of(other) == family)}


def read_card(folder: Path) -> dict[str, Any]:
    """What is stored about an encoder.

    Raises:
        WeightsUnavailable: if the card is missing, damaged or incomplete.
    """
    try:
        card: dict[str, Any] = json.loads((folder / CARD_FILE).read_text())
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(f"The encoder in {folder.name} has no readable {CARD_FILE}: {error}") from None
    lacking = [name for name in ("seen", "left_out", "sha256", "licence") if name not in card]
    if lacking:
        raise WeightsUnavailable(f"The {CARD_FILE} of the encoder in {folder.name} lacks {lacking[0]!r}.")
    return card


def judge_key(dataset: str) -> str:
    """How figures on held-out patients of a set are called in cards."""
    return "nih" if dataset == JUDGE else dataset


def judged_on(card: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """On whose held-out patients an encoder was judged, and the figures; None where its card has none."""
    for dataset in card["seen"]:
        if found := card.get(f"{judge_key(dataset)}_test"):
            return dataset, found
    return None


def variants(model: str) -> list[Path]:
    """The folders of a model's encoders that have a card, by name."""
    return [path.parent for path in sorted((encoders_folder() / model).glob(f"[!.]*/{CARD_FILE}"))]


def find_own_encoder(model: str, dataset: str) -> Path:
    """The variant of a model that may be used on a data set.

    For a registered set of real images it has seen neither the set nor a relative, and was audited against the set
    whose images they are: only then are copies known to be out of its corpus. For generated images and for anyone's own
    folder any variant will do; of several the one that was audited against the most sets is taken, so that an encoder
    made for one set changes nothing elsewhere.

    Raises:
        WeightsUnavailable: if there is none.
    """
    family = family_of(dataset)
    must_be_audited = family in DATASETS and not DATASETS[family].synthetic
    cards, damaged = {}, None
    for variant in variants(model):
        try:
            cards[variant] = read_card(variant)
        except WeightsUnavailable as error:  # another may serve
            damaged = error
    for variant, card in sorted(cards.items(), key=lambda one: -len(one[1]["left_out"])):
        if must_be_audited and family not in card["left_out"]:
            continue
        if family not in map(family_of, card["seen"]):
            return variant
    if damaged:
        raise damaged
    raise WeightsUnavailable(
        f"There is no {model} encoder that has never seen {dataset} and was audited against it. "
        f"Make one: python -m trainer pretrain --target {dataset}"
    )


def load_own_encoder(model: str, dataset: str) -> dict[str, torch.Tensor]:
    """The weights of the encoder that may be used on a data set: `weights_of` its folder.

    Raises:
        WeightsUnavailable: if there is none for this data set, or its file is not the one its card names.
    """
    return weights_of(find_own_encoder(model, dataset))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in an encoder's folder, in single precision.

    Raises:
        WeightsUnavailable: if the file is missing, or is not the one that the card names.
    """
    from safetensors.torch import load_file

    path = folder / WEIGHTS_FILE
    if not path.exists() or sha256_of_file(path) != read_card(folder)["sha256"]:
        raise WeightsUnavailable(
            f"{path.parent.name}/{path.name} is missing or is not the file its card names. Restore it from the "
            "repository, or make it again with python -m trainer pretrain."
        )
    return {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}


def card_text(card: dict[str, Any]) -> bytes:
    """A card as it is stored."""
    return (json.dumps(card, indent=1, sort_keys=True) + "\n").encode()


def save_own_encoder(folder: Path, state: dict[str, torch.Tensor], card: dict[str, Any]) -> None:
    """Writes weights in half precision and the card that names their hash; replaces an encoder there as a whole."""
    from safetensors.torch import save

    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial"))
    half = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu() for key, value in state.items()
    }
    write_atomically(staging / WEIGHTS_FILE, save(half))
    stated = {**card, "sha256": sha256_of_file(staging / WEIGHTS_FILE)}
    write_atomically(staging / CARD_FILE, card_text(stated))
    staging.chmod(0o755)
    if folder.exists():
        old = staging.with_name(f"{staging.name}.old")
        os.replace(folder, old)
        os.replace(staging, folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(staging, folder)
