"""The command `tune`: settings that do best on held-out images of the subset, found within a budget of minutes.

What is tried sees the labelled images of the subset only, as every training does: the test set stays shut. The search
goes on where it stopped, and its result is a file that `run`, `curve` and `ablate` take as `--settings`.

References:
    Optuna: Akiba et al. 2019, arXiv:1907.10902, with its tree-structured Parzen estimator.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core.errors import BadRequest
from core.files import canonical_json, sha256_of, write_atomically
from core.metrics.calibration import fit_temperature, negative_log_likelihood
from core.paths import cache_folder, pick_device
from trainer.commands.run import bank_of, dataset_of
from trainer.flags import add_data, add_settings, add_training, minutes, names, seeds, sizes
from trainer.flags import asked as asked_of
from trainer.progress import print_status, progress_bar
from trainer.training.run_cell import fit_data, train
from trainer.training.run_plan import RunPlan, plan_run, settings_for, settings_of
from trainer.training.settings import Cell, FitContext, FitData, Settings

if TYPE_CHECKING:
    from optuna import Study, Trial

BY = "mean negative log-likelihood of held-out images inside the subset, at their best temperature"


@dataclass(frozen=True)
class Space:
    """What values a setting is searched over.

    Attributes:
        factor: numbers from the usual value divided by it to the usual value times it.
        between: numbers between two.
        choices: any of these.
    """

    factor: float = 0.0
    between: tuple[float, float] | None = None
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Trial, name: str, usual: Any) -> Any:
        """Takes a value for a trial; the usual one is always among those that can come."""
        if self.factor:
            return trial.suggest_float(name, usual / self.factor, usual * self.factor, log=True)
        if self.between:
            low, high = self.between
            return trial.suggest_float(name, min(low, usual), max(high, usual))
        return trial.suggest_categorical(name, list(dict.fromkeys((usual, *self.choices))))


SPACES: dict[str, Space] = {
    "lr": Space(factor=10),
    "weight_decay": Space(factor=30),
    "label_smoothing": Space(between=(0.0, 0.3)),
    "batch_size": Space(choices=(8, 16, 32, 64)),
    "augment": Space(choices=("none", "mild", "aggressive")),
    "average": Space(choices=(0.0, 0.9, 0.98, 0.995)),
    "layer_decay": Space(between=(0.5, 1.0)),
    "schedule": Space(choices=("one-cycle", "cosine", "constant")),
    "loss": Space(choices=("", "focal")),
    "depth": Space(choices=(1, 2, 3)),
    "inner_lr": Space(factor=10),
    "adapt_steps": Space(choices=(5, 10, 20)),
    "outer_lr": Space(factor=10),
}
USUAL = ("lr", "weight_decay", "label_smoothing", "augment", "layer_decay", "inner_lr", "adapt_steps")


def held_out_loss(
    cells: list[tuple[RunPlan, FitData]], settings: Settings, device: torch.device, report: Callable[[], None]
) -> float:
    """How bad settings are: the mean over the cells of what their held-out images say.

    Args:
        cells: prepared cells of several seeds, with the labelled images of their subsets.
        settings: to be judged.
        device: where it runs.
        report: called after each cell.
    Raises:
        BadRequest: if a training diverged, or held nothing out.
    """
    found = []
    for prepared, data in cells:
        _, fitted = train(prepared, data, settings, FitContext(prepared.cell.seed, device))
        if fitted.failed:
            raise BadRequest(fitted.failed)
        labels = data.labels[fitted.held_out]
        found.append(negative_log_likelihood(fitted.logits, labels, fit_temperature(fitted.logits, labels)))
        report()
    return float(np.mean(found))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_data(parser)
    parser.add_argument("--model", required=True)
    parser.add_argument("--strategy", required=True)
    parser.add_argument("--size", type=sizes, required=True, help="labelled images a class, or full")
    parser.add_argument("--seeds", type=seeds, default=[0], help="subsets on which settings are evaluated (default: 0)")
    parser.add_argument("--minutes", type=minutes, default=10.0, help="(default: 10); the same command goes on later")
    parser.add_argument("--over", type=names, default=None, help="settings joined by commas (default: the strategy's)")
    parser.add_argument("--out", type=Path, default=None, help="file for the result, which --settings takes")
    add_training(parser)
    add_settings(parser)
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """`tune`."""
    if len(arguments.size) != 1:
        raise BadRequest("tune takes one size; settings that suit one may not suit another.")
    dataset, options = dataset_of(arguments), asked_of(arguments)
    cells = [
        plan_run(
            Cell(dataset.spec.name, arguments.model, arguments.strategy, arguments.size[0], seed), dataset, options
        )
        for seed in arguments.seeds
    ]
    over = _over(arguments.over, cells[0], options)
    bank = bank_of(cells[0], dataset)
    fits = [(prepared, fit_data(prepared, dataset, bank)) for prepared in cells]
    search = Search(fits, options, over, pick_device(arguments.device))
    out = arguments.out or cache_folder() / "tuning" / f"{search.name}.json"
    search.run(arguments.minutes, out)
    print(out.read_text(), end="")
    return 0


def _over(named: list[str] | None, prepared: RunPlan, options: dict[str, Any]) -> list[str]:
    """The settings that are searched over."""
    takes, usual = prepared.strategy.takes, prepared.settings
    for name in named or ():
        if name not in SPACES:
            raise BadRequest(f"{name!r} cannot be searched over; these can: {', '.join(SPACES)}.")
        if name not in takes:
            raise BadRequest(f"{prepared.strategy.name} does not take {name}; choose among {', '.join(takes)}.")
        if name in options:
            raise BadRequest(f"{name} is stated and searched over; leave one out.")
    found = named or [name for name in USUAL if name in takes and name not in options]
    if unset := [name for name in found if SPACES[name].factor and not getattr(usual, name)]:
        raise BadRequest(f"{unset[0]} is 0 here, so that there is no value to search around; state it or leave it out.")
    if not found:
        raise BadRequest(f"{prepared.strategy.name} has no setting to search over.")
    return found


class Search:
    """A search for settings that goes on where it stopped.

    Args:
        fits: prepared cells of several seeds, with the labelled images of their subsets.
        options: what is stated and not searched over.
        over: settings that are searched over.
        device: where trainings run.
    """

    def __init__(
        self, fits: list[tuple[RunPlan, FitData]], options: dict[str, Any], over: list[str], device: torch.device
    ) -> None:
        self._fits, self._options, self._over, self._device = fits, options, over, device
        first = fits[0][0]
        self._usual = first.settings
        parts = [asdict(prepared.cell) | {"subset": prepared.meta.subset_hash} for prepared, _ in fits]
        key = sha256_of([canonical_json([parts, over, asdict(self._usual)])])
        cell = first.cell
        self.name = f"{cell.model}-{cell.strategy}-n{cell.train_size or 'full'}-{key[:8]}"

    def run(self, minutes: float, out: Path) -> None:
        """Tries settings for some minutes, the usual ones first, and writes the best after each trial.

        Raises:
            BadRequest: if none of them could be judged.
        """
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal = cache_folder() / "tuning" / f"{self.name}.journal"
        journal.parent.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        study = optuna.create_study(
            study_name=self.name, storage=storage, load_if_exists=True, direction="minimize",
            sampler=optuna.samplers.TPESampler(seed=0),
        )  # fmt: skip
        before = len(study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=before)  # else it would draw again what it drew before
        if before:
            print_status(f"going on after {before} trials")
        else:
            study.enqueue_trial({name: getattr(self._usual, name) for name in self._over}, skip_if_exists=True)
        began = time.monotonic()
        with progress_bar("tuning", "training") as show:

            def watch() -> None:
                share = min(1.0, (time.monotonic() - began) / (60 * minutes))
                show(round(100 * share), 100)

            study.optimize(
                lambda trial: self._judge(trial, watch),
                timeout=60 * minutes,
                callbacks=[lambda study, _: self._write(study, out)],
            )
        if not _judged(study):
            raise BadRequest(f"No settings could be judged: {study.trials[0].user_attrs.get('refused')}")
        usual = self._of_usual(study)
        theirs = "none: they could not be judged" if usual is None else f"{usual:.4f}"
        print_status(f"{len(study.trials)} trials; the best has {study.best_value:.4f}, the usual settings {theirs}")
        print_status(f"written: {out}; use it with --settings {out}")

    def _judge(self, trial: Trial, watch: Callable[[], None]) -> float:
        import optuna

        usual = self._usual
        tried = {name: SPACES[name].suggest(trial, name, getattr(usual, name)) for name in self._over}
        prepared, data = self._fits[0]
        try:
            settings = settings_for(
                settings_of(prepared.spec, prepared.strategy, prepared.meta.per_class), prepared.strategy,
                {**self._options, **tried},
                data.labels, data.groups, data.classes,
            )  # fmt: skip
            return held_out_loss(self._fits, settings, self._device, watch)
        except BadRequest as error:
            trial.set_user_attr("refused", str(error))
            raise optuna.TrialPruned from None

    def _write(self, study: Study, out: Path) -> None:
        if not _judged(study):
            return
        prepared, _ = self._fits[0]
        record = {
            "dataset": prepared.meta.dataset, "model": prepared.spec.name, "strategy": prepared.strategy.name,
            "train_size": prepared.cell.train_size, "seeds": [one.cell.seed for one, _ in self._fits],
            "subsets": [one.meta.subset_hash for one, _ in self._fits], "by": BY, "over": self._over,
            "settings": {**self._options, **study.best_params}, "value": study.best_value,
            "usual_value": self._of_usual(study), "trials": len(study.trials),
        }  # fmt: skip
        write_atomically(out, (json.dumps(record, indent=1) + "\n").encode())

    @staticmethod
    def _of_usual(study: Study) -> float | None:
        return study.trials[0].value


def _judged(study: Study) -> bool:
    return any(trial.value is not None for trial in study.trials)
