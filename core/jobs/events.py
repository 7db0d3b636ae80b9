"""Progress events of a training: JSON lines in a file, appended by the trainer and read by any follower.

Every line has `time` (seconds since 1970) and `kind`: `begin` and `bar` (title, unit, done, total), `epoch` (a row of
the training curve), `run` (one finished run), `say` (a message for people) and `end` (exit code and, on failure, the
reason).
"""

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VARIABLE = "LOWSHOT_PROGRESS"
RUNS, STEPS = "run", "step"  # units of the bar over runs and of the bar of one run
EXIT_DISK_FULL = os.EX_IOERR  # exit code of a trainer that could not write its reason because the disk was full
_TEXTS = 200


def append(path: Path, kind: str, **facts: Any) -> None:
    """Append a line in one write, so that lines of two writers never mix.

    A line that cannot be written is lost: reporting progress must never stop a training.
    """
    line = json.dumps({"time": round(time.time(), 2), "kind": kind, **facts}) + "\n"
    with suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)


def read(path: Path) -> list[dict[str, Any]]:
    """Return all complete lines; a truncated last line and anything that is not an event are skipped."""
    try:
        content = path.read_bytes()
    except OSError:
        return []
    events = []
    for line in content.splitlines():
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and isinstance(event.get("kind"), str):
                events.append(event)
    return events


@dataclass
class Progress:
    """Progress of a training.

    Attributes:
        doing: title of the current step.
        unit, done, total: progress of that step.
        runs_done, runs_total: progress of the whole job; 0 of 0 before the first run.
        title: title of the current run.
        epochs: its training curve so far.
        runs: the finished runs, in order.
        untrained: indices of the runs that took no time, because they were in the store or were left out.
        trained: indices of the other finished runs.
        texts: the latest messages, with their time.
        code, why: exit code and reason as reported by the process; None before the end.
        last: time of the last line.
    """

    doing: str = ""
    unit: str = ""
    done: int = 0
    total: int = 0
    runs_done: int = 0
    runs_total: int = 0
    title: str = ""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    untrained: set[int] = field(default_factory=set)
    trained: set[int] = field(default_factory=set)
    texts: list[tuple[float, str]] = field(default_factory=list)
    code: int | None = None
    why: str = ""
    last: float = 0.0

    @property
    def kept(self) -> int:
        """Number of finished runs that are in the store."""
        return sum(not run.get("failed") for run in self.runs)

    @property
    def of_run(self) -> float:
        """Finished share of the current run."""
        return self.done / self.total if self.unit == STEPS and self.total and self.doing == self.title else 0.0


def progress_of(events: Iterable[dict[str, Any]]) -> Progress:
    """Compute the progress of a training from its events."""
    progress = Progress()
    for event in events:
        progress.last = event.get("time", progress.last)
        kind = event["kind"]
        if kind in ("begin", "bar"):
            _bar(progress, kind, event)
        elif kind == "epoch":
            if progress.epochs and event["epoch"] <= progress.epochs[-1]["epoch"]:  # the next fold begins
                progress.epochs = []
            progress.epochs.append(event)
        elif kind == "run":
            progress.runs.append(event)
            indices = progress.trained if event.get("trained", True) else progress.untrained
            indices.add(progress.runs_done)  # the bar over runs points at the run until its event arrives
            progress.texts.append((progress.last, _sentence(event)))
        elif kind == "say":
            progress.texts.append((progress.last, str(event.get("text", ""))))
        elif kind == "end":
            progress.code, progress.why = event.get("code"), str(event.get("why", ""))
    progress.texts = progress.texts[-_TEXTS:]
    return progress


def _bar(progress: Progress, kind: str, event: dict[str, Any]) -> None:
    title, unit = str(event.get("title", "")), event.get("unit")
    if unit == RUNS:
        before, progress.runs_done = progress.runs_done, event.get("done", 0)
        progress.runs_total = event.get("total", progress.runs_total)
        # runs that were left out have no event
        progress.untrained |= set(range(before, progress.runs_done)) - progress.trained
        return
    if kind == "begin" and unit == STEPS:
        progress.title, progress.epochs = title, []
    progress.doing, progress.unit = title, str(unit)
    progress.done, progress.total = event.get("done", 0), event.get("total", 0)


def _sentence(run: dict[str, Any]) -> str:
    if run.get("failed"):
        return f"{run.get('title')}: training failed: {run['failed']}"
    figures = ", ".join(f"{name} {value:.3f}" for name, value in run.get("metrics", {}).items())
    return f"{run.get('title')}: {'trained' if run.get('trained') else 'already in the store'}; {figures}"
