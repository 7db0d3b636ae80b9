"""Encoders pretrained by this program: a folder with `weights.safetensors` (half precision) and `card.json`.

The folder is `checkpoints/encoders/<model>/<variant>/`. Variants of a model differ in their training data. The variant
used for a data set has seen neither that set, nor a relative of it, nor any of its patients.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.data import DATASETS
from core.data.specs import DatasetSpec, family_of, find_dataset, is_present
from core.errors import WeightsUnavailable
from core.files import publish, sha256_of_file, staging_folder, write_atomically
from core.models.specs import MODELS
from core.paths import encoders_folder

if TYPE_CHECKING:
    import torch
    from torch import nn

    from core.data.overlap import StepProgress
    from core.models.classifier import Classifier

WEIGHTS_FILE, CARD_FILE = "weights.safetensors", "card.json"
VERSION = 2  # of the cards
VARIANT_PREFIX = "variant:"  # prefix of a variant's name in place of a data set


def relatives(name: str) -> set[str]:
    """Return a data set and every set derived from the same images."""
    family = family_of(name)
    return {family, *(other for other in DATASETS if family_of(other) == family)}


def read_card(folder: Path) -> dict[str, Any]:
    """Read the card of an encoder.

    Raises:
        WeightsUnavailable: if the card is missing, damaged or incomplete.
    """
    try:
        card: dict[str, Any] = json.loads((folder / CARD_FILE).read_text())
    except (OSError, ValueError) as error:
        raise WeightsUnavailable(f"The encoder in {folder.name} has no readable {CARD_FILE}: {error}") from None
    missing = [name for name in ("seen", "left_out", "sha256", "licence") if name not in card]
    if missing:
        raise WeightsUnavailable(f"The {CARD_FILE} of the encoder in {folder.name} lacks {missing[0]!r}.")
    return card


def copies_in_corpus(spec: DatasetSpec, card: Mapping[str, Any], watch: StepProgress) -> tuple[set[int], list[str]]:
    """Compare a user's own images with what an encoder was trained on, as far as that is on this machine.

    Args:
        spec: the row of the images.
        card: the encoder's card.
        watch: description of a step -> a context manager that yields its progress function.
    Returns:
        positions of images that the encoder has seen, and names of the data sets that are missing or incomplete.
    """
    from core.data.dataset import scan
    from core.data.duplicates import find_copies

    corpus_sizes = {part["set"]: part["images"] + part["held_out"] for part in card.get("corpus", ())}
    absent: list[str] = []
    seen: set[int] = set()
    for name in card["seen"]:
        if not is_present(find_dataset(name)):
            absent.append(name)
            continue
        with watch(f"comparing with {name}, on which the medical encoder was trained") as show:
            listing, bank = scan(find_dataset(name), show)
            seen |= set(np.unique(find_copies(scan(spec)[1], bank, show).first).tolist())
        if len(listing) - len(bank.errors) < corpus_sizes.get(name, 0):
            absent.append(name)
    return seen, absent


@dataclass(frozen=True)
class ProbeResult:
    """Probe results of an encoder and of its initial weights on held-out patients.

    Attributes:
        dataset: data set of the held-out patients.
        read: where the embedding is taken (`last`: after the last layer, `stages`: after every stage).
        encoder, start: macro AUROC of a linear probe on the encoder and on its initial weights.
        difference: encoder minus start, lower and upper bound of its 95% confidence interval over patients.
        images, patients: number of images and of patients.
        findings: findings that were probed.
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
        """Whether the whole interval is above zero."""
        return self.difference[1] > 0


def probe_results_of(card: Mapping[str, Any]) -> list[ProbeResult]:
    """Return the probe results in a card."""
    return [
        ProbeResult(**{**row, "difference": tuple(row["difference"]), "findings": tuple(row["findings"])})
        for row in card.get("probes", ())
    ]


def variants(model: str) -> list[Path]:
    """Return the folders of a model's encoders that have a card, sorted by name."""
    return [path.parent for path in sorted((encoders_folder() / model).glob(f"[!.]*/{CARD_FILE}"))]


def find_medical_encoder(model: str, dataset: str) -> Path:
    """Return the variant of a model for new runs on a data set.

    For a registered set of real images, the variant must not have seen the set or a relative, and must have been
    audited against the set's family, as only the audit shows that its corpus has no copies. For generated images and
    the user's own images any variant is valid. Among several variants, the one audited against the most sets is used,
    so that a new encoder for one set does not change other runs.

    Args:
        model: name of the model.
        dataset: name of the data set, or `VARIANT_PREFIX` followed by the name of the variant to use.
    Raises:
        WeightsUnavailable: if there is no such variant.
    """
    if dataset.startswith(VARIANT_PREFIX):
        return encoders_folder() / model / dataset.removeprefix(VARIANT_PREFIX)
    family = family_of(dataset)
    must_be_audited = family in DATASETS and not DATASETS[family].synthetic
    cards, damaged = {}, None
    for variant in variants(model):
        try:
            cards[variant] = read_card(variant)
        except WeightsUnavailable as error:  # another variant may be valid
            damaged = error
    for variant, card in sorted(cards.items(), key=lambda row: -len(row[1]["left_out"])):
        if must_be_audited and family not in card["left_out"]:
            continue
        if family not in map(family_of, card["seen"]):
            return variant
    if damaged:
        raise damaged
    command = MODELS[model].weights.install if model in MODELS else "python -m trainer pretrain"
    raise WeightsUnavailable(
        f"There is no {model} encoder that has never seen {dataset} and was audited against it. "
        f"Pretrain one: {command} --targets {family}"
    )


def variant_of_run(encoder: Mapping[str, Any]) -> str:
    """Return the variant that a stored run used, in the form that `find_medical_encoder` accepts.

    Args:
        encoder: the run's record of its encoder, with `ref` (model and variant) and `sha256`.
    Raises:
        WeightsUnavailable: if no variant has these weights.
    """
    for variant in variants(str(encoder["ref"]).partition("/")[0]):
        try:
            if read_card(variant)["sha256"] == encoder["sha256"]:
                return f"{VARIANT_PREFIX}{variant.name}"
        except WeightsUnavailable:  # another variant may match
            continue
    raise WeightsUnavailable(
        f"The encoder {encoder['ref']} of this run is not on this machine. Restore its folder in "
        f"{encoders_folder()}, or train the run again with the current encoder."
    )


def load_pretrained(encoder: nn.Module, folder: Path) -> None:
    """Load the weights in a folder into an encoder with its initial weights; tensors not in the file are kept.

    Raises:
        WeightsUnavailable: if the file does not match the hash in its card, or belongs to another network.
    """
    state = weights_of(folder)
    try:
        unexpected = encoder.load_state_dict(state, strict=False).unexpected_keys
    except RuntimeError as error:
        raise WeightsUnavailable(f"The weights in {folder.name} do not fit their network: {error}") from None
    if unexpected:
        raise WeightsUnavailable(
            f"The weights in {folder.name} belong to another network: this one has no {unexpected[0]}."
        )


def build_further_pretrained(
    build: Callable[[int, str, int], Classifier], model: str, classes: int, dataset: str, seed: int
) -> Classifier:
    """Build a classifier whose encoder was further pretrained on medical images, excluding a data set and its family.

    Args:
        build: builder of the classifier with the encoder's starting weights.
        model: name of the pretrained model.
        classes: number of classes.
        dataset: name of the data set.
        seed: random seed of the head.
    """
    classifier = build(classes, dataset, seed)
    load_pretrained(classifier.encoder, find_medical_encoder(model, dataset))
    return classifier


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights in an encoder's folder, in single precision.

    Raises:
        WeightsUnavailable: if the file is missing or does not match the hash in the card.
    """
    from safetensors.torch import load_file

    path = folder / WEIGHTS_FILE
    if not path.exists() or sha256_of_file(path) != read_card(folder)["sha256"]:
        raise WeightsUnavailable(
            f"{path.parent.name}/{path.name} is missing or does not match its card. Restore it from the repository, "
            "or pretrain it again with python -m trainer pretrain."
        )
    return {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}


def card_text(card: dict[str, Any]) -> bytes:
    """Format a card as it is stored."""
    return (json.dumps(card, indent=1, sort_keys=True) + "\n").encode()


def save_own_encoder(folder: Path, state: dict[str, torch.Tensor], card: dict[str, Any]) -> None:
    """Write weights in half precision and the card with their hash, replacing an existing encoder as a whole."""
    from safetensors.torch import save

    half = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu() for key, value in state.items()
    }
    with staging_folder(folder) as staging:
        write_atomically(staging / WEIGHTS_FILE, save(half))
        card_with_hash = {**card, "sha256": sha256_of_file(staging / WEIGHTS_FILE)}
        write_atomically(staging / CARD_FILE, card_text(card_with_hash))
        publish(staging, folder)
