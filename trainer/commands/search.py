"""`search`: the protocol's search for settings, with the same number of trials for every family, on the same images.

Candidates are trained on subsets of the training part, as every run is, and scored on the development images of three
data sets, clean and corrupted. Test images and the images that calibrate conformal sets are not read. The best settings
of each size become the strategy's defaults (`trainer/training/recipes.json`), and every trial is in the log.

Not here: `tune`, which is for users with their own images and scores out-of-fold predictions inside one subset.

References:
    Optuna: Akiba et al. 2019, arXiv:1907.10902, with its tree-structured Parzen estimator.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from core.data import DATASETS
from core.data.corruption import CORRUPTIONS, corrupt
from core.data.dataset import Dataset, load_dataset
from core.data.image_cache import Bank
from core.data.preprocessing import preparation
from core.errors import BadRequest
from core.files import sha256_of, sole_writer, write_atomically
from core.metrics.calibration import fit_temperature, negative_log_likelihood, probabilities_of
from core.metrics.thresholds import fit_thresholds
from core.models import MODELS
from core.paths import PROJECT, pick_device
from trainer.flags import add_training, count, minutes
from trainer.progress import print_status, progress_bar
from trainer.training.embedding_cache import EmbeddingCache
from trainer.training.heads import logits_of
from trainer.training.recipes import PATH as RECIPES
from trainer.training.recipes import choose
from trainer.training.run_cell import fit_data, train
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell, FitContext
from trainer.training.training_loop import predict_logits

if TYPE_CHECKING:
    from optuna import Study, Trial

SETS = ("kermany", "ham10000", "nih-chestxray14")
LOG_FOLDER = PROJECT / "docs" / "protocol"
TRIALS = 16  # of every family; `--choose` reads no later ones
SPOILT_WEIGHT = 0.5
PRIORS = (0.03, 0.3, 3.0)  # of the threshold; the first all but ignores out-of-fold predictions
LEAST_EVALUATED = 5  # positives, and negatives, of a finding that counts
_SPOIL_SEED = 0
_SPOIL_VERSION = "1"  # increment when a corruption changes

Suggest = Callable[["Trial"], dict[str, Any]]


@dataclass(frozen=True)
class Space:
    """The search space of one family.

    Attributes:
        name: name of the search and of its log.
        model: model that represents the family.
        strategies: strategies from which a trial chooses.
        sizes: labeled images per class at which every trial is scored.
        seeds: seeds of the subsets, which no reported run uses.
        largest: data set -> largest size scored on it. The rarest classes of HAM10000 and NIH run out above 100.
        suggest: trial -> options; the key `strategy` names the strategy.
    """

    name: str
    model: str
    strategies: tuple[str, ...]
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    suggest: Suggest
    largest: Mapping[str, int] = field(default_factory=lambda: {"ham10000": 100, "nih-chestxray14": 100})


_VIEWS = ("mild", "geometric", "stretched")


def _frozen(trial: Trial) -> dict[str, Any]:
    strategy = trial.suggest_categorical("strategy", ["frozen-logistic", "frozen"])
    views = trial.suggest_categorical("views", [0, 2, 4, 6])
    options: dict[str, Any] = {"strategy": strategy, "views": views}
    options["augment"] = trial.suggest_categorical("augment", _VIEWS) if views else "none"
    if strategy == "frozen-logistic":
        return options | {"strength": trial.suggest_categorical("strength", [0.0, 1.0, 3.0, 10.0, 30.0, 100.0])}
    return options | {
        "lr": trial.suggest_float("lr", 1e-4, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 1.0, log=True),
        "epochs": trial.suggest_categorical("epochs", [5, 10, 20, 40]),
        "min_steps": trial.suggest_categorical("min_steps", [30, 100, 200]),
        "label_smoothing": trial.suggest_categorical("label_smoothing", [0.0, 0.1]),
    }


def _finetune(trial: Trial) -> dict[str, Any]:
    tune = trial.suggest_categorical("tune", ["layers", "norm", "bias"])
    options: dict[str, Any] = {"strategy": "finetune", "tune": tune}
    if tune == "layers":
        options["layer_decay"] = trial.suggest_categorical("layer_decay", [0.65, 0.75, 0.9])
        options["frozen_below"] = trial.suggest_categorical("frozen_below", [0.0, 0.2])
    return options | {
        "lr": trial.suggest_float("lr", 3e-5, 3e-3, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 1.0, log=True),
        "epochs": trial.suggest_categorical("epochs", [5, 10, 20]),
        "min_steps": trial.suggest_categorical("min_steps", [30, 60, 120]),
        "average": trial.suggest_categorical("average", [0.0, 0.95]),
        "augment": trial.suggest_categorical("augment", _VIEWS),
        "label_smoothing": trial.suggest_categorical("label_smoothing", [0.0, 0.1]),
    }


def _scratch(trial: Trial) -> dict[str, Any]:
    augment = trial.suggest_categorical("augment", _VIEWS)
    mixing = trial.suggest_categorical("mixing", ["", "+mixup", "+cutmix"])
    return {
        "strategy": "scratch",
        "model": trial.suggest_categorical("model", SCRATCH_MODELS),
        "augment": augment + mixing,
        "lr": trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 1.0, log=True),
        "epochs": trial.suggest_categorical("epochs", [20, 40, 80]),
        "min_steps": trial.suggest_categorical("min_steps", [100, 200, 400]),
        "label_smoothing": trial.suggest_categorical("label_smoothing", [0.0, 0.1]),
    }


SCRATCH_MODELS = ("scratch-cnn-160", "scratch-cnn-160-narrow", "scratch-cnn-160-groupnorm")
SHORT = {"nih-chestxray14": 10}  # 14 findings: 50 images of each take half of a trial's time
_HEADS = ("frozen-logistic", "frozen")
SPACES = {
    space.name: space
    for space in (
        Space("frozen", "imagenet-efficientnet-lite0", _HEADS, (10, 50, 200), (100, 101), _frozen),
        Space("frozen-stages", "imagenet-efficientnet-lite0-stages", _HEADS, (10, 50, 200), (100, 101), _frozen),
        Space("frozen-dinov2", "generic-dinov2-vits14-imgfocus", _HEADS, (10, 50, 200), (100, 101), _frozen),
        Space("finetune", "imagenet-efficientnet-lite0", ("finetune",), (10, 50), (100,), _finetune, SHORT),
        Space("scratch", SCRATCH_MODELS[0], ("scratch",), (10, 50), (100,), _scratch, SHORT),
    )
}


@dataclass(frozen=True)
class Development:
    """A data set with its development images, clean and corrupted.

    Attributes:
        dataset: the set.
        bank: all of its images at the model's size.
        spoilt: name of a corruption -> (D, C, S, S) development images.
    """

    dataset: Dataset
    bank: Bank
    spoilt: dict[str, np.ndarray]


def development_of(dataset: Dataset, model: str) -> Development:
    """Read a data set at a model's size and corrupt its development images."""
    image = MODELS[model].image
    with progress_bar(f"{dataset.spec.name}: decoding at {image.size} px") as show:
        bank = dataset.bank(image.size, show, preparation("").for_encoder(image))
    clean = bank.images[dataset.development]
    return Development(
        dataset, bank, {"clean": clean} | {name: corrupt(name, clean, _SPOIL_SEED) for name in CORRUPTIONS}
    )


def score(development: Development, cell: Cell, options: Mapping[str, Any], device: torch.device) -> dict[str, float]:
    """Train a cell and score it on development images.

    Whole networks are trained once, without folds: folds serve threshold and temperature, which do not affect AUROC.

    Returns:
        AUROC (mean over classes or findings) on clean images and the mean over corruptions, log-loss at the fitted
        temperature and at temperature 1, training and evaluation seconds; of two classes or of findings, with
        out-of-fold predictions, also the balanced accuracy, clean and corrupted as in `score`, at thresholds fitted
        with several priors (`fit_threshold`).
    """
    # Train on the subset
    start_time = time.monotonic()
    dataset = development.dataset
    plan = plan_run(cell, dataset, options)
    data = fit_data(plan, dataset, development.bank.images)
    settings = plan.settings if plan.strategy.head_only else replace(plan.settings, folds=1)
    model, fit = train(plan, data, settings, FitContext(cell.seed, device))
    if fit.failed:
        raise BadRequest(fit.failed)

    # Predict the development images, clean and corrupted; a frozen encoder's embeddings serve all trials
    labels = dataset.listing.labels[dataset.development]
    logits = {}
    for name, images in development.spoilt.items():
        if plan.strategy.head_only:
            key = sha256_of([data.fingerprint, "development", name, str(_SPOIL_SEED), _SPOIL_VERSION])
            cache = EmbeddingCache(
                model, plan.spec.image, data.dataset, key, len(images), settings.augment, device, plan.setup.preparation
            )
            embeddings = cache.get(images, np.arange(len(images)), 0)[:, 0]
            logits[name] = logits_of(model.head.layers.cpu(), embeddings)
        else:
            logits[name] = predict_logits(model, images, plan.spec.image, device)

    # Fit the temperature to out-of-fold predictions
    held_out = data.labels[fit.held_out]
    temperature = fit_temperature(fit.logits, held_out) if len(held_out) else 1.0
    auroc = {name: macro_auroc(values, labels) for name, values in logits.items()}

    # Fit thresholds to the same predictions, and measure the decisions that they make
    accuracies = {}
    multilabel = labels.ndim == 2
    if len(held_out) and (multilabel or logits["clean"].shape[1] == 2):
        probabilities, truth = _yes_no(probabilities_of(fit.logits, temperature, multilabel), held_out)
        by_image = {name: probabilities_of(values, temperature, multilabel) for name, values in logits.items()}
        for prior in PRIORS:
            cuts = fit_thresholds(probabilities, truth, prior)
            accuracies[f"balanced_accuracy_prior_{prior:g}"] = _weighted(
                {name: _balanced_accuracy(*_yes_no(values, labels), cuts) for name, values in by_image.items()}
            )
    return {
        "clean": auroc["clean"],
        "spoilt": _spoilt(auroc),
        "score": _weighted(auroc),
        "log_loss": negative_log_likelihood(logits["clean"], labels, temperature),
        "log_loss_at_1": negative_log_likelihood(logits["clean"], labels),
        "temperature": temperature,
        "seconds": round(time.monotonic() - start_time, 1),
        **accuracies,
    }


def _spoilt(values: Mapping[str, float]) -> float:
    """Return the mean over corruptions."""
    return float(np.mean([value for name, value in values.items() if name != "clean"]))


def _weighted(values: Mapping[str, float]) -> float:
    """Return the weighted mean of the value on clean images and of the mean over corruptions."""
    return (1 - SPOILT_WEIGHT) * values["clean"] + SPOILT_WEIGHT * _spoilt(values)


def macro_auroc(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean one-vs-rest AUROC over classes, or over findings with at least five positives and negatives.

    Args:
        logits: (N, C).
        labels: (N,) class indices, or (N, C) findings with NaN for unknown.
    """
    if labels.ndim == 1:
        if logits.shape[1] == 2:
            return float(roc_auc_score(labels, logits[:, 1] - logits[:, 0]))
        return float(roc_auc_score(labels, softmax(logits, axis=1), multi_class="ovr", average="macro"))
    values = []
    for column, truth in zip(logits.T, labels.T, strict=True):
        known = ~np.isnan(truth)
        shown = truth[known] > 0.5
        if min(shown.sum(), (~shown).sum()) >= LEAST_EVALUATED:
            values.append(roc_auc_score(shown, column[known]))
    return float(np.mean(values))


def _yes_no(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return probability and truth of each finding, (N, C); of two classes, those of the second one, (N, 1)."""
    return (probabilities, labels) if labels.ndim == 2 else (probabilities[:, 1:], labels[:, None].astype(float))


def _balanced_accuracy(probabilities: np.ndarray, truth: np.ndarray, cuts: Sequence[float]) -> float:
    """Return the mean balanced accuracy over the columns that AUROC is averaged over."""
    values = []
    for column, present, cut in zip(probabilities.T, truth.T, cuts, strict=True):
        known = ~np.isnan(present)
        if min((present[known] > 0.5).sum(), (present[known] < 0.5).sum()) >= LEAST_EVALUATED:
            values.append(balanced_accuracy_score(present[known] > 0.5, column[known] >= cut))
    return float(np.mean(values))


def cells_of(space: Space, sets: tuple[str, ...]) -> Iterator[tuple[str, int, int]]:
    """Yield data set, size and seed of every cell of a trial."""
    for name in sets:
        for size in space.sizes:
            for seed in space.seeds:
                if size <= space.largest.get(name, size):
                    yield name, size, seed


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--space", default="", help="frozen, frozen-stages, frozen-dinov2, finetune or scratch")
    parser.add_argument("--choose", action="store_true", help="make the best settings of all logs the defaults")
    parser.add_argument("--trials", type=count, default=TRIALS, help="total number of trials (default: %(default)s)")
    parser.add_argument(
        "--minutes", type=minutes, default=110.0, help="minutes to run (default: 110); the same command continues"
    )
    parser.add_argument("--log", type=Path, default=None, help="(default: docs/protocol/search-SPACE.jsonl)")
    add_training(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run trials up to the requested number; the same command continues where it stopped.

    With `--choose` no trial is run: the best settings of all logs become the strategies' defaults.
    """
    if arguments.choose:
        return _choose()
    if arguments.space not in SPACES:
        raise BadRequest(f"Expected --space to be one of {', '.join(SPACES)}, but got {arguments.space!r}.")
    space, device = SPACES[arguments.space], pick_device(arguments.device)
    path = arguments.log or LOG_FOLDER / f"search-{space.name}.jsonl"
    with sole_writer(path):
        _search(space, path, arguments.trials, 60 * arguments.minutes, device)
    return 0


def _search(space: Space, path: Path, trials: int, seconds: float, device: torch.device) -> None:
    """Add trials to a log until it has the requested number or time is up."""
    import optuna

    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    developments = {name: development_of(load_dataset(DATASETS[name]), space.model) for name in SETS}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    for row in rows:
        study.add_trial(
            optuna.trial.create_trial(
                params=row["params"],
                distributions={k: _distribution(v) for k, v in row["distributions"].items()},
                value=row["value"],
            )
        )
    until, refused = time.monotonic() + seconds, list[dict[str, Any]]()
    while len(rows) < trials and time.monotonic() < until:
        trial, options = _new_trial(study, space, rows, refused)
        cells = []
        try:
            for name, size, seed in cells_of(space, SETS):
                stated = {
                    k: v for k, v in options.items() if k not in ("strategy", "model") and (k, v) != ("strength", 0.0)
                }
                cell = Cell(name, options.get("model", space.model), options["strategy"], size, seed)
                cells.append(
                    {"set": name, "size": size, "seed": seed, **score(developments[name], cell, stated, device)}
                )
        except BadRequest as error:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            refused.append(options)
            print_status(f"trial {len(rows)}: {error}")
            continue
        value = float(np.mean([np.mean([c["score"] for c in cells if c["set"] == name]) for name in SETS]))
        study.tell(trial, value)
        rows.append(
            {
                "trial": len(rows), "value": round(value, 5), "options": options, "params": trial.params,
                "distributions": {
                    k: optuna.distributions.distribution_to_json(v) for k, v in trial.distributions.items()
                },
                "cells": [{k: round(v, 5) if isinstance(v, float) else v for k, v in c.items()} for c in cells],
            }
        )  # fmt: skip
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        print_status(f"trial {len(rows)} of {trials}: {value:.4f} {options}")


def _new_trial(
    study: Study, space: Space, rows: Sequence[Mapping[str, Any]], refused: list[dict[str, Any]]
) -> tuple[Trial, dict[str, Any]]:
    """Suggest settings that no trial in the log has and that were not refused: by the estimator, else at random."""
    from optuna.samplers import RandomSampler, TPESampler
    from optuna.trial import TrialState

    tried = [*(row["options"] for row in rows), *refused]
    for attempt in range(100):
        seed = 100 * len(rows) + attempt
        study.sampler = RandomSampler(seed) if attempt else TPESampler(seed=len(rows))
        trial = study.ask()
        options = space.suggest(trial)
        if options not in tried:
            return trial, options
        study.tell(trial, state=TrialState.FAIL)
    raise BadRequest(f"All settings of the space {space.name} have been tried; lower --trials.")


def _choose() -> int:
    """Write the best settings among the first `TRIALS` of every log to `trainer/training/recipes.json`."""
    best: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for space in SPACES.values():
        path = LOG_FOLDER / f"search-{space.name}.jsonl"
        if not path.exists():
            print_status(f"{path.name} does not exist; {space.name} keeps the strategies' defaults")
            continue
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for (strategy, model), by_size in choose(rows[:TRIALS], space.model).items():
            best.setdefault(strategy, {})[model] = by_size
    write_atomically(RECIPES, (json.dumps(best, indent=1, sort_keys=True) + "\n").encode())
    print_status(f"written: {RECIPES.name}")
    return 0


def _distribution(text: str) -> Any:
    import optuna

    return optuna.distributions.json_to_distribution(text)
