"""Encoders that this program pretrained: a folder with `weights.safetensors` (half precision) and `card.json`.

`checkpoints/encoders/<model>/<variant>/`. A model may have several variants that differ in what they have seen; the
one taken for a data set has seen neither it nor a relative of it, and no patient of whom it holds an image.

Cards have a version. Version 1 (no key `version`) was made by an older recipe, chosen with probes on images of later
targets, and left out only patients by whom a target validates or tests. Those encoders serve the stored runs that name
them; new runs take the newest version.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.data import DATASETS
from core.data.specs import family_of
from core.errors import WeightsUnavailable
from core.files import sha256_of_file, write_atomically
from core.models.specs import MODELS
from core.paths import encoders_folder

WEIGHTS_FILE, CARD_FILE = "weights.safetensors", "card.json"
VERSION = 2  # of the cards that `trainer pretrain` writes
VARIANT = "variant:"  # before the name of a variant, where a data set is expected
_NIH = "nih-chestxray14"


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


@dataclass(frozen=True)
class Gate:
    """What an encoder and its start are worth on patients that neither saw.

    Attributes:
        dataset: whose held-out patients.
        read: how the encoder was read (`last`: its last layer, `stages`: after every stage).
        encoder, start: macro AUROC of a probe.
        difference: encoder minus start, with its 95% interval over patients.
        images, patients: how many.
        findings: what was probed.
    """

    dataset: str
    read: str
    encoder: float
    start: float
    difference: tuple[float, float, float]
    images: int
    patients: int
    findings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.difference[1] > 0


def gates_of(card: Mapping[str, Any]) -> list[Gate]:
    """The figures on held-out patients that a card states; cards of version 1 have at most one."""
    if card.get("version", 1) >= VERSION:
        rows = card.get("gates", ())
    else:
        keys = {name: "nih_test" if name == _NIH else f"{name}_test" for name in card["seen"]}
        rows = [{"dataset": name, "read": "last", **card[key]} for name, key in keys.items() if key in card][:1]
    return [Gate(**{**row, "difference": tuple(row["difference"]), "findings": tuple(row["findings"])}) for row in rows]


def variants(model: str) -> list[Path]:
    """The folders of a model's encoders that have a card, by name."""
    return [path.parent for path in sorted((encoders_folder() / model).glob(f"[!.]*/{CARD_FILE}"))]


def find_own_encoder(model: str, dataset: str) -> Path:
    """The variant of a model that new runs on a data set take.

    Of the variants of the newest version: for a registered set of real images it has seen neither the set nor a
    relative, and was audited against the set whose images they are, because only then are copies known to be out of its
    corpus. For generated images and for anyone's own folder any variant will do; of several the one that was audited
    against the most sets is taken, so that an encoder made for one set changes nothing elsewhere.

    Args:
        model: whose variants.
        dataset: the data set; or `VARIANT` and a variant's name, which is then taken as it is.
    Raises:
        WeightsUnavailable: if there is none.
    """
    if dataset.startswith(VARIANT):
        return encoders_folder() / model / dataset.removeprefix(VARIANT)
    family = family_of(dataset)
    must_be_audited = family in DATASETS and not DATASETS[family].synthetic
    cards, damaged = {}, None
    for variant in variants(model):
        try:
            cards[variant] = read_card(variant)
        except WeightsUnavailable as error:  # another may serve
            damaged = error
    newest = max((card.get("version", 1) for card in cards.values()), default=VERSION)
    for variant, card in sorted(cards.items(), key=lambda one: -len(one[1]["left_out"])):
        if card.get("version", 1) < newest or (must_be_audited and family not in card["left_out"]):
            continue
        if family not in map(family_of, card["seen"]):
            return variant
    if damaged:
        raise damaged
    command = MODELS[model].weights.install if model in MODELS else "python -m trainer pretrain"
    raise WeightsUnavailable(
        f"There is no {model} encoder that has never seen {dataset} and was audited against it. "
        f"Make one: {command} --targets {family}"
    )


def variant_of_run(encoder: Mapping[str, Any]) -> str:
    """The variant that a stored run was made with, of whatever version, as `find_own_encoder` takes it.

    Args:
        encoder: the run's record of it, with `ref` (model and variant) and `sha256`.
    Raises:
        WeightsUnavailable: if no variant has these weights.
    """
    for variant in variants(str(encoder["ref"]).partition("/")[0]):
        try:
            if read_card(variant)["sha256"] == encoder["sha256"]:
                return f"{VARIANT}{variant.name}"
        except WeightsUnavailable:  # another may be the one
            continue
    raise WeightsUnavailable(
        f"The encoder {encoder['ref']} with which this run was made is not here. Restore its folder below "
        f"{encoders_folder()}, or make the run again with the encoder of today."
    )


def load_trained(encoder: nn.Module, folder: Path) -> None:
    """Loads the weights in a folder into the start from which they were trained; those it lacks stay the start's.

    Raises:
        WeightsUnavailable: if the file is not the one its card names, or is of another network.
    """
    state = weights_of(folder)
    try:
        unmet = encoder.load_state_dict(state, strict=False).unexpected_keys
    except RuntimeError as error:
        raise WeightsUnavailable(f"The weights in {folder.name} do not fit their network: {error}") from None
    if unmet:
        raise WeightsUnavailable(f"The weights in {folder.name} are of another network: it has no {unmet[0]}.")


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
