"""The job queue as the app uses it: submit, run, cancel, repeat and remove jobs."""

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
LEAST_FREE = 200_000_000  # bytes that a new job needs
LEAST_TO_WORK = 5_000_000  # bytes that a worker needs to record how a job ended
_WORKER_LOG = ".worker.log"


class Queue:
    """The jobs in a folder. It has no state in memory, so any number of queues, in any process, see the same jobs.

    Args:
        folder: folder of the jobs; the app's own if None.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or jobs_folder()

    def jobs(self) -> list[Job]:
        """Return all jobs, oldest first; folders whose request cannot be read are left out."""
        return records.all_in(self.folder, records.read)

    def submit(self, request: Request) -> Job:
        """Append a job to the queue and make sure that a worker runs.

        Raises:
            BadRequest: if the request is invalid, too many jobs are waiting, or the disk is full.
        """
        request.check()
        if sum(not job.is_over for job in self.jobs()) >= MOST_WAITING:
            raise BadRequest(f"{MOST_WAITING} jobs are already waiting. Wait for one to finish, or cancel one.")
        self.folder.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(self.folder).free) < LEAST_FREE:
            raise BadRequest(
                f"The disk that contains {self.folder} has {free / 1e6:.0f} MB left; a job needs "
                f"{LEAST_FREE / 1e6:.0f} MB. Free some space."
            )
        job = records.create(self.folder, request)
        self.wake()
        return job

    def cancel(self, job: Job) -> None:
        """Request the cancellation of a job, which the worker performs. A job that was just removed stays removed.

        Raises:
            BadRequest: if the request cannot be stored, most often because the disk is full.
        """
        if not job.folder.is_dir():
            return
        try:
            write_atomically(job.folder / records.STOP, b"")
        except OSError as error:
            raise BadRequest(
                f"The job cannot be cancelled: {error.strerror or error} in {job.folder}. Free some space, or manually "
                f"end the process {job.state.pid or 'once it has started'}."
            ) from None
        self.wake()

    def resubmit(self, job: Job) -> Job:
        """Submit the same request again: finished runs come from the store, and an interrupted training resumes."""
        return self.submit(job.request)

    def remove(self, job: Job) -> None:
        """Remove the record of a finished job; its runs stay in the store.

        Raises:
            BadRequest: if it has not finished.
        """
        if not job.is_over:
            raise BadRequest("This job has not finished. Cancel it first.")
        shutil.rmtree(job.folder, ignore_errors=True)

    def wake(self) -> str:
        """Start a worker if there is work and none is running.

        Returns:
            why none could be started, in a sentence; "" if one was, or none is needed.
        """
        unsettled = any(not job.is_over for job in records.all_in(self.folder, records.stored))
        if not unsettled or records.has_worker(self.folder):
            return ""
        try:
            if (free := shutil.disk_usage(self.folder).free) < LEAST_TO_WORK:
                return (
                    f"No job can be started: the disk that contains {self.folder} has {free / 1e6:.1f} MB left. Free "
                    "some space; jobs then resume automatically."
                )
            with (self.folder / _WORKER_LOG).open("ab") as log:
                subprocess.Popen(
                    [sys.executable, "-m", "core.jobs.worker", str(self.folder)], cwd=PROJECT,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            return f"No job can be started in {self.folder}: {error.strerror or error}."
        return ""
