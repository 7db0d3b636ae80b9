"""Sweeps: the data set, the pairs of model and strategy that can be trained on it, and the missing runs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout

from core.data.dataset import Dataset, load_dataset
from core.data.image_cache import Progress
from core.data.specs import DatasetSpec
from core.errors import BadRequest, CorruptRun, LowshotError, WeightsUnavailable
from core.files import locked
from core.metrics import METRICS
from core.models import MODELS
from core.models.weights import weights_of
from core.paths import runs_folder
from core.runs import Run, RunMeta, read_run
from trainer.progress import locked_in_turn, print_status, progress_bar, write_event
from trainer.training.added_predictions import complete_external
from trainer.training.engines import Engine, Task
from trainer.training.external import missing_external_sets, with_exposures
from trainer.training.run_cell import Keep, resolve_keep, run_cell
from trainer.training.run_files import files_of_run
from trainer.training.run_plan import RunPlan, incompatibility, plan_run
from trainer.training.settings import Cell
from trainer.training.shared_embeddings import SharedEmbeddings
from trainer.training.strategies import STRATEGIES

Pair = tuple[str, str]  # model and strategy


@dataclass(frozen=True)
class RunRequest:
    """A cell with the settings that differ from its strategy's defaults."""

    cell: Cell
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Short description for progress lines."""
        stated = ", ".join(f"{name} {value}" for name, value in self.options.items() if value)
        return f"{self.cell.title} {stated}".strip()


def load_for_training(spec: DatasetSpec, allow_leaks: bool = False) -> Dataset:
    """Load a data set and print what a user should know about it.

    Raises:
        BadRequest: if the data set is for pretraining only.
    """
    if spec.corpus_only:
        raise BadRequest(f"{spec.name} is for pretraining only: {spec.corpus_only}.")
    with progress_bar(f"{spec.name}: reading") as show:
        dataset = load_dataset(spec, show, allow_leaks)
    for name, why in dataset.unreadable.items():
        print_status(f"{spec.name}: left out: {name}: {why}")
    for note in dataset.parts.notes:
        print_status(f"{spec.name}: {note}")
    if spec.positive is not None:
        print_status(f"{spec.name}: the positive class is {dataset.labels[spec.positive]!r}")
    return dataset


def compatible_pairs(models: Sequence[str] | None, strategies: Sequence[str]) -> list[Pair]:
    """Return the compatible pairs of model and strategy; print each named model and each strategy that has none.

    Args:
        models: names of models; None for all.
        strategies: names of strategies.
    Raises:
        BadRequest: if there is no such pair.
    """
    pairs = [
        (model, strategy)
        for model, strategy in product(models or MODELS, strategies)
        if not STRATEGIES[strategy].incompatibility(MODELS[model])
    ]
    if not pairs:
        raise BadRequest("None of these models supports any of these strategies; see python -m trainer list.")
    for name in [*(models or ()), *strategies]:
        if not any(name in pair for pair in pairs):
            others = "strategies" if name in MODELS else "models"
            print_status(f"skipped: {name} supports none of these {others}")
    return pairs


def available_pairs(pairs: Sequence[Pair], dataset: Dataset, all_models: bool = False) -> list[Pair]:
    """Return the pairs whose model takes the images and whose weights are installed; print each model left out.

    Args:
        pairs: compatible models and strategies.
        dataset: the data set to train on.
        all_models: whether all models are meant; those that take no such images are then left out silently.
    Raises:
        BadRequest: if no pair is left.
    """
    left_out = {}
    for model in dict.fromkeys(model for model, _ in pairs):
        if why := incompatibility(MODELS[model], dataset):
            left_out[model] = "" if all_models else why
            continue
        try:
            weights_of(MODELS[model], dataset.spec.name)
        except WeightsUnavailable as error:
            left_out[model] = str(error)
    for model, why in left_out.items():
        if why:
            print_status(f"left out: {model}: {why}")
    available = [pair for pair in pairs if pair[0] not in left_out]
    if not available:
        raise BadRequest(
            f"None of these models can be trained on {dataset.spec.name} here; see python -m trainer list."
        )
    return available


def run_sweep(
    requests: Sequence[RunRequest],
    dataset: Dataset,
    engine: Engine,
    title: str,
    failures: dict[Pair, str],
    keep_weights: Keep = "none",
    add_external: bool = False,
) -> Iterator[tuple[int, Path, RunMeta]]:
    """Train the runs that the store lacks and yield all: position in the requests, folder and record.

    A run whose training failed is printed and left out. Runs that another process is training come last; the sweep
    waits for them.

    Args:
        requests: the runs, in the order in which they are begun.
        dataset: their data set.
        engine: trains them.
        title: title of the progress bar.
        failures: receives the pairs of model and strategy that could not continue, with the reason. Their remaining
            runs are not begun.
        keep_weights: which runs keep their weights.
        add_external: whether to evaluate stored runs on the external test sets that they lack.
    """
    sweep = _Sweep(requests, dataset, failures, keep_weights, add_external)
    waiting: Sequence[int] = range(len(requests))
    with progress_bar(title, "run") as show, sweep.locks:
        show(0, len(requests))
        while waiting:
            for task, outcome in engine.run(sweep.tasks(waiting)):
                is_new = sweep.finish(task)
                for index in task.key:
                    show(len(sweep.settled), len(requests))  # the bar points at the run until its event arrives
                    sweep.settled.add(index)
                    if _report(requests[index], outcome, is_new and index == task.key[0], failures):
                        yield index, *outcome
                show(len(sweep.settled), len(requests))
            waiting, sweep.busy = sweep.busy, []
            if waiting:
                first = requests[waiting[0]]
                others = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
                with locked_in_turn(folder_of(plan_run(first.cell, dataset, first.options)), first.title + others):
                    pass
        show(len(requests), len(requests))


@dataclass
class _Sweep:
    """State of a sweep; the first attributes are the arguments of `run_sweep`.

    Attributes:
        begun: name of a run under way -> the requests for it, and its lock.
        settled: requests that are trained, read from the store or left out.
        busy: requests for runs that another process trains.
        locks: releases the locks of the runs under way at the end.
    """

    requests: Sequence[RunRequest]
    dataset: Dataset
    failures: dict[Pair, str]
    keep_weights: Keep
    add_external: bool
    begun: dict[str, tuple[list[int], ExitStack]] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    busy: list[int] = field(default_factory=list)
    locks: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self._shared = SharedEmbeddings(self.dataset)
        self._seeds = sorted({row.cell.seed for row in self.requests})
        self._sizes = [row.cell.train_size for row in self.requests]

    def tasks(self, waiting: Sequence[int]) -> Iterator[Task]:
        """Yield the tasks of requests; the run of each is locked until it is finished."""
        for index in waiting:
            request = self.requests[index]
            if _pair(request) in self.failures:
                self.settled.add(index)
                continue
            try:
                plan = plan_run(request.cell, self.dataset, request.options)
                if plan.setup.run in self.begun:
                    self.begun[plan.setup.run][0].append(index)
                    continue
                yield self._task(index, plan)
            except Timeout:
                self.busy.append(index)
            except LowshotError as error:
                yield Task([index], request.title, _train, known=error)

    def _task(self, index: int, plan: RunPlan) -> Task:
        title, run = self.requests[index].title, stored_run(plan)
        with ExitStack() as lock:
            if not self._is_complete(run):
                lock.enter_context(locked(folder_of(plan), timeout=0))
                run = stored_run(plan)  # the process that held the lock may have stored it
            if self._is_complete(run):
                return Task([index], title, _train, known=run)
            plan = with_exposures(plan, self.dataset)
            keep = resolve_keep(self.keep_weights, plan, self._seeds, self._sizes)
            embeddings = self._shared.tasks_for(plan) if run is None else ()
            key = [index]
            self.begun[plan.setup.run] = key, self.locks.enter_context(lock.pop_all())
        files = partial(files_of_run, plan, self.dataset)
        return Task(key, title, _train, (self.dataset,), (plan, keep, run), files, embeddings)

    def _is_complete(self, run: Run | None) -> bool:
        return run is not None and not (self.add_external and missing_external_sets(run.meta, self.dataset))

    def finish(self, task: Task) -> bool:
        """Release the lock of a task's run; return whether the task has trained it."""
        if task.known is not None:
            return False
        plan, _, before = task.arguments
        self.begun.pop(plan.setup.run)[1].close()
        return before is None


def folder_of(plan: RunPlan) -> Path:
    """Return the folder of a run in the store, whether it is there or not."""
    return runs_folder() / plan.setup.dataset / plan.setup.run


def stored_run(plan: RunPlan) -> Run | None:
    """Return a run from the store, even if its training failed; None if there is none, or a damaged one."""
    try:
        return Run(folder_of(plan), read_run(folder_of(plan)))
    except CorruptRun:
        return None


def _pair(request: RunRequest) -> Pair:
    return request.cell.model, request.cell.strategy


def _train(
    dataset: Dataset, plan: RunPlan, keep: Keep, stored: Run | None, device: torch.device, steps: Progress
) -> Run:
    """Train and store a run, or evaluate a stored one on the external test sets that it lacks."""
    if stored is not None:
        return complete_external(stored, plan, dataset, device, steps)
    return Run(*run_cell(plan, dataset, keep, device, progress=steps))


def _report(request: RunRequest, outcome: Run | LowshotError, is_new: bool, failures: dict[Pair, str]) -> bool:
    """Report a run to people and to a program that follows the progress; return whether it is a valid run."""
    if isinstance(outcome, LowshotError):
        if _pair(request) not in failures:
            failures[_pair(request)] = f"{request.title}: {outcome}"
            print_status(f"stopped: {request.title}: {outcome} Its remaining runs are left out.")
        return False
    meta = outcome.meta
    metrics = {METRICS[name].title: round(meta.metrics[name], 4) for name in ("auroc", "balanced_accuracy")}
    write_event(
        "run", title=request.title, run=meta.run, trained=is_new, seconds=meta.seconds, failed=meta.failed,
        metrics=metrics, model=meta.model, strategy=meta.strategy, train_size=meta.train_size, seed=meta.seed,
    )  # fmt: skip
    if meta.failed:
        print_status(f"failed: {request.title}: {meta.failed}")
    return not meta.failed
