"""Jobs as real processes: started, followed, finished, killed, queued, and recovered from disk."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch

from core.data import own_images
from core.jobs import own_study, records, worker
from core.jobs.queue import Queue
from core.jobs.request import Request
from core.paths import cache_folder
from core.runs import open_store
from tests import PATIENCE
from tests.uploaded_files import class_files


@pytest.fixture
def place(class_folder, tmp_path, monkeypatch):
    """A data root with own images, and folders for runs and jobs; what still runs at the end is ended."""
    for name in ("DATA", "RUNS", "JOBS", "CACHE"):
        monkeypatch.setenv(f"LOWSHOT_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = class_folder({"a": 20, "b": 20}, name="data/own")
    yield folder
    left = [job for job in Queue().jobs() if not job.is_over]
    for job in left:
        Queue().cancel(job)
    for job in left:
        if records.is_alive(job.state):
            os.killpg(job.state.pid, signal.SIGKILL)


def request_for(folder, epochs, seeds=(0,)):
    return Request(
        title="Own", folder=str(folder), models=("scratch-cnn",), strategies=("scratch",), sizes=(2,), seeds=seeds,
        options={"epochs": epochs, "min_steps": 0, "patience": 0},
    )  # fmt: skip


def wait_for(job, condition):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        Queue().wake()
        now = records.read(job.folder)
        if condition(now):
            return now
        if now.is_over:
            break
        time.sleep(0.1)
    raise AssertionError(f"{records.read(job.folder)}\n{(job.folder / records.LOG).read_text()}")


def workers_of(folder):
    """The processes that run the jobs of a folder."""
    return [
        process for process in psutil.process_iter(["cmdline"])
        if "core.jobs.worker" in (process.info["cmdline"] or ()) and str(folder) in process.info["cmdline"]
    ]  # fmt: skip


def is_training(job):
    return job.state.status == "running" and len(job.followed().epochs) > 2


def test_two_jobs_run_in_turn_and_survive_a_restart_of_the_app(place):
    long, short = Queue().submit(request_for(place, 100_000)), Queue().submit(request_for(place, 2, seeds=(0, 1)))
    running = wait_for(long, is_training)
    again = Queue()  # as after a restart of the app: nothing is known but what is on disk
    assert [job.state.status for job in again.jobs()] == ["running", "queued"]
    assert records.has_worker(again.folder)
    followed = running.followed()
    assert followed.title == "scratch-cnn scratch n=2 seed 0 epochs 100000"
    assert followed.epochs[1]["epoch"] > 0
    assert followed.epochs[1]["train_loss"] > 0
    assert (followed.runs_done, followed.runs_total) == (0, 1)

    again.cancel(running)
    stopped = wait_for(long, lambda job: job.is_over)
    assert (stopped.state.status, stopped.state.kept, stopped.state.total) == ("cancelled", 0, 1)
    assert "Interrupted" in stopped.followed().why
    done = wait_for(short, lambda job: job.is_over)
    assert (done.state.status, done.state.kept, done.state.total) == ("done", 2, 2)
    assert [run["trained"] for run in done.followed().runs] == [True, True]
    assert len(open_store().runs) == 2
    assert done.state.began >= stopped.state.ended - 1
    again.remove(done)
    assert [job.name for job in again.jobs()] == [long.name]


def test_two_visitors_who_train_at_once_get_their_turn_and_their_own_networks(place):
    brought = {"x": class_files({"a": 13, "b": 13}), "y": class_files({"a": 13, "b": 13}, start=50)}
    sets = [
        own_images.store(owner, "Mine", own_images.file_entries(files.items()))[0] for owner, files in brought.items()
    ]
    with ThreadPoolExecutor(2) as both:
        jobs = list(both.map(lambda own: Queue().submit(request_for(own.path, 2)), sets))
    done = [wait_for(job, lambda now: now.is_over) for job in jobs]
    assert [job.state.status for job in done] == ["done", "done"]
    first, second = sorted(done, key=lambda job: job.state.began)
    assert second.state.began >= first.state.ended - 1
    assert {meta.dataset for meta in open_store().metas()} == {own.name for own in sets}
    own_study.delete(sets[0], Queue())
    assert {meta.dataset for meta in open_store().metas()} == {sets[1].name}
    assert [job.request.folder for job in Queue().jobs()] == [str(sets[1].path)]


def test_a_killed_training_fails_resumes_and_outlives_its_worker(place):
    job = Queue().submit(request_for(place, 100_000))
    running = wait_for(job, is_training)
    os.kill(running.state.pid, signal.SIGKILL)
    failed = wait_for(job, lambda now: now.is_over)
    assert failed.state.status == "failed"
    assert "memory" in failed.state.why
    kept = next((cache_folder() / "unfinished").glob("*.pt"))
    reached = len(torch.load(kept, weights_only=True)["training"]["history"])
    assert reached > 1

    second = wait_for(Queue().resubmit(failed), lambda job: len(job.followed().epochs) >= reached)
    before, told = failed.followed().epochs[reached - 1], second.followed().epochs[reached - 1]
    assert told["seconds"] == before["seconds"], "the epochs before the kill are not trained again"
    workers = workers_of(Queue().folder)
    for process in workers:
        process.kill()
    psutil.wait_procs(workers, timeout=PATIENCE)
    assert records.read(second.folder).state.status == "running"
    Queue().cancel(second)
    assert wait_for(second, lambda now: now.is_over).state.status == "cancelled"
    assert not records.is_alive(second.state)


def test_a_full_disk_ends_a_training_as_failed_with_what_was_kept(place):
    """The system itself lets no file grow, as on a full disk: not even the log of the progress."""
    job = Queue().submit(request_for(place, 100_000))
    running = wait_for(job, is_training)
    psutil.Process(running.state.pid).rlimit(psutil.RLIMIT_FSIZE, (64, 64))
    failed = wait_for(job, lambda now: now.is_over)
    assert (failed.state.status, failed.state.kept, failed.state.total) == ("failed", 0, 1)
    assert "The disk is full" in failed.state.why


def test_after_worker_and_training_are_killed_the_job_fails_and_the_next_is_trained(place):
    long, short = Queue().submit(request_for(place, 100_000)), Queue().submit(request_for(place, 2, seeds=(1,)))
    running = wait_for(long, is_training)
    for process in [*workers_of(Queue().folder), psutil.Process(running.state.pid)]:
        process.kill()
    until = time.monotonic() + PATIENCE
    while not (now := records.read(long.folder)).is_over and time.monotonic() < until:
        time.sleep(0.1)  # nobody is woken: what is read off the disk must be true by itself
    assert (now.state.status, now.state.kept, now.state.total) == ("failed", 0, 1)
    assert "it was killed, or the machine was restarted" in now.state.why
    assert records.read(short.folder).state.status == "queued"
    assert wait_for(short, lambda job: job.is_over).state.status == "done"
    assert records.stored(long.folder).state.status == "failed", "the next worker notes it"


def test_a_job_that_comes_while_a_worker_stops_is_worked_on(tmp_path, monkeypatch):
    waiting, worked = ["first"], []

    def work(jobs):
        worked.append(waiting.pop())
        if len(worked) == 1:
            waiting.append("second")  # after the worker's last look, before it releases the lock

    monkeypatch.setattr(worker, "work", work)
    monkeypatch.setattr(worker, "_with_status", lambda jobs, status: waiting if status == "queued" else [])
    worker.main(tmp_path)
    assert worked == ["first", "second"]
