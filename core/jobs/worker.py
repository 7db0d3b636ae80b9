"""The process that runs jobs one at a time until none is waiting: `python -m core.jobs.worker FOLDER`.

The app starts it, and it outlives the app. A lock, which the operating system releases when a process dies, ensures
that there is only one. A job that a killed worker left running is taken over by the next worker.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from core.errors import BadRequest
from core.jobs import events, records
from core.jobs.records import Job, State
from core.paths import PROJECT

_WAIT = 3.0  # seconds to wait for a worker that is just exiting
_POLL = 0.2
GRACE = 20.0  # seconds for a training to end by itself before it is killed
_NICE = 5  # the app has priority


def work(jobs: Path) -> None:
    """Settle the jobs left by other workers, then run waiting jobs, oldest first."""
    for job in _with_status(jobs, "running"):
        _finish(job, None)
    while waiting := _with_status(jobs, "queued"):
        _run(waiting[0])


def _with_status(jobs: Path, status: str) -> list[Job]:
    return [job for job in records.all_in(jobs, records.stored) if job.state.status == status]


def _run(job: Job) -> None:
    if job.stopping:
        records.write_state(job, replace(job.state, status="cancelled", ended=time.time()))
        return
    try:
        job.request.check()  # its own images existed when it was requested
        job, process = _start(job)
    except (BadRequest, OSError) as error:
        why = str(error) if isinstance(error, BadRequest) else f"It could not be started: {error.strerror or error}."
        records.write_state(job, replace(job.state, status="failed", ended=time.time(), why=why))
        return
    _finish(job, process)


def _start(job: Job) -> tuple[Job, subprocess.Popen[bytes]]:
    """Start the training of a job.

    Raises:
        OSError: if it cannot be started or recorded; then nothing runs.
    """
    records.write_state(job, State("running", began=time.time()))  # on a full disk this fails before anything runs
    environment = {**os.environ, events.VARIABLE: str(job.folder / records.PROGRESS)}
    with (job.folder / records.LOG).open("ab") as log:
        process = subprocess.Popen(
            job.request.argv(), cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        handle = psutil.Process(process.pid)
        job = records.write_state(job, State("running", process.pid, records.start_of(handle), time.time()))
    except BaseException:  # a process that cannot be followed or ended must not run
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    with suppress(psutil.Error):
        handle.nice(_NICE)
    return job, process


def _finish(job: Job, process: subprocess.Popen[bytes] | None) -> None:
    """Wait for a training, stop it if its cancellation is requested, and record how it ended.

    Args:
        job: running.
        process: its process; None if another worker started it, so that its exit code cannot be known.
    """
    requested_at = 0.0
    while process.poll() is None if process else records.is_alive(job.state):
        if (job.folder / records.STOP).exists():
            if not requested_at:
                requested_at = time.monotonic()
                _signal(job.state, signal.SIGTERM)
            elif time.monotonic() - requested_at > GRACE:
                _signal(job.state, signal.SIGKILL)
        time.sleep(_POLL)
    job = replace(job, stopping=(job.folder / records.STOP).exists())
    records.write_state(job, records.final_state(job, process.returncode if process else None, time.time()))


def _signal(state: State, number: signal.Signals) -> None:
    """Send a signal to a training and its child processes, if it is still the same process."""
    if records.is_alive(state):
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(state.pid, number)


def main(jobs: Path) -> None:
    """Work until no job is left, unless another worker does."""
    with suppress(Timeout):
        while _with_status(jobs, "running") or _with_status(jobs, "queued"):  # one may come while the lock is released
            with FileLock(jobs / records.LOCK).acquire(timeout=_WAIT):
                work(jobs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
