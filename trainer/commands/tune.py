"""`tune`: search settings by cross-validation inside a subset, within a budget of minutes.

Trials see only the labeled images of the subset, as every training does, and never the test set. The search continues
where it stopped. Its result is a file that `run`, `curve` and `ablate` take as `--settings`.

References:
    Optuna: Akiba et al. 2019, arXiv:1907.10902, with its tree-structured Parzen estimator.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core.data.image_cache import Progress
from core.errors import BadRequest, LowshotError
from core.files import canonical_json, sha256_of, write_atomically
from core.metrics.calibration import fit_temperature, negative_log_likelihood
from core.paths import cache_folder
from trainer import flags
from trainer.progress import print_status, progress_bar
from trainer.training.engines import Engine, Task
from trainer.training.ray_engine import open_engine
from trainer.training.run_cell import fit_data, train
from trainer.training.run_files import files_of_fit
from trainer.training.run_plan import RunPlan, plan_run, settings_for
from trainer.training.settings import Cell, FitContext, FitData, Settings
from trainer.training.sweep import load_for_training

if TYPE_CHECKING:
    from optuna import Study, Trial

BY = "mean negative log-likelihood of held-out images inside the subset, at their best temperature"


# Values over which a setting is searched; the default is always one of them. The range of a factor is from the default
# divided by it to the default times it, on a logarithmic scale.
FACTORS = {"lr": 10, "weight_decay": 30, "inner_lr": 10, "outer_lr": 10}
RANGES = {"label_smoothing": (0.0, 0.3), "layer_decay": (0.5, 1.0)}
CHOICES: dict[str, tuple[Any, ...]] = {
    "batch_size": (8, 16, 32, 64),
    "augment": ("none", "mild", "aggressive"),
    "average": (0.0, 0.9, 0.98, 0.995),
    "schedule": ("one-cycle", "cosine", "constant"),
    "loss": ("", "focal"),
    "depth": (1, 2, 3),
    "adapt_steps": (5, 10, 20),
}
SEARCHABLE = (*FACTORS, *RANGES, *CHOICES)
SEARCHED_BY_DEFAULT = ("lr", "weight_decay", "label_smoothing", "augment", "layer_decay", "inner_lr", "adapt_steps")


def held_out_loss(
    fits: list[tuple[RunPlan, FitData]], settings: Settings, device: torch.device, progress: Progress
) -> float:
    """Return the mean over runs of the negative log-likelihood of their held-out images, at the best temperature.

    Args:
        fits: plans of several seeds, with the labeled images of their subsets.
        settings: the settings to evaluate.
        device: device to run on.
        progress: called with (done, total) after each training.
    Raises:
        BadRequest: if a training diverged, or holds no image out.
    """
    losses = []
    for done, (plan, data) in enumerate(fits, 1):
        _, fit = train(plan, data, settings, FitContext(plan.cell.seed, device))
        if fit.failed:
            raise BadRequest(fit.failed)
        if not len(fit.held_out):
            raise BadRequest("No image is held out, so that settings cannot be compared. Use two folds or more.")
        labels = data.labels[fit.held_out]
        losses.append(negative_log_likelihood(fit.logits, labels, fit_temperature(fit.logits, labels)))
        progress(done, len(fits))
    return float(np.mean(losses))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    flags.add_data(parser)
    parser.add_argument("--model", required=True)
    parser.add_argument("--strategy", required=True)
    parser.add_argument("--size", type=flags.sizes, required=True, help="labeled images per class, or full")
    parser.add_argument(
        "--seeds", type=flags.seeds, default=[0], help="subsets on which settings are evaluated (default: 0)"
    )
    parser.add_argument(
        "--minutes", type=flags.minutes, default=10.0, help="(default: 10); the same command continues later"
    )
    parser.add_argument(
        "--over", type=flags.names, default=None, help="settings joined by commas (default: the strategy's)"
    )
    parser.add_argument("--out", type=Path, default=None, help="file for the result, which --settings takes")
    flags.add_training(parser)
    flags.add_engine(parser)
    flags.add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search settings and print the result."""
    if len(arguments.size) != 1:
        raise BadRequest("tune takes one size, because the best settings depend on the size.")

    # Plan a run for each seed; the search evaluates settings inside their subsets
    dataset = load_for_training(flags.requested_dataset(arguments), arguments.allow_leaks)
    options, model, strategy = flags.stated_settings(arguments), arguments.model, arguments.strategy
    cells = [Cell(dataset.spec.name, model, strategy, arguments.size[0], seed) for seed in arguments.seeds]
    plans = [plan_run(cell, dataset, options) for cell in cells]
    over = _searched_settings(arguments.over, plans[0], options)
    images = plans[0].images(dataset)
    fits = [(plan, fit_data(plan, dataset, images)) for plan in plans]
    with open_engine(arguments) as engine:
        search = Search(fits, options, over, engine)
        out = arguments.out or cache_folder() / "tuning" / f"{search.name}.json"
        search.run(arguments.minutes, out)
    print(out.read_text(), end="")
    return 0


def _searched_settings(named: list[str] | None, plan: RunPlan, options: dict[str, Any]) -> list[str]:
    """Return the settings to search over.

    Raises:
        BadRequest: if a named setting cannot be searched over, or there is none.
    """
    takes = plan.strategy.takes
    for name in named or ():
        if name not in SEARCHABLE:
            raise BadRequest(f"{name!r} cannot be searched over; these can: {', '.join(SEARCHABLE)}.")
        if name not in takes:
            raise BadRequest(f"{plan.strategy.name} does not take {name}; choose among {', '.join(takes)}.")
        if name in options:
            raise BadRequest(f"{name} is both fixed and searched over; leave one out.")
    over = named or [name for name in SEARCHED_BY_DEFAULT if name in takes and name not in options]
    if unset := [name for name in over if name in FACTORS and not getattr(plan.settings, name)]:
        raise BadRequest(f"{unset[0]} is 0, so there is no value to search around; set it or leave it out.")
    if not over:
        raise BadRequest(f"{plan.strategy.name} has no setting to search over.")
    return over


class Search:
    """A search for settings that continues where it stopped.

    Args:
        fits: plans of several seeds, with the labeled images of their subsets.
        options: fixed settings.
        over: settings that are searched over.
        engine: evaluates them, as many at a time as it has room for.
    """

    def __init__(
        self, fits: list[tuple[RunPlan, FitData]], options: dict[str, Any], over: list[str], engine: Engine
    ) -> None:
        self._fits, self._options, self._over, self._engine = fits, options, over, engine
        self._default = fits[0][0].settings
        parts = [asdict(plan.cell) | {"subset": plan.setup.subset_hash} for plan, _ in fits]
        key = sha256_of([canonical_json([parts, over, asdict(self._default)])])
        cell = fits[0][0].cell
        self.name = f"{cell.model}-{cell.strategy}-n{cell.train_size or 'full'}-{key[:8]}"

    def run(self, minutes: float, out: Path) -> None:
        """Try settings for some minutes, the defaults first, and write the best after each trial.

        Raises:
            BadRequest: if no trial could be evaluated.
        """
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        # Open the study, or continue it: the journal keeps every trial
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal = cache_folder() / "tuning" / f"{self.name}.journal"
        journal.parent.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        study = optuna.create_study(
            study_name=self.name, storage=storage, load_if_exists=True, direction="minimize",
            sampler=optuna.samplers.TPESampler(seed=0),
        )  # fmt: skip
        before = len(study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=before)  # with the same seed it would repeat its suggestions
        if before:
            print_status(f"continuing after {before} trials")
        else:
            study.enqueue_trial({name: getattr(self._default, name) for name in self._over}, skip_if_exists=True)

        # Ask for settings while there is time, and tell the study the loss of each; refused settings count as pruned
        start, seconds = time.monotonic(), 60 * minutes
        with progress_bar("tuning", "percent") as show:

            def tasks() -> Iterator[Task]:
                while (spent := time.monotonic() - start) < seconds:
                    show(round(100 * spent / seconds), 100)
                    yield self._task(study.ask())
                show(100, 100)

            for task, outcome in self._engine.run(tasks(), self._engine.parallel):
                if isinstance(outcome, LowshotError):
                    task.key.set_user_attr("refused", str(outcome))
                    study.tell(task.key, state=optuna.trial.TrialState.PRUNED)
                else:
                    study.tell(task.key, outcome)
                self._write(study, out)

        # Compare the best settings with the defaults, which are the first trial
        if not _has_value(study):
            raise BadRequest(f"No settings could be evaluated: {study.trials[0].user_attrs.get('refused')}")
        value = study.trials[0].value
        default = "none: they could not be evaluated" if value is None else f"{value:.4f}"
        print_status(f"{len(study.trials)} trials; the best has {study.best_value:.4f}, the default settings {default}")
        print_status(f"written: {out}; use it with --settings {out}")

    def _task(self, trial: Trial) -> Task:
        """Suggest settings and return the task of evaluating them."""
        suggested = {name: _suggest(trial, name, getattr(self._default, name)) for name in self._over}
        plan, data = self._fits[0]
        title, options = f"trial {trial.number + 1}", {**self._options, **suggested}
        try:
            settings = settings_for(plan.defaults, plan.strategy, options, data.labels, data.classes)
        except BadRequest as error:
            return Task(trial, title, held_out_loss, known=error)
        return Task(trial, title, held_out_loss, (self._fits,), (settings,), partial(files_of_fit, plan))

    def _write(self, study: Study, out: Path) -> None:
        if not _has_value(study):
            return
        plan, _ = self._fits[0]
        record = {
            "dataset": plan.setup.dataset, "model": plan.spec.name, "strategy": plan.strategy.name,
            "train_size": plan.cell.train_size, "seeds": [plan.cell.seed for plan, _ in self._fits],
            "subsets": [plan.setup.subset_hash for plan, _ in self._fits], "by": BY, "over": self._over,
            "settings": {**self._options, **study.best_params}, "value": study.best_value,
            "usual_value": study.trials[0].value, "trials": len(study.trials),
        }  # fmt: skip
        write_atomically(out, (json.dumps(record, indent=1) + "\n").encode())


def _suggest(trial: Trial, name: str, default: Any) -> Any:
    """Suggest a value of a setting for a trial."""
    if name in FACTORS:
        return trial.suggest_float(name, default / FACTORS[name], default * FACTORS[name], log=True)
    if name in RANGES:
        low, high = RANGES[name]
        return trial.suggest_float(name, min(low, default), max(high, default))
    return trial.suggest_categorical(name, list(dict.fromkeys((default, *CHOICES[name]))))


def _has_value(study: Study) -> bool:
    """Return whether a trial could be evaluated."""
    return any(trial.value is not None for trial in study.trials)
