"""Where trainings run: an engine carries out tasks, either in this process or, in `ray_engine`, on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from core.errors import LowshotError
from trainer.progress import progress_bar

AT_ONCE = 500  # maximum number of waiting tasks, as each keeps a lock file open; a cluster scales with their number


class File(NamedTuple):
    """A file that a task reads: the variable that names its folder, its name below that folder, and where it is."""

    variable: str
    name: str
    path: Path


@dataclass(frozen=True)
class Task:
    """A computation for an engine.

    Attributes:
        key: value by which the caller recognizes the task.
        title: short description for progress lines.
        function: called with the shared and the other arguments, the device and a function of (done, total).
        shared: arguments that many tasks have in common, such as a data set.
        arguments: the other arguments. A stored run among them, or as the result, travels with its files.
        files: returns the files that it reads, for workers that lack them.
        embeddings: tasks whose results are embeddings that a worker first puts into its cache. A single process does
            not need them, as it computes each embedding once.
        known: its outcome, if it is already known.
    """

    key: Any
    title: str
    function: Callable[..., Any]
    shared: tuple[Any, ...] = ()
    arguments: tuple[Any, ...] = ()
    files: Callable[[], Iterable[File]] = tuple
    embeddings: tuple[Task, ...] = ()
    known: Any = None


class Engine(Protocol):
    """Carries out tasks.

    Attributes:
        parallel: number of tasks that it carries out at the same time.
    """

    parallel: int

    def run(self, tasks: Iterable[Task], at_once: int = AT_ONCE) -> Iterator[tuple[Task, Any]]:
        """Yield each task and its outcome, a result or a `LowshotError`, as they finish.

        Args:
            tasks: the tasks; the next one is requested when there is room for it.
            at_once: number of tasks that may be requested before the first has finished.
        """


class LocalEngine:
    """Carries out tasks in this process, one after the other.

    Args:
        device: device to run on.
    """

    parallel = 1

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def run(self, tasks: Iterable[Task], at_once: int = AT_ONCE) -> Iterator[tuple[Task, Any]]:
        """Yield each task and its outcome, in their order."""
        for task in tasks:
            yield task, self._outcome(task)

    def _outcome(self, task: Task) -> Any:
        if task.known is not None:
            return task.known
        try:
            with progress_bar(task.title, "step") as steps:
                return task.function(*task.shared, *task.arguments, self._device, steps)
        except LowshotError as error:
            return error


def result_of(engine: Engine, task: Task) -> Any:
    """Return the result of a single task, or raise its error."""
    ((_, outcome),) = engine.run([task])
    if isinstance(outcome, LowshotError):
        raise outcome
    return outcome
