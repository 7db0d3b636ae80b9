"""A job on disk: `request.json`, `state.json`, `progress.jsonl`, `log.txt` and, to end it, `stop`.

Only the app writes requests and `stop`; only the worker writes states. All files except the log and the progress are
written atomically.
"""

import json
import os
import secrets
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

import psutil
from filelock import FileLock, Timeout

from core.errors import BadRequest
from core.files import locked, staging_folder, write_atomically
from core.jobs import events
from core.jobs.request import Request, from_record

REQUEST, STATE, PROGRESS, LOG, STOP = "request.json", "state.json", "progress.jsonl", "log.txt", "stop"
LOCK = ".lock"  # next to the jobs, held by the worker
Status = Literal["queued", "running", "done", "failed", "cancelled"]
OVER: tuple[Status, ...] = ("done", "failed", "cancelled")
_SIGNALS: dict[int, str] = {
    signal.SIGKILL: "The process was killed (SIGKILL), most often because memory ran out.",
    signal.SIGBUS: "The process could not write memory-mapped data (SIGBUS), most often because the disk is full.",
}
_PROBE = 0.1  # seconds to wait for the lock, which another process may hold briefly to test it
_SAME_START = 2.0  # seconds by which two readings of a process's start time may differ
_NAME = "%Y%m%d-%H%M%S-%f"


@dataclass(frozen=True)
class State:
    """State of a job.

    Attributes:
        status: waiting, running, or how it ended.
        pid, started: number and start time of the training process; the start time, in seconds since the machine was
            started, distinguishes it from a later process with the same number.
        began, ended: in seconds since 1970; 0 if it did not.
        why: why it failed, in a sentence.
        kept, total: number of runs in the store, and of all runs.
    """

    status: Status = "queued"
    pid: int = 0
    started: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    why: str = ""
    kept: int = 0
    total: int = 0


@dataclass(frozen=True)
class Job:
    """A job with its current state.

    Attributes:
        folder: the job's folder.
        request: what to train.
        state: current state.
        stopping: whether its cancellation was requested.
    """

    folder: Path
    request: Request
    state: State
    stopping: bool = False

    @property
    def name(self) -> str:
        """The folder's name: the time of the request."""
        return self.folder.name

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.state.status in OVER

    def followed(self) -> events.Progress:
        """Return the progress of its training."""
        return events.progress_of(events.read(self.folder / PROGRESS))


def create(jobs: Path, request: Request) -> Job:
    """Write a new, waiting job; the names of jobs sort in the order of the requests, even if the clock is set back."""
    with locked(jobs / "names"), staging_folder(jobs / secrets.token_hex(8)) as staging:
        write_atomically(staging / REQUEST, json.dumps(asdict(request), indent=1).encode())
        now, names = datetime.now(UTC), [folder.name for folder in folders_of(jobs) if folder.name[:8].isdigit()]
        if names and f"{now:{_NAME}}" <= names[-1]:
            now = datetime.strptime(names[-1], _NAME) + timedelta(microseconds=1)
        folder = jobs / f"{now:{_NAME}}"
        os.replace(staging, folder)
        return Job(folder, request, State())


def folders_of(jobs: Path) -> list[Path]:
    """Return the folders of all jobs, oldest first."""
    if not jobs.is_dir():
        return []
    return sorted(path for path in jobs.iterdir() if path.name[0] != "." and path.is_dir() and not path.is_symlink())


def all_in(jobs: Path, read_job: Callable[[Path], Job]) -> list[Job]:
    """Return all jobs, oldest first, as `stored` or `read` reads them; those whose request cannot be read are left out.

    Args:
        jobs: folder of the jobs.
        read_job: `stored` or `read`.
    """
    valid = []
    for folder in folders_of(jobs):
        with suppress(BadRequest):
            valid.append(read_job(folder))
    return valid


def stored(folder: Path) -> Job:
    """Read a job as stored in its files.

    Raises:
        BadRequest: if its request is missing or damaged.
    """
    try:
        request = from_record(json.loads((folder / REQUEST).read_text()))
    except (OSError, ValueError) as error:
        raise BadRequest(f"The job's record is damaged ({error}).") from None
    return Job(folder, request, _state(folder), (folder / STOP).exists())


def read(folder: Path) -> Job:
    """Read a job in its actual state: one whose process is gone, with no worker to record that, has ended.

    Raises:
        BadRequest: if its request is missing or damaged.
    """
    job = stored(folder)
    if job.state.status == "queued" and job.stopping:  # the worker skips it when its turn comes
        return replace(job, state=replace(job.state, status="cancelled"))
    if job.state.status == "running" and not is_alive(job.state) and not has_worker(folder.parent):
        job = stored(folder)  # its end may have been recorded in between
        if job.state.status == "running":
            return replace(job, state=final_state(job, None, job.followed().last or job.state.began))
    return job


def has_worker(jobs: Path) -> bool:
    """Return whether a worker runs the jobs of a folder; the system releases the lock of a dead worker."""
    try:
        with FileLock(jobs / LOCK).acquire(timeout=_PROBE):
            return False
    except Timeout:
        return True


def write_state(job: Job, state: State) -> Job:
    """Store the state of a job."""
    write_atomically(job.folder / STATE, json.dumps(asdict(state), indent=1).encode())
    return replace(job, state=state)


def final_state(job: Job, code: int | None, when: float) -> State:
    """Return the final state of a job.

    Args:
        job: a job whose process is gone.
        code: its exit code, negative for a signal; None if unknown.
        when: time of the end.
    """
    followed = job.followed()
    state = replace(job.state, ended=when, kept=followed.kept, total=followed.runs_total)
    if code == 0 or (code is None and followed.code == 0):
        return replace(state, status="done")
    if job.stopping:
        return replace(state, status="cancelled")
    return replace(state, status="failed", why=_why(code, followed))


def is_alive(state: State) -> bool:
    """Return whether the process that a state names still runs, and not a later one with the same number."""
    try:
        process = psutil.Process(state.pid)
        return abs(start_of(process) - state.started) < _SAME_START and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return False


def start_of(process: psutil.Process) -> float:
    """Return the start time of a process in seconds since the machine started, as the clock may be set in between."""
    return process.create_time() - psutil.boot_time()


def _why(code: int | None, followed: events.Progress) -> str:
    if followed.code is not None:
        return followed.why or "An unexpected error occurred. The job's log.txt has the details."
    if code == events.EXIT_DISK_FULL:
        return "The disk is full. Free some space. Finished runs are kept; the same command continues from here."
    if code is not None and code < 0:
        return _SIGNALS.get(-code, f"The process was terminated by signal {-code}.")
    if code is not None:
        return f"The process ended with code {code} without giving a reason. The job's log.txt has the details."
    return "The process ended without giving a reason: it was killed, or the machine was restarted."


def _state(folder: Path) -> State:
    try:
        record: Any = json.loads((folder / STATE).read_text())
        state = State(**record)
    except FileNotFoundError:
        return State()
    except (OSError, TypeError, ValueError):
        return State(status="failed", why="The job's record is damaged.")
    return state if state.status in get_args(Status) else State(status="failed", why="The job's record is damaged.")
