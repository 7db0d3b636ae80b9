"""What a training reports while it runs and as it ends: progress, and the reason of a failure."""

import errno
import json
import subprocess
import sys
import time

import pytest

from core.errors import BadRequest
from core.jobs import events, records
from tests import PATIENCE
from tests.unit.jobs.test_records import REQUEST
from trainer import progress
from trainer.cli import explain, main


@pytest.fixture
def job(tmp_path):
    return records.create(tmp_path / "jobs", REQUEST)


def test_progress_is_written_and_read(tmp_path, monkeypatch, capsys):
    path = tmp_path / "progress.jsonl"
    with progress.progress_bar("unfollowed"):
        progress.write_event("epoch", epoch=0)
    assert not path.exists()
    monkeypatch.setenv(events.VARIABLE, str(path))
    with progress.progress_bar("curve", "run") as runs, progress.progress_bar("one", "step") as steps:
        runs(0, 2)
        for step in range(1, 1001):
            steps(step, 1000)
        progress.write_event("epoch", epoch=1, train_loss=0.5)
        progress.print_status("a note")
        runs(1, 2)
    with path.open("a") as file:
        file.write('{"kind": "bar", "cut')
    assert capsys.readouterr().err == "a note\n"
    lines = events.read(path)
    assert len(lines) < 12, "a bar tells of itself once a second"
    found = events.progress_of(lines)
    assert (found.runs_done, found.runs_total, found.title, found.of_run) == (1, 2, "one", 1.0)
    assert found.epochs[0]["train_loss"] == 0.5
    assert [text for _, text in found.texts] == ["a note"]
    assert found.last == pytest.approx(time.time(), abs=PATIENCE)


def test_the_training_curve_is_that_of_the_fold_under_way():
    rows = [{"kind": "epoch", "epoch": epoch, "train_loss": loss} for epoch, loss in [(0, None), (5, 0.4), (0, None)]]
    assert [row["epoch"] for row in events.progress_of(rows[:2]).epochs] == [0, 5]
    assert [row["epoch"] for row in events.progress_of(rows).epochs] == [0]


def test_a_full_disk_does_not_end_a_training_that_is_followed(monkeypatch):
    monkeypatch.setenv(events.VARIABLE, "/dev/full")
    progress.write_event("epoch", epoch=1)
    monkeypatch.setenv(events.VARIABLE, "/nowhere/at/all")
    progress.write_event("epoch", epoch=1)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 74, "disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "/store/x"), 2, "/store/x: Read-only file system. Let the user"),
        (PermissionError(errno.EACCES, "Permission denied", "/store/x"), 2, "choose another folder: LOWSHOT_RUNS"),
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
def test_a_command_reports_how_it_ended(error, code, said, tmp_path, monkeypatch, capsys):
    def fail(arguments):
        raise error

    monkeypatch.setenv(events.VARIABLE, str(tmp_path / "progress.jsonl"))
    monkeypatch.setattr("trainer.commands.list.run", fail)
    assert main(["list"]) == code
    assert said in capsys.readouterr().err
    end = events.read(tmp_path / "progress.jsonl")[-1]
    assert (end["kind"], end["code"]) == ("end", code)
    assert said in end["why"]


def test_an_error_that_is_not_known_is_not_hidden(tmp_path, monkeypatch):
    def fail(arguments):
        raise ZeroDivisionError

    assert explain(ZeroDivisionError()) is None
    assert explain(RuntimeError("shape")) is None
    monkeypatch.setenv(events.VARIABLE, str(tmp_path / "progress.jsonl"))
    monkeypatch.setattr("trainer.commands.list.run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["list"])
    assert events.read(tmp_path / "progress.jsonl")[-1] | {"time": 0} == {
        "time": 0, "kind": "end", "code": 1, "why": "",
    }  # fmt: skip


def test_memory_that_really_runs_out_is_known():
    """The allocators' own errors, of NumPy and of PyTorch, under a limit of the system."""
    code = """
import resource, numpy, psutil, torch
from trainer.cli import explain
now = psutil.Process().memory_info().vms + 2**28
resource.setrlimit(resource.RLIMIT_AS, (now, now))
for ask in (lambda: torch.ones(2**32), lambda: numpy.ones(2**32)):
    try:
        ask()
    except BaseException as error:
        print(*explain(error))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line[:17] for line in said] == ["2 Memory ran out."] * 2


def test_a_curve_that_could_not_go_on_is_no_job_done(job, runs, monkeypatch, capsys):
    monkeypatch.setenv(events.VARIABLE, str(job.folder / records.PROGRESS))
    argv = ["curve", "--dataset", "phantom", "--models", "scratch-cnn", "--strategies", "scratch", "--sizes", "20,2"]
    argv += ["--seeds", "0", "--epochs", "1", "--min-steps", "0", "--patience", "0", "--batch-size", "16", "--json"]
    code = main(argv)
    assert code == 2
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert row["train_size"] == 20
    state = records.final_state(job, code, 9.0)
    assert (state.status, state.kept, state.total) == ("failed", 1, 2)
    assert "1 of 1 pairs of model and strategy could not continue" in state.why
    assert "scratch-cnn scratch n=2 seed 0" in state.why
    assert "batch" in state.why


def test_a_curve_in_which_every_training_diverged_reports_it(job, runs, monkeypatch, capsys):
    monkeypatch.setenv(events.VARIABLE, str(job.folder / records.PROGRESS))
    argv = ["curve", "--dataset", "phantom", "--models", "scratch-cnn", "--strategies", "scratch", "--sizes", "3"]
    argv += ["--seeds", "0,1", "--epochs", "3", "--min-steps", "0", "--lr", "1e25", "--optimizer", "sgd"]
    code = main([*argv, "--clip", "1e30"])
    assert code == 2
    assert "failed: scratch-cnn scratch n=3 seed 0" in capsys.readouterr().err
    state = records.final_state(job, code, 9.0)
    assert (state.status, state.kept, state.total) == ("failed", 0, 2)
    assert "The training of all 2 runs failed" in state.why
    assert "--lr" in state.why
