"""`pretrain`: train a medical encoder by a recipe, evaluate it in the acceptance test, and store it with a card.

On held-out patients of the corpus, chest and skin, every embedding must beat the same embedding of its start, with the
whole interval above zero. The test is run once, after the trials have fixed the recipe.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.data import DATASETS
from core.data.image_cache import Progress
from core.data.specs import find_dataset, is_present
from core.errors import BadRequest, LowshotError
from core.files import canonical_json, locked, sha256_of, write_atomically
from core.models import MODELS
from core.models.medical_encoders import (
    CARD_FILE,
    VERSION,
    WEIGHTS_FILE,
    ProbeResult,
    card_text,
    read_card,
    relatives,
    save_own_encoder,
    weights_of,
)
from core.models.table import DINOV2, LITE0
from core.paths import describe_device, encoders_folder, library_versions
from trainer.flags import add_device, add_engine, names
from trainer.pretraining.activations import PLAIN, activations
from trainer.pretraining.corpus import CorpusPart, build_corpus, guard_sets, without_test_images
from trainer.pretraining.encoder_training import Recipe, average_weights, chosen_rows, embeddings, prepare_training_sets
from trainer.pretraining.encoder_training import pretrain as train_by
from trainer.pretraining.linear_probe import probe_results
from trainer.pretraining.starts import STARTS, Start
from trainer.pretraining.trials import PROXIES, run_trial
from trainer.progress import locked_in_turn, print_status
from trainer.training.engines import Engine, File, Task, result_of
from trainer.training.ray_engine import open_engine
from trainer.training.run_files import files_of_bank, files_of_weights

CORPUS = {
    "nih-chestxray14": 8000,
    "kermany": 3000,
    "isic2017-dermoscopy": 3000,
    "ham10000": 3000,
}  # maximum number of images
EVALUATED = (("nih-chestxray14", "kermany"), ("isic2017-dermoscopy", "ham10000"))  # the first of each in the corpus
CHOSEN = {
    LITE0: Recipe(LITE0, cut=3, views=2, epochs=3, lr=3e-4, distill=0.0),
    DINOV2: Recipe(DINOV2, cut=5, views=0, epochs=3, lr=1e-4, distill=0.0),
}
LOG_FILE = "recipes.jsonl"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        "--targets", type=names, default="kermany,covid-radiography,ham10000",
        help="data sets that the encoder must never have seen, joined by commas (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--start", default="imagenet-efficientnet-lite0", help="the encoder of family B (default: %(default)s)"
    )
    parser.add_argument(
        "--sets", type=names, default=None, help="data sets of the corpus (default: all that are installed and allowed)"
    )
    for flag, kind, meaning in (
        ("--cut", int, "last frozen block"), ("--views", int, "augmented views per image"),
        ("--epochs", int, "passes over the corpus"), ("--lr", float, "peak learning rate"),
        ("--distill", float, "weight of the distance from the start"),
        ("--average", float, "share of the trained weights in the average with the start"),
    ):  # fmt: skip
        parser.add_argument(flag, type=kind, default=None, help=f"{meaning} (default: the chosen recipe's)")
    parser.add_argument(
        "--seed", type=int, default=0, help="0 for the stored encoder; others are replicates (default: 0)"
    )
    parser.add_argument(
        "--out", type=Path, default=None, help="folder for encoders (default: LOWSHOT_ENCODERS or checkpoints/encoders)"
    )
    parser.add_argument(
        "--trial",
        action="store_true",
        help="try the recipe on proxies and validation patients, and only log the result",
    )
    add_device(parser)
    add_engine(parser)


def run(arguments: argparse.Namespace) -> int:
    """Pretrain an encoder; return 1 if it does not beat its start in every probe, and is therefore not stored."""
    recipe, targets = _recipe(arguments), tuple(arguments.targets)
    start = STARTS[recipe.start]
    folder = (arguments.out or encoders_folder()) / start.medical / f"strict-without-{'-'.join(targets)}"
    evaluated_sets = _evaluated_sets(recipe.sets)
    proxies = [name for name in PROXIES if name not in recipe.sets] if arguments.trial else []
    parts = build_corpus(targets, (*recipe.sets, *proxies), evaluated_sets, start.image.size)
    with open_engine(arguments) as engine:
        if arguments.trial:
            parts = [without_test_images(part) for part in parts]  # here, as workers of a cluster have no data sets
            trial = Task(0, "trial", _try, (parts,), (recipe,), partial(_files, start, parts))
            for record in result_of(engine, trial):
                _log(folder.parent / LOG_FILE, {"kind": "trial", "targets": targets, **record})
            return 0
        with locked_in_turn(folder, f"the pretraining of {folder.name}"):
            return _pretrain(engine, folder, recipe, targets, parts)


def _pretrain(engine: Engine, folder: Path, recipe: Recipe, targets: tuple[str, ...], parts: list[CorpusPart]) -> int:
    """Train an encoder unless it is there already, run its acceptance test, and store it if it passes."""
    start, waiting = STARTS[recipe.start], folder.with_name(f".{folder.name}-seed{recipe.seed}.waiting")
    if recipe.seed == 0 and _is_trained(folder, recipe, parts):
        shutil.rmtree(waiting, ignore_errors=True)
        print(f"Already stored: {folder / WEIGHTS_FILE}")
        return 0
    if recipe.seed != 0 and not (folder / CARD_FILE).exists():
        raise BadRequest(
            f"Seed {recipe.seed} would replicate the encoder in {folder}, which is missing. Start with seed 0."
        )
    if _is_trained(waiting, recipe, parts):
        print_status(f"The encoder is already trained; its acceptance test runs now: {waiting}")
    else:
        training = Task(0, "pretraining", _train, (parts,), (recipe,), partial(_files, start, parts))
        state, facts = result_of(engine, training)
        # before the acceptance test, so that the training cannot be lost
        save_own_encoder(waiting, state, _describe(start, recipe, targets, parts) | facts)
    state = weights_of(waiting)  # in half precision, as stored
    probes = [
        Task(index, f"probes of {part.spec.name}", _probes_of, (part,), (recipe, state), partial(_files, start, [part]))
        for index, part in enumerate(parts)
        if part.spec.name in _evaluated_sets(recipe.sets)
    ]
    outcomes = {task.key: outcome for task, outcome in engine.run(probes)}
    results: list[ProbeResult] = []
    for _, outcome in sorted(outcomes.items()):
        if isinstance(outcome, LowshotError):
            raise outcome
        results += outcome
    passed = all(row.passed for row in results)
    figures = [asdict(row) for row in results]
    result = {"recipe": asdict(recipe), "passed": passed, "probes": figures}
    _log(folder.parent / LOG_FILE, {"kind": "acceptance test", "targets": targets, **result})
    print(json.dumps(result, indent=1))
    if recipe.seed != 0:
        return _store_replicate(folder, waiting, recipe.seed, figures, passed)
    if not passed:
        refused = waiting.with_suffix(".refused")
        shutil.rmtree(refused, ignore_errors=True)
        waiting.rename(refused)
        print(f"Not stored: it does not beat its start in every probe. Its weights are in {refused}.")
        return 1
    save_own_encoder(folder, state, {**read_card(waiting), "probes": figures, "replicates": []})
    shutil.rmtree(waiting)
    print(f"Stored: {folder / WEIGHTS_FILE}")
    return 0


def _store_replicate(folder: Path, waiting: Path, seed: int, figures: list[dict[str, Any]], passed: bool) -> int:
    """Add the results of another seed to the card of the stored encoder; its weights are not stored."""
    card = read_card(folder)
    others = [row for row in card["replicates"] if row["seed"] != seed]
    card["replicates"] = [*others, {"seed": seed, "passed": passed, "probes": figures}]
    write_atomically(folder / CARD_FILE, card_text(card))
    shutil.rmtree(waiting)
    print(f"Seed {seed} is a replicate: its results are in {folder / CARD_FILE}, its weights are not stored.")
    return 0 if passed else 1


def _recipe(arguments: argparse.Namespace) -> Recipe:
    names = ("cut", "views", "epochs", "lr", "distill", "average", "seed")
    stated = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    start = STARTS[arguments.start]
    for target in arguments.targets:
        find_dataset(target)
    excluded = set().union(*(relatives(target) for target in arguments.targets))
    chosen = arguments.sets or [name for name in CORPUS if name not in excluded and is_present(DATASETS[name])]
    sets = {find_dataset(name).name: CORPUS.get(name, 1000) for name in chosen}
    recipe = replace(CHOSEN[start.name], sets=sets, **stated)
    if recipe.cut not in start.cuts:
        cuts = ", ".join(map(str, start.cuts))
        raise BadRequest(f"Expected --cut to be one of {cuts} for {start.name}, but got {recipe.cut}.")
    if not 0 < recipe.average <= 1:
        raise BadRequest(f"Expected --average above 0 and at most 1, but got {recipe.average}.")
    return recipe


def _evaluated_sets(sets: Iterable[str]) -> tuple[str, ...]:
    """Return the sets of a corpus on whose held-out patients the encoder is evaluated.

    Raises:
        BadRequest: if there is none.
    """
    corpus = set(sets)
    chosen = [next((name for name in choice if name in corpus), "") for choice in EVALUATED]
    if not any(chosen):
        names = ", ".join(name for choice in EVALUATED for name in choice)
        raise BadRequest(
            f"Expected --sets to name one of {names}, on whose held-out patients the encoder is evaluated."
        )
    return tuple(filter(None, chosen))


def _files(start: Start, parts: Iterable[CorpusPart]) -> Iterator[File]:
    """Yield the files that a training on parts of the corpus reads."""
    for part in parts:
        yield from files_of_bank(part.bank)
    yield from files_of_weights(start.weights, "")


def _try(parts: list[CorpusPart], recipe: Recipe, device: torch.device, _: Progress) -> list[dict[str, Any]]:
    return list(run_trial(recipe, parts, device))


def _train(
    parts: list[CorpusPart], recipe: Recipe, device: torch.device, _: Progress
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Train an encoder and return its weights, averaged with those of its start, and the facts of the training."""
    start_time = time.monotonic()
    trunk, start_tail = STARTS[recipe.start].build(recipe.cut)
    training_sets = prepare_training_sets(recipe, parts, trunk, start_tail, device)
    trained, history = train_by(recipe, training_sets, start_tail, device)
    facts = {
        "seconds": round(time.monotonic() - start_time, 1),
        "device": describe_device(device),
        "training_curve": history,
    }
    return average_weights(start_tail, trained, recipe.average).encoder_state(), facts


def _probes_of(
    part: CorpusPart, recipe: Recipe, state: dict[str, torch.Tensor], device: torch.device, _: Progress
) -> list[ProbeResult]:
    """Return the probes of a set: the encoder against its start, for every embedding."""
    start = STARTS[recipe.start]
    trunk, origin = start.build(recipe.cut)
    tail = start.build(recipe.cut)[1]
    tail.load_encoder_state(state)
    held = np.concatenate([part.validation, part.test])
    cached = activations(start, recipe.cut, trunk, part, held, PLAIN, device)
    return probe_results(part, *(embeddings(each, cached, device) for each in (tail, origin)))


def _is_trained(waiting: Path, recipe: Recipe, parts: list[CorpusPart]) -> bool:
    """Return whether this recipe was trained on these images, but its acceptance test was not run yet."""
    if not (waiting / CARD_FILE).exists():
        return False
    card = read_card(waiting)
    current = canonical_json([asdict(recipe), [_row(recipe, part) for part in parts]])
    return canonical_json([card.get("recipe"), card.get("corpus")]) == current


def _log(path: Path, record: Mapping[str, Any]) -> None:
    with locked(path):
        before = path.read_text() if path.exists() else ""
        write_atomically(path, (before + json.dumps(record) + "\n").encode())


def _describe(start: Start, recipe: Recipe, targets: Sequence[str], parts: list[CorpusPart]) -> dict[str, Any]:
    seen = [part.spec.name for part in parts]
    return {
        "version": VERSION,
        "recipe": asdict(recipe),
        "title": MODELS[start.medical].title,
        "start": f"{start.weights.ref} ({start.weights.licence}): {start.weights.source}",
        "targets": list(targets),
        "seen": seen,
        "left_out": sorted(set().union(*(relatives(target) for target in targets))),
        "excluded_patients_of": guard_sets(targets, seen),
        "corpus": [_row(recipe, part) for part in parts],
        "licence": "; ".join(sorted({f"{part.spec.title}: {part.spec.licence}" for part in parts})),
        "versions": library_versions(),
    }


def _row(recipe: Recipe, part: CorpusPart) -> dict[str, Any]:
    rows = chosen_rows(recipe, part)
    return {
        "set": part.spec.name,
        "title": part.spec.title,
        "images": len(rows),
        "held_out": len(part.validation) + len(part.test),
        "learnt_hash": sha256_of(sorted(part.listing.ids[rows].tolist())),
        "copies_removed": part.copies,
        "people_removed": part.patients,
        "licence": part.spec.licence,
        "citation": part.spec.citation,
    }
