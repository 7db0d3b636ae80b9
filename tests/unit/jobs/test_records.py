"""A job on disk: its request, its state, and its queue; nothing is trained here."""

import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import psutil
import pytest

from core.errors import BadRequest
from core.jobs import records
from core.jobs.queue import LEAST_TO_WORK, MOST_WAITING, Queue
from core.jobs.records import State
from core.jobs.request import Request, from_record
from core.jobs.worker import work

REQUEST = Request(
    title="Phantoms", dataset="phantom", models=("scratch-cnn",), strategies=("scratch",), sizes=(10, None),
    seeds=(0, 1),
    options={"augment": "horizontal-flip+noise", "lr": 0.01, "batch_size": 8},
)  # fmt: skip


@pytest.fixture
def job(tmp_path):
    return records.create(tmp_path / "jobs", REQUEST)


def test_a_clock_that_is_set_back_neither_ends_a_job_nor_lets_a_later_one_overtake(job, monkeypatch):
    here, created, boot = psutil.Process(), psutil.Process.create_time, psutil.boot_time
    state = State("running", here.pid, records.start_of(here))
    with monkeypatch.context() as patch:
        patch.setattr(psutil.Process, "create_time", lambda process: created(process) - 3600)
        patch.setattr(psutil, "boot_time", lambda: boot() - 3600)
        assert records.is_alive(state)
    earlier = records.datetime(2001, 1, 1)
    monkeypatch.setattr(records, "datetime", SimpleNamespace(now=lambda zone: earlier, strptime=datetime.strptime))
    jobs = [job, *(records.create(job.folder.parent, REQUEST) for _ in range(2))]
    assert [stored.name for stored in Queue(job.folder.parent).jobs()] == [stored.name for stored in jobs]
    assert not list(job.folder.parent.glob(".*"))


def put(job, *lines):
    (job.folder / records.PROGRESS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_request_is_kept_and_becomes_a_command_line(job):
    assert records.stored(job.folder).request == REQUEST
    assert REQUEST.argv()[1:] == [
        "-m", "trainer", "curve", "--dataset=phantom", "--models=scratch-cnn", "--strategies=scratch",
        "--sizes=10,full", "--seeds=0,1", "--augment=horizontal-flip+noise", "--lr=0.01", "--batch-size=8",
    ]  # fmt: skip


def test_jobs_are_trained_on_a_cluster_where_one_is_configured(monkeypatch):
    alone = REQUEST.argv()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    assert REQUEST.argv() == [*alone, "--engine=ray"]


def test_a_process_is_known_by_its_start_as_well(job):
    here = psutil.Process()
    assert records.is_alive(State("running", here.pid, records.start_of(here)))
    assert not records.is_alive(State("running", here.pid, records.start_of(here) - 60))
    records.write_state(job, State("running", here.pid, records.start_of(here) - 60, began=5.0))
    found = records.read(job.folder)
    assert found.state.status == "failed"
    assert "without giving a reason" in found.state.why


@pytest.mark.parametrize(
    ("code", "told", "stopping", "status", "said"),
    [
        (0, [], False, "done", ""),
        (None, [{"kind": "end", "code": 0}], False, "done", ""),
        (130, [{"kind": "end", "code": 130, "why": "Interrupted."}], True, "cancelled", ""),
        (-9, [], True, "cancelled", ""),
        (-9, [], False, "failed", "memory ran out"),
        (-7, [], False, "failed", "disk is full"),
        (-11, [], False, "failed", "signal 11"),
        (2, [{"kind": "end", "code": 2, "why": "The disk is full"}], False, "failed", "The disk is full"),
        (1, [{"kind": "end", "code": 1, "why": ""}], False, "failed", "log.txt"),
        (3, [], False, "failed", "code 3"),
        (74, [], False, "failed", "The disk is full"),
        (None, [], False, "failed", "restarted"),
    ],
)
def test_how_a_job_ended(job, code, told, stopping, status, said):
    runs = [{"kind": "run", "failed": ""}, {"kind": "run", "failed": "diverged"}]
    put(job, {"kind": "bar", "unit": "run", "done": 2, "total": 4}, *runs, *told)
    state = records.final_state(replace(job, stopping=stopping), code, 9.0)
    assert (state.status, state.kept, state.total) == (status, 1, 4)
    assert said in state.why


def test_damaged_records_are_no_crash(job, tmp_path):
    (job.folder / records.STATE).write_text('{"status": "nonsense"}')
    assert "damaged" in records.read(job.folder).state.why
    (job.folder / records.REQUEST).write_text("{")
    (tmp_path / "jobs" / "empty").mkdir()
    assert Queue(tmp_path / "jobs").jobs() == []
    with pytest.raises(BadRequest, match="damaged"):
        from_record({"title": 3})


def test_a_job_that_waits_is_cancelled_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(Queue, "wake", lambda self: None)
    queue = Queue(tmp_path / "jobs")
    asked = queue.submit(REQUEST)
    queue.cancel(asked)
    assert queue.jobs()[0].state.status == "cancelled"
    work(queue.folder)
    assert records.stored(asked.folder).state.status == "cancelled"
    assert not (asked.folder / records.LOG).exists(), "it was never started"


def test_a_job_outlives_its_images(tmp_path, monkeypatch):
    monkeypatch.setattr(Queue, "wake", lambda self: None)
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "data"))
    mine = tmp_path / "data" / "mine"
    mine.mkdir(parents=True)
    queue = Queue(tmp_path / "jobs")
    asked, waiting = [queue.submit(replace(REQUEST, dataset="", folder=str(mine))) for _ in range(2)]
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        records.write_state(
            asked, State("running", process.pid, records.start_of(psutil.Process(process.pid)), time.time())
        )
        mine.rmdir()
        assert [job.state.status for job in queue.jobs()] == ["running", "queued"]
        queue.cancel(asked)
        work(queue.folder)
        assert process.wait(10) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()
    assert [job.state.status for job in queue.jobs()] == ["cancelled", "failed"]
    assert "Move your own images there" in queue.jobs()[1].state.why
    assert not (waiting.folder / records.LOG).exists(), "it was never started"
    with pytest.raises(BadRequest, match="Move your own images there"):
        queue.resubmit(asked)


def test_a_job_that_was_removed_is_not_cancelled_into_being(job, tmp_path):
    shutil.rmtree(job.folder)
    Queue(tmp_path / "jobs").cancel(job)
    assert not job.folder.exists()


def test_a_cancellation_that_cannot_be_stored_is_reported(job, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("core.jobs.queue.write_atomically", full)
    with pytest.raises(BadRequest, match=r"cannot be cancelled: No space left on device.*Free some space"):
        Queue(job.folder.parent).cancel(job)


def full_for(times, monkeypatch):
    """A disk that takes no state for some times."""
    write, left = records.write_atomically, [times]

    def write_or_fail(path, content):
        if path.name == records.STATE and left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(records, "write_atomically", write_or_fail)


def test_a_job_that_cannot_be_noted_is_not_started(job, monkeypatch):
    full_for(1, monkeypatch)
    work(job.folder.parent)
    state = records.stored(job.folder).state
    assert (state.status, state.why) == ("failed", "It could not be started: No space left on device.")
    assert not (job.folder / records.LOG).exists(), "nothing ran"
    again = records.create(job.folder.parent, REQUEST)
    full_for(2, monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        work(job.folder.parent)
    assert not (again.folder / records.LOG).exists(), "nothing ran"


def test_no_worker_is_started_where_it_could_write_nothing(job, monkeypatch):
    def never(*arguments, **others):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(subprocess, "Popen", never)
    queue = Queue(job.folder.parent)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=LEAST_TO_WORK - 1))
        assert "5.0 MB left. Free some space" in queue.wake()
    (queue.folder / ".worker.log").mkdir()
    assert queue.wake() == f"No job can be started in {queue.folder}: Is a directory."


def test_a_queue_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(Queue, "wake", lambda self: None)
    queue = Queue(tmp_path / "jobs")
    asked = [queue.submit(REQUEST).name for _ in range(MOST_WAITING)]
    assert [job.name for job in queue.jobs()] == asked == sorted(asked)
    with pytest.raises(BadRequest, match="already waiting"):
        queue.submit(REQUEST)
    with pytest.raises(BadRequest, match="not finished"):
        queue.remove(queue.jobs()[0])
