"""The process that runs jobs, one at a time, until none waits: `python -m core.jobs.worker FOLDER`.

It is started by the app and outlives it. A lock that the system takes from a dead process keeps it the only one. What a
worker that was killed left running is taken over by the next.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from core.errors import BadRequest
from core.jobs import events, records
from core.jobs.records import Job, State
from core.paths import PROJECT

_WAIT = 3.0  # seconds for a worker that is just leaving
_POLL = 0.2
GRACE = 20.0  # seconds for a training to end by itself before it is killed
_NICE = 5  # the app comes first


def work(jobs: Path) -> None:
    """Settles what others left, then runs what waits, the oldest first."""
    for job in _with_status(jobs, "running"):
        _finish(job, partial(_unseen, job.state))
    while waiting := _with_status(jobs, "queued"):
        _run(waiting[0])


def _unseen(state: State) -> tuple[None] | None:
    """The end of a process of somebody else: its exit code cannot be known."""
    return None if records.is_alive(state) else (None,)


def _with_status(jobs: Path, status: str) -> list[Job]:
    found = []
    for folder in records.folders_of(jobs):
        try:
            job = records.stored(folder)
        except BadRequest:
            continue
        if job.state.status == status:
            found.append(job)
    return found


def _run(job: Job) -> None:
    if job.stopping:
        records.write_state(job, replace(job.state, status="cancelled", ended=time.time()))
        return
    try:
        job.request.check()  # its own images were there when it was asked for
        job, process = _start(job)
    except (BadRequest, OSError) as error:
        why = str(error) if isinstance(error, BadRequest) else f"It could not be started: {error.strerror or error}."
        records.write_state(job, replace(job.state, status="failed", ended=time.time(), why=why))
        return

    def poll() -> tuple[int] | None:
        code = process.poll()
        return None if code is None else (code,)

    _finish(job, poll)


def _start(job: Job) -> tuple[Job, subprocess.Popen[bytes]]:
    """Starts the training of a job.

    Raises:
        OSError: if it cannot be started or noted; then nothing runs.
    """
    records.write_state(job, State("running", began=time.time()))  # a full disk is met before anything runs
    environment = {**os.environ, events.VARIABLE: str(job.folder / records.PROGRESS)}
    with (job.folder / records.LOG).open("ab") as log:
        process = subprocess.Popen(
            job.request.argv(), cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        seen = psutil.Process(process.pid)
        job = records.write_state(job, State("running", process.pid, seen.create_time(), time.time()))
    except BaseException:  # what nobody could follow or end must not run
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    with suppress(psutil.Error):
        seen.nice(_NICE)
    return job, process


def _finish(job: Job, poll: Callable[[], tuple[int | None] | None]) -> None:
    """Waits for a training, ends it if it is asked to, and notes how it ended.

    Args:
        job: under way.
        poll: gives the exit code, None if nobody can know it, in a tuple once the process is gone.
    """
    asked = 0.0
    while (gone := poll()) is None:
        if (job.folder / records.STOP).exists():
            if not asked:
                asked = time.monotonic()
                _signal(job.state, signal.SIGTERM)
            elif time.monotonic() - asked > GRACE:
                _signal(job.state, signal.SIGKILL)
        time.sleep(_POLL)
    job = replace(job, stopping=(job.folder / records.STOP).exists())
    records.write_state(job, records.ended(job, gone[0], time.time()))


def _signal(state: State, number: signal.Signals) -> None:
    """Signals a training and the processes that it started, if it is still the same."""
    if records.is_alive(state):
        try:
            os.killpg(state.pid, number)
        except ProcessLookupError:  # it ended by itself
            return


def main(jobs: Path) -> int:
    """Works unless another worker does."""
    try:
        with FileLock(jobs / records.LOCK).acquire(timeout=_WAIT):
            work(jobs)
    except Timeout:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
