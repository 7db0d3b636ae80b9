"""What a training tells while it runs: JSON lines in a file, appended by the trainer and read by whoever follows it.

Every line has `time` (seconds since 1970) and `kind`:
`begin` and `bar` (title, unit, done, total), `epoch` (a row of the training curve), `run` (one finished run), `say` (a
sentence for people) and `end` (exit code and, where it failed, why).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VARIABLE = "LOWSHOT_PROGRESS"
RUNS, STEPS = "run", "step"  # units of the bar over runs and of the bar of one run
FULL = os.EX_IOERR  # exit code of a trainer that met a full disk, on which it could not write why it ended
_TEXTS = 200


def append(path: Path, kind: str, **facts: Any) -> None:
    """Adds a line in one write, so that a reader never sees lines of two writers mixed.

    A line that cannot be written is lost: following a training must never end it.
    """
    line = json.dumps({"time": round(time.time(), 2), "kind": kind, **facts}) + "\n"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError:
        return
    try:
        os.write(handle, line.encode())
    except OSError:
        return
    finally:
        os.close(handle)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last one that is cut off is left out, and so is what is no event."""
    try:
        content = path.read_bytes()
    except OSError:
        return []
    found = []
    for line in content.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("kind"), str):
            found.append(event)
    return found


@dataclass
class Followed:
    """Where a training is.

    Attributes:
        doing: title of what is under way.
        unit, done, total: how far that is.
        runs_done, runs_total: how far the whole is; 0 of 0 before the first run.
        title: of the run under way.
        epochs: its training curve so far.
        runs: the finished runs, in order.
        untrained: places, among all runs of the job, of those that took no time: from the store, or left out.
        trained: places of the others that are finished.
        texts: what was said, the last of it, with the time.
        code, why: how it ended by its own word; None while it has not.
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
        """Finished runs that are in the store."""
        return sum(not run.get("failed") for run in self.runs)

    @property
    def of_run(self) -> float:
        """Share of the run under way that is done."""
        return self.done / self.total if self.unit == STEPS and self.total and self.doing == self.title else 0.0


def follow(events: Iterable[dict[str, Any]]) -> Followed:
    """Where a training is by its events."""
    found = Followed()
    for event in events:
        found.last = event.get("time", found.last)
        kind = event["kind"]
        if kind in ("begin", "bar"):
            _bar(found, kind, event)
        elif kind == "epoch":
            if found.epochs and event["epoch"] <= found.epochs[-1]["epoch"]:  # the next fold begins
                found.epochs = []
            found.epochs.append(event)
        elif kind == "run":
            found.runs.append(event)
            places = found.trained if event.get("trained", True) else found.untrained
            places.add(found.runs_done)  # the bar over runs stands at the run until it is told
            found.texts.append((found.last, _sentence(event)))
        elif kind == "say":
            found.texts.append((found.last, str(event.get("text", ""))))
        elif kind == "end":
            found.code, found.why = event.get("code"), str(event.get("why", ""))
    found.texts = found.texts[-_TEXTS:]
    return found


def _bar(found: Followed, kind: str, event: dict[str, Any]) -> None:
    title, unit = str(event.get("title", "")), event.get("unit")
    if unit == RUNS:
        before, found.runs_done = found.runs_done, event.get("done", 0)
        found.runs_total = event.get("total", found.runs_total)
        found.untrained |= set(range(before, found.runs_done)) - found.trained  # of what was left out no run is told
        return
    if kind == "begin" and unit == STEPS:
        found.title, found.epochs = title, []
    found.doing, found.unit = title, str(unit)
    found.done, found.total = event.get("done", 0), event.get("total", 0)


def _sentence(run: dict[str, Any]) -> str:
    if run.get("failed"):
        return f"{run.get('title')}: its training failed: {run['failed']}"
    figures = ", ".join(f"{name} {value:.3f}" for name, value in run.get("metrics", {}).items())
    return f"{run.get('title')}: {'trained' if run.get('trained') else 'was in the store'}; {figures}"
