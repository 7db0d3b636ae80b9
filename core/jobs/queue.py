"""Jobs as the app handles them: asking for one, seeing to it that it is run, ending, repeating and forgetting it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from core.errors import BadRequest
from core.files import write_atomically
from core.jobs import records
from core.jobs.records import Job
from core.jobs.request import Request
from core.paths import PROJECT, jobs_folder

MOST_WAITING = 20
LEAST_FREE = 200_000_000  # bytes that a new job wants
LEAST_TO_WORK = 5_000_000  # bytes without which a worker could not even note how a job ended
_WORKER_LOG = ".worker.log"


class Queue:
    """The jobs in a folder. It keeps nothing in memory: any number of them, in any process, see the same.

    Args:
        folder: of the jobs; that of the app if None.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or jobs_folder()

    def jobs(self) -> list[Job]:
        """All jobs, the oldest first; folders whose request cannot be read are left out."""
        found = []
        for folder in records.folders_of(self.folder):
            try:
                found.append(records.read(folder))
            except BadRequest:
                continue
        return found

    def ask(self, request: Request) -> Job:
        """Puts a job at the end of the queue and sees to it that somebody works.

        Raises:
            BadRequest: if the request cannot be met, too many jobs wait, or the disk is full.
        """
        request.check()
        if sum(not job.is_over for job in self.jobs()) >= MOST_WAITING:
            raise BadRequest(f"{MOST_WAITING} jobs wait already. Wait for one to end, or cancel one.")
        self.folder.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(self.folder).free) < LEAST_FREE:
            raise BadRequest(
                f"The disk that holds {self.folder} has {free / 1e6:.0f} MB left; a job wants "
                f"{LEAST_FREE / 1e6:.0f} MB. Free some space."
            )
        job = records.create(self.folder, request)
        self.wake()
        return job

    def cancel(self, job: Job) -> None:
        """Asks a job to end; the worker ends it. One that somebody just removed stays removed.

        Raises:
            BadRequest: if that cannot be noted, most often because the disk is full.
        """
        if not job.folder.is_dir():
            return
        try:
            write_atomically(job.folder / records.STOP, b"")
        except OSError as error:
            raise BadRequest(
                f"The job cannot be cancelled: {error.strerror or error} in {job.folder}. Free some space, or end the "
                f"process {job.state.pid or 'when it has started'} by hand."
            ) from None
        self.wake()

    def again(self, job: Job) -> Job:
        """Asks for the same once more: finished runs come from the store, a broken training goes on."""
        return self.ask(job.request)

    def forget(self, job: Job) -> None:
        """Removes the record of a job that is over; its runs stay in the store.

        Raises:
            BadRequest: if it is not over.
        """
        if not job.is_over:
            raise BadRequest("This job is not over. Cancel it first.")
        shutil.rmtree(job.folder, ignore_errors=True)

    def wake(self) -> str:
        """Starts a worker where there is work and nobody does it.

        Returns:
            why none could be started, in a sentence; "" where one was, or none is needed.
        """
        unsettled = any(not records.stored(job.folder).is_over for job in self.jobs())
        if not unsettled or records.is_worked_on(self.folder):
            return ""
        try:
            if (free := shutil.disk_usage(self.folder).free) < LEAST_TO_WORK:
                return (
                    f"No job can be started: the disk that holds {self.folder} has {free / 1e6:.1f} MB left. Free some "
                    "space; then it goes on by itself."
                )
            with (self.folder / _WORKER_LOG).open("ab") as log:
                subprocess.Popen(
                    [sys.executable, "-m", "core.jobs.worker", str(self.folder)], cwd=PROJECT,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            return f"No job can be started in {self.folder}: {error.strerror or error}."
        return ""
