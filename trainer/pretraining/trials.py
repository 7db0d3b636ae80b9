"""Trials of pretraining recipes, to choose between them.

They use no image of a target or of the acceptance test, and no test image of any data set.

A trial trains on part of the corpus. Other data sets, the `PROXIES`, stand for a target of another kind; some findings
of the chest X-rays, whose labels are hidden in training, stand for a target of the same kind. Few-shot probes compare
the recipe's encoder with its starting weights: on the proxies, on those findings and on the other labels of validation
patients.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from trainer.pretraining.activations import PLAIN, activations
from trainer.pretraining.corpus import CorpusPart
from trainer.pretraining.encoder_training import Recipe, average_weights, embeddings, prepare_training_sets
from trainer.pretraining.encoder_training import pretrain as train_by
from trainer.pretraining.linear_probe import few_shot_auroc
from trainer.pretraining.starts import STARTS, Tail, Trunk
from trainer.progress import print_status

PROXIES = ("knee-osteoarthritis", "breast-ultrasound", "malaria")
HIDDEN_FINDINGS = {"nih-chestxray14": ("Consolidation", "Edema", "Infiltration", "Pneumonia")}
AVERAGES = (1.0, 0.5, 0.25)
_SIZES, _SEEDS = (10, 40), 10  # labels per class, and their resamples
_PROBE_IMAGES, _TRAIN_IMAGES = 1200, 2000  # maximum number of images of a probe, and of a data set in training


@dataclass(frozen=True)
class _Probe:
    """Images and labels of a few-shot task."""

    name: str
    part: CorpusPart
    rows: np.ndarray
    labels: np.ndarray


def run_trial(recipe: Recipe, parts: list[CorpusPart], device: torch.device) -> Iterator[dict[str, Any]]:
    """Try a recipe at every share of the average with the starting weights.

    Args:
        recipe: the recipe; its `average` is ignored.
        parts: the corpus and the proxies.
        device: device to run on.
    Yields:
        a record for each share: the recipe and, by task, embedding and size, the AUROC of the encoder and of its start.
    """
    start = STARTS[recipe.start]
    trunk, start_tail = start.build(recipe.cut)
    train_parts = [_without_findings(part) for part in parts if part.spec.name not in PROXIES]
    sets = {part.spec.name: min(recipe.sets[part.spec.name], _TRAIN_IMAGES) for part in train_parts}
    recipe = replace(recipe, sets=sets)
    probes = [probe for part in parts for probe in _probes(part)]
    before = _few_shot_aurocs(probes, recipe, trunk, start_tail, device)
    start_time = time.monotonic()
    trained, history = train_by(
        recipe, prepare_training_sets(recipe, train_parts, trunk, start_tail, device), start_tail, device
    )
    seconds = round(time.monotonic() - start_time, 1)
    for share in AVERAGES:
        after = _few_shot_aurocs(probes, recipe, trunk, average_weights(start_tail, trained, share), device)
        gains = {key: round(after[key] - before[key], 4) for key in after}
        mean = {read: _mean(gains, read) for read in start_tail.reads}
        print_status(f"average {share}: {mean}")
        yield {
            "recipe": asdict(replace(recipe, average=share)), "mean_gain": mean, "gains": gains, "start": before,
            "seconds": seconds, "loss": [history[0]["loss"], history[-1]["loss"]],
        }  # fmt: skip


def _without_findings(part: CorpusPart) -> CorpusPart:
    hidden = [part.spec.labels.index(name) for name in HIDDEN_FINDINGS.get(part.spec.name, ())]
    if not hidden:
        return part
    labels = part.listing.labels.copy()
    labels[:, hidden] = np.nan
    return replace(part, listing=replace(part.listing, labels=labels))


def _probes(part: CorpusPart) -> Iterator[_Probe]:
    rows = part.train if part.spec.name in PROXIES else part.validation
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:_PROBE_IMAGES])
    labels = part.listing.labels[rows]
    if not len(rows):
        return
    if part.spec.name not in HIDDEN_FINDINGS:
        yield _Probe(part.spec.name, part, rows, labels)
        return
    hidden = np.isin(part.spec.labels, HIDDEN_FINDINGS[part.spec.name])
    yield _Probe(f"{part.spec.name} (findings left out)", part, rows, labels[:, hidden])
    yield _Probe(f"{part.spec.name} (findings learnt)", part, rows, labels[:, ~hidden])


def _few_shot_aurocs(
    probes: list[_Probe], recipe: Recipe, trunk: Trunk, tail: Tail, device: torch.device
) -> dict[str, float]:
    """Return the few-shot AUROC by `task, embedding, size`."""
    start, aurocs = STARTS[recipe.start], {}
    for probe in probes:
        cached = activations(start, recipe.cut, trunk, probe.part, probe.rows, PLAIN, device)
        for read, features in embeddings(tail, cached, device).items():
            for size in _SIZES:
                auroc = few_shot_auroc(features, probe.labels, probe.part.groups[probe.rows], size, _SEEDS)
                aurocs[f"{probe.name}, {read}, {size}"] = round(auroc, 4)
    return aurocs


def _mean(gains: dict[str, float], read: str) -> float:
    return round(float(np.mean([gain for key, gain in gains.items() if f", {read}, " in key])), 4)
