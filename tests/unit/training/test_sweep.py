"""Sweeps of several processes on one store share the work: nothing is trained twice, and nothing is lost."""

import errno
import shutil
import threading
from types import SimpleNamespace

import pytest

from core.files import locked
from core.jobs import events
from core.runs import open_store
from tests import PATIENCE
from trainer.cli import main
from trainer.progress import print_status

SWEEP = ["curve", "--dataset", "phantom", "--models", "scratch-cnn", "--strategies", "scratch", "--sizes", "2"]
SWEEP += ["--seeds", "0,1,2"]


def test_a_full_disk_and_a_read_only_store_end_in_a_sentence(runs, short_training, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    usage = SimpleNamespace(free=10_000)
    with monkeypatch.context() as patch:
        patch.setattr("core.files.shutil.disk_usage", lambda folder: usage)
        assert main(SWEEP) == 74
    assert "The disk is full (No space left on device). Free some space. Finished runs" in capsys.readouterr().err

    def read_only(path, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("filelock._unix.os.open", read_only)
    assert main(SWEEP) == 2
    assert "Read-only file system. Let the user who runs Lowshot write there" in capsys.readouterr().err
    assert not open_store(runs).runs


@pytest.mark.parametrize("dies", [False, True], ids=["it stores the run", "it is killed"])
def test_a_run_that_another_process_trains_comes_last(runs, tmp_path, short_training, monkeypatch, capsys, dies):
    monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path / "other"))
    assert main(SWEEP) == 0
    theirs = next(path for path in (tmp_path / "other" / "phantom").iterdir() if "-s0-" in path.name)
    monkeypatch.setenv("LOWSHOT_RUNS", str(runs))
    held, waited_for = threading.Event(), threading.Event()

    def say(text):
        print_status(text)
        if text.startswith("waiting: "):
            waited_for.set()

    monkeypatch.setattr("trainer.progress.print_status", say)

    def train_elsewhere():
        with locked(runs / "phantom" / theirs.name):
            held.set()
            waited_for.wait(PATIENCE)
            if not dies:
                shutil.copytree(theirs, runs / "phantom" / theirs.name)

    monkeypatch.setenv(events.VARIABLE, str(tmp_path / "progress.jsonl"))
    other = threading.Thread(target=train_elsewhere)
    other.start()
    assert held.wait(PATIENCE)
    assert main(SWEEP) == 0
    other.join()
    assert "waiting: scratch-cnn scratch n=2 seed 0: another process works on it" in capsys.readouterr().err
    finished = [event for event in events.read(tmp_path / "progress.jsonl") if event["kind"] == "run"]
    assert [(event["seed"], event["trained"]) for event in finished] == [(1, True), (2, True), (0, dies)]
    assert {folder.name for folder in (runs / "phantom").iterdir()} == {meta.run for meta in open_store(runs).metas()}
    metrics = [{meta.run: meta.metrics for meta in open_store(store).metas()} for store in (runs, tmp_path / "other")]
    assert metrics[0] == metrics[1]
