"""What a job is on disk and in words; no training here."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from core.errors import BadRequest, LowshotError
from core.jobs import events, records
from core.jobs.catalogue import Catalogue, ask_trainer
from core.jobs.costs import Cost, cost_of, expected, time_left
from core.jobs.queue import LEAST_TO_WORK, MOST_WAITING, Queue
from core.jobs.records import State
from core.jobs.request import Request, from_record, own_path, sizes_of
from core.jobs.worker import work
from tests.unit.test_checkpoints import example_meta
from trainer import commands, progress
from trainer.cli import main
from trainer.endings import ending

REQUEST = Request(
    title="Phantoms", dataset="phantom", models=("scratch-cnn",), strategies=("scratch",), sizes=(10, None),
    seeds=(0, 1),
    options={"augment": "horizontal-flip+noise", "lr": 0.01, "batch_size": 8},
)  # fmt: skip


@pytest.fixture
def job(tmp_path):
    return records.create(tmp_path / "jobs", REQUEST)


def put(job, *lines):
    (job.folder / records.PROGRESS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_request_is_kept_and_becomes_a_command_line(job):
    assert records.stored(job.folder).request == REQUEST
    assert REQUEST.argv()[1:] == [
        "-m", "trainer", "curve", "--dataset=phantom", "--models=scratch-cnn", "--strategies=scratch",
        "--sizes=10,full", "--seeds=0,1", "--augment=horizontal-flip+noise", "--lr=0.01", "--batch-size=8",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": ()}, "at least one model"),
        ({"models": ("--folder",)}, "a name from the lists"),
        ({"models": ("medical:resnet50@/etc/passwd",)}, "a name from the lists"),
        ({"options": {"augment": "none --folder=/"}}, "a name from the lists"),
        ({"sizes": (0,)}, "at least 1 image"),
        ({"seeds": (-1,)}, "seeds from 0"),
        ({"dataset": ""}, "Choose a data set"),
        ({"folder": "/"}, "Choose a data set"),
        ({"seeds": tuple(range(600))}, "up to 1,200 runs"),
    ],
)
def test_what_cannot_be_a_job_is_refused(change, said):
    with pytest.raises(BadRequest, match=said):
        replace(REQUEST, **change).check()


def test_own_images_lie_below_a_data_root_whatever_links_say(tmp_path, monkeypatch):
    root, outside = tmp_path / "data", tmp_path / "outside"
    for folder in (root / "mine", outside):
        folder.mkdir(parents=True)
    (root / "table.csv").write_text("path,label\n")
    (root / "notes.txt").write_text("")
    (root / "link").symlink_to(outside)
    monkeypatch.setenv("LOWSHOT_DATA", str(root))
    assert own_path("mine") == own_path(f" {root}/mine ") == root / "mine"
    assert own_path("table.csv") == root / "table.csv"
    messages = set()
    for path in ("link", "../outside", str(outside), "/nowhere", "nothing", "notes.txt", "mine/../../outside", "\0"):
        with pytest.raises(BadRequest, match="Expected a folder") as caught:
            own_path(path)
        messages.add(str(caught.value).replace(repr(path), "PATH"))
    assert len(messages) == 1, "the words do not tell what lies elsewhere"


def test_sizes_are_read_as_typed():
    assert sizes_of(["25", " 10", "full", "FULL", "10"]) == (10, 25, None)
    with pytest.raises(BadRequest, match="whole numbers"):
        sizes_of(["ten"])
    assert sizes_of(["1000000"]) == (1_000_000,)
    for digits in (8, 5000):
        with pytest.raises(BadRequest, match="at most 1,000,000"):
            sizes_of(["9" * digits])


def test_a_process_is_known_by_its_start_as_well(job):
    here = psutil.Process()
    assert records.is_alive(State("running", here.pid, here.create_time()))
    assert not records.is_alive(State("running", here.pid, here.create_time() - 60))
    records.write_state(job, State("running", here.pid, here.create_time() - 60, began=5.0))
    found = records.read(job.folder)
    assert found.state.status == "failed"
    assert "without a word" in found.state.why


@pytest.mark.parametrize(
    ("code", "told", "stopping", "status", "said"),
    [
        (0, [], False, "done", ""),
        (None, [{"kind": "end", "code": 0}], False, "done", ""),
        (130, [{"kind": "end", "code": 130, "why": "Interrupted."}], True, "cancelled", ""),
        (-9, [], True, "cancelled", ""),
        (-9, [], False, "failed", "memory runs out"),
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
    state = records.ended(replace(job, stopping=stopping), code, 9.0)
    assert (state.status, state.kept, state.total) == (status, 1, 4)
    assert said in state.why


def test_a_job_that_waits_is_cancelled_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(Queue, "wake", lambda self: None)
    queue = Queue(tmp_path / "jobs")
    asked = queue.ask(REQUEST)
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
    asked, waiting = [queue.ask(replace(REQUEST, dataset="", folder=str(mine))) for _ in range(2)]
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        records.write_state(
            asked, State("running", process.pid, psutil.Process(process.pid).create_time(), time.time())
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
    assert "Own images must lie there" in queue.jobs()[1].state.why
    assert not (waiting.folder / records.LOG).exists(), "it was never started"
    with pytest.raises(BadRequest, match="Own images must lie there"):
        queue.again(asked)


def test_a_job_that_was_removed_is_not_cancelled_into_being(job, tmp_path):
    shutil.rmtree(job.folder)
    Queue(tmp_path / "jobs").cancel(job)
    assert not job.folder.exists()


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


def test_damaged_records_are_no_crash(job, tmp_path):
    (job.folder / records.STATE).write_text('{"status": "nonsense"}')
    assert "damaged" in records.read(job.folder).state.why
    (job.folder / records.REQUEST).write_text("{")
    (tmp_path / "jobs" / "empty").mkdir()
    assert Queue(tmp_path / "jobs").jobs() == []
    with pytest.raises(BadRequest, match="damaged"):
        from_record({"title": 3})


def test_a_queue_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(Queue, "wake", lambda self: None)
    queue = Queue(tmp_path / "jobs")
    asked = [queue.ask(REQUEST).name for _ in range(MOST_WAITING)]
    assert [job.name for job in queue.jobs()] == asked == sorted(asked)
    with pytest.raises(BadRequest, match="wait already"):
        queue.ask(REQUEST)
    with pytest.raises(BadRequest, match="not over"):
        queue.forget(queue.jobs()[0])


def test_progress_is_written_and_read(tmp_path, monkeypatch, capsys):
    path = tmp_path / "progress.jsonl"
    with progress.bar("unfollowed"):
        progress.tell("epoch", epoch=0)
    assert not path.exists()
    monkeypatch.setenv(events.VARIABLE, str(path))
    with progress.bar("curve", "run") as runs, progress.bar("one", "step") as steps:
        runs(0, 2)
        for step in range(1, 1001):
            steps(step, 1000)
        progress.tell("epoch", epoch=1, train_loss=0.5)
        progress.say("a note")
        runs(1, 2)
    with path.open("a") as file:
        file.write('{"kind": "bar", "cut')
    assert capsys.readouterr().err == "a note\n"
    lines = events.read(path)
    assert len(lines) < 12, "a bar tells of itself once a second"
    found = events.follow(lines)
    assert (found.runs_done, found.runs_total, found.title, found.of_run) == (1, 2, "one", 1.0)
    assert found.epochs[0]["train_loss"] == 0.5
    assert [text for _, text in found.texts] == ["a note"]
    assert found.last == pytest.approx(time.time(), abs=60)


def test_a_full_disk_does_not_end_a_training_that_is_followed(monkeypatch):
    monkeypatch.setenv(events.VARIABLE, "/dev/full")
    progress.tell("epoch", epoch=1)
    monkeypatch.setenv(events.VARIABLE, "/nowhere/at/all")
    progress.tell("epoch", epoch=1)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 74, "disk is full"),
        (MemoryError(), 2, "Memory ran out"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            2,
            "Memory ran out",
        ),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (BadRequest("No."), 2, "No."),
    ],
)
def test_a_command_says_how_it_ended(error, code, said, tmp_path, monkeypatch, capsys):
    def fail(arguments):
        raise error

    monkeypatch.setenv(events.VARIABLE, str(tmp_path / "progress.jsonl"))
    monkeypatch.setitem(commands.COMMANDS, "list", fail)
    assert main(["list"]) == code
    assert said in capsys.readouterr().err
    end = events.read(tmp_path / "progress.jsonl")[-1]
    assert (end["kind"], end["code"]) == ("end", code)
    assert said in end["why"]


def test_a_curve_that_could_not_go_on_is_no_job_done(job, runs, monkeypatch, capsys):
    monkeypatch.setenv(events.VARIABLE, str(job.folder / records.PROGRESS))
    argv = ["curve", "--dataset", "phantom", "--models", "scratch-cnn", "--strategies", "scratch", "--sizes", "20,2"]
    argv += ["--seeds", "0", "--epochs", "1", "--min-steps", "0", "--patience", "0", "--batch-size", "16", "--json"]
    code = main(argv)
    assert code == 2
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row["train_size"] == 20
    state = records.ended(job, code, 9.0)
    assert (state.status, state.kept, state.total) == ("failed", 1, 2)
    assert "1 of 1 pairs of model and strategy could not go on" in state.why
    assert "scratch-cnn scratch n=2 seed 0" in state.why
    assert "batch" in state.why


def test_an_error_that_is_not_known_is_not_hidden(tmp_path, monkeypatch):
    def fail(arguments):
        raise ZeroDivisionError

    assert ending(ZeroDivisionError()) is None
    assert ending(RuntimeError("shape")) is None
    monkeypatch.setenv(events.VARIABLE, str(tmp_path / "progress.jsonl"))
    monkeypatch.setitem(commands.COMMANDS, "list", fail)
    with pytest.raises(ZeroDivisionError):
        main(["list"])
    assert events.read(tmp_path / "progress.jsonl")[-1] | {"time": 0} == {
        "time": 0, "kind": "end", "code": 1, "why": "",
    }  # fmt: skip


def meta(size, seconds, **other):
    made = {"model": "m", "strategy": "s", "device": "here", "dataset": "d", "train_size": size, "seed": 0}
    return replace(example_meta(f"r{size}{seconds}"), seconds=seconds, **{**made, **other})


def test_costs_are_measured_never_guessed():
    stored = [meta(10, 2.0), meta(10, 4.0, seed=1), meta(10, 30.0, seed=2), meta(50, 8.0), meta(None, 99.0)]
    stored += [meta(10, 1000.0, device="there"), meta(20, 500.0, dataset="e"), meta(10, 700.0, failed="diverged")]

    def cost(size, **other):
        asked = {"model": "m", "strategy": "s", "dataset": "d", "device": "here", **other}
        return cost_of(stored, size=size, **asked)

    assert cost(10) == Cost(4.0, 4)
    assert cost(30).seconds == pytest.approx(6.0)
    assert cost(100).seconds == pytest.approx(16.0)
    assert cost(5).seconds == 4.0
    assert cost(None).seconds == 99.0
    assert cost(10, dataset="new") == Cost(4.0, 5, elsewhere=True)
    for unlike in ({"model": "other"}, {"strategy": "other"}, {"device": "elsewhere"}):
        assert cost(10, **unlike) is None
    assert cost(None, dataset="e") is None
    rows = expected(stored, [("m", "s")], [10, 50], [0, 7], "d", "here")
    assert [row.seconds for row in rows] == [0.0, 4.0, 0.0, 8.0]
    rows = expected(stored, [("m", "s")], [10, 50], [0, 7], "d", "here", ["lr"])
    assert [row.seconds for row in rows] == [4.0, 4.0, 8.0, 8.0]


def test_settings_that_change_the_work_make_the_cost_unknown():
    stored = [meta(10, 4.0), meta(10, 900.0, seed=1, variant="epochs=1000"), meta(20, 900.0, variant="side=512")]
    assert cost_of(stored, "m", "s", 10, "d", "here") == Cost(4.0, 1)
    assert cost_of(stored, "m", "s", 20, "d", "here") == Cost(8.0, 1)
    assert cost_of(stored[1:], "m", "s", 10, "d", "here") is None
    for name in ("epochs", "min_steps", "batch_size", "side", "episodes", "augment", "imbalance", "patience", "depth"):
        assert expected(stored, [("m", "s")], [10, 20], [0], "d", "here", ["lr", name]) == [None, None]


def test_time_left_weighs_runs_by_what_they_take():
    followed = events.Followed(runs_done=1, runs_total=3)
    assert time_left(followed, [], 10.0) == pytest.approx(20.0)
    assert time_left(followed, [1.0, 1.0, 8.0], 10.0) == pytest.approx(90.0)
    assert time_left(replace(followed, runs_done=0), [5.0, 5.0, 5.0], 3.0) == pytest.approx(12.0)
    assert time_left(replace(followed, runs_done=0), [], 3.0) is None
    assert time_left(events.Followed(), [1.0], 3.0) is None
    half = replace(followed, title="one", doing="one", unit="step", done=5, total=10)
    assert time_left(half, [], 10.0) == pytest.approx(10.0)
    assert time_left(replace(followed, runs_done=3), [1.0, 1.0, 8.0], 10.0) == 0.0


def test_runs_from_the_store_say_nothing_of_the_time_left():
    lines = []
    for place in range(8):  # the first was left out, so that it has no run
        lines.append({"kind": "bar", "unit": "run", "done": place, "total": 10})
        if place:
            lines.append({"kind": "run", "trained": False, "title": "one"})
    followed = events.follow([*lines, {"kind": "bar", "unit": "run", "done": 8, "total": 10}])
    assert followed.untrained == set(range(8))
    assert time_left(followed, [600.0] * 10, 20.0) == pytest.approx(1180.0)
    assert time_left(followed, [], 20.0) is None
    half = replace(followed, title="one", doing="one", unit="step", done=5, total=10)
    assert time_left(half, [], 20.0) == pytest.approx(60.0)
    assert time_left(replace(followed, runs_done=9), [600.0] * 10, 620.0) == pytest.approx(620.0)
    whole = replace(followed, runs_done=10, untrained=set(range(10)))
    assert time_left(whole, [600.0] * 10, 5.0) == 0.0


def test_places_that_were_left_out_say_nothing_of_the_time_left():
    """Of four places the first was trained, the two after it left out, as their pair could not go on."""
    run = {"kind": "run", "trained": True, "title": "one"}
    bars = [{"kind": "bar", "unit": "run", "done": place, "total": 4} for place in range(4)]
    followed = events.follow([bars[0], run, *bars[1:]])
    assert (followed.trained, followed.untrained) == ({0}, {1, 2})
    assert time_left(followed, [10.0, 300.0, 300.0, 20.0], 10.0) == pytest.approx(20.0)
    assert time_left(followed, [], 10.0) == pytest.approx(10.0)


def test_a_cancelling_that_cannot_be_noted_is_said(job, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("core.jobs.queue.write_atomically", full)
    with pytest.raises(BadRequest, match=r"cannot be cancelled: No space left on device.*Free some space"):
        Queue(job.folder.parent).cancel(job)


def test_a_curve_in_which_every_training_diverged_says_so(job, runs, monkeypatch, capsys):
    monkeypatch.setenv(events.VARIABLE, str(job.folder / records.PROGRESS))
    argv = ["curve", "--dataset", "phantom", "--models", "scratch-cnn", "--strategies", "scratch", "--sizes", "3"]
    argv += ["--seeds", "0,1", "--epochs", "3", "--min-steps", "0", "--lr", "1e25", "--optimizer", "sgd"]
    code = main([*argv, "--clip", "1e30"])
    assert code == 2
    assert "failed: scratch-cnn scratch n=3 seed 0" in capsys.readouterr().err
    state = records.ended(job, code, 9.0)
    assert (state.status, state.kept, state.total) == ("failed", 0, 2)
    assert "The training of all 2 runs failed" in state.why
    assert "--lr" in state.why


def test_memory_that_really_runs_out_is_known():
    """The allocators' own errors, of NumPy and of PyTorch, under a limit of the system."""
    code = """
import resource, numpy, psutil, torch
from trainer.endings import ending
now = psutil.Process().memory_info().vms + 2**28
resource.setrlimit(resource.RLIMIT_AS, (now, now))
for ask in (lambda: torch.ones(2**32), lambda: numpy.ones(2**32)):
    try:
        ask()
    except BaseException as error:
        print(*ending(error))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line[:17] for line in said] == ["2 Memory ran out."] * 2


def test_a_trainer_that_cannot_be_asked_is_said(monkeypatch):
    monkeypatch.setattr("core.jobs.catalogue.sys.executable", "/nowhere/python")
    with pytest.raises(LowshotError, match="does not say what it can do"):
        ask_trainer()


def test_the_trainer_says_what_can_be_chosen(capsys):
    assert main(["list", "--json"]) == 0
    found = Catalogue(json.loads(line) for line in capsys.readouterr().out.splitlines())
    both = ["scratch-cnn", "imagenet-efficientnet-lite0"]
    assert found.pairs(both, ["frozen", "scratch"]) == [(both[0], "scratch"), (both[1], "frozen")]
    assert "maml" in found.strategies_for([both[0]])
    assert "finetune" not in found.strategies_for([both[0]])
    every = {row["name"] for row in found.settings_for(["scratch", "frozen"])}
    assert {"augment", "imbalance", "lr"} <= every
    assert "patience" not in every
    assert found.settings_for([]) == []
    assert "oversample" in found.of("option")["imbalance"]["choices"]
    assert found.of("option")["augment"]["several"]
    assert found.of("imbalance")["oversample"]["title"] == "Oversampling"
    assert not os.environ.get(events.VARIABLE)
