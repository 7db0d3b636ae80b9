"""Atomic writes, locks between processes, and content hashes of files."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import ExitStack

import pytest
from filelock import Timeout

from core.files import (
    locked,
    publish,
    remove_unfinished,
    require_space,
    sha256_of,
    sole_writer,
    staging_folder,
    write_atomically,
)


def test_parts_are_distinguished():
    assert sha256_of(["ab", "c"]) != sha256_of(["a", "bc"])


def test_a_kill_in_the_middle_leaves_the_old_file_whole(tmp_path):
    target = tmp_path / "kept.bin"
    target.write_bytes(b"old" * 1000)
    script = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from core import files
        files.os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
        files.write_atomically(Path({str(target)!r}), b"new" * 5000)
        """
    )
    died = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": "."}, check=False)
    assert died.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old" * 1000


def test_an_error_leaves_no_partial_file(tmp_path, monkeypatch):
    target = tmp_path / "kept.bin"
    target.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("core.files.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.bin"]
    assert target.read_bytes() == b"old"


def in_a_thread(function):
    """Calls a function in another thread, which has locks of its own as another process has."""
    raised = []

    def call():
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def take(target):
    with locked(target, timeout=0):
        pass


def test_a_lock_keeps_others_out_and_leaves_no_file(tmp_path):
    target = tmp_path / "new" / "run"
    with locked(target):
        with locked(target, timeout=0):  # one's own
            pass
        assert isinstance(in_a_thread(lambda: take(target)), Timeout)
    assert in_a_thread(lambda: take(target)) is None
    assert list(target.parent.iterdir()) == []


def test_a_log_has_one_writer(tmp_path):
    def write():
        with sole_writer(tmp_path / "search.jsonl"):
            pass

    with locked(tmp_path / "search.jsonl"):
        assert "Another process is writing search.jsonl" in str(in_a_thread(write))
    assert in_a_thread(write) is None


def test_what_a_living_process_writes_stays_and_the_rest_goes(tmp_path, monkeypatch):
    """Folders as after a kill -9, next to those of a process that is still writing."""
    for name in (".gone.partial", ".gone.1234.partial", "data/.gone.partial", ".kept.before", ".new.before", "new"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
    sent = "sent/hash/maker/model/.model.safetensors.ab12.partial"
    for name in (".run.json.ab12.partial", ".run.lock", "data/sub/.x.partial", sent, "visible.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    fsync = os.fsync

    def cleaned_meanwhile(handle):
        assert in_a_thread(lambda: remove_unfinished([tmp_path])) is None
        fsync(handle)

    monkeypatch.setattr("core.files.os.fsync", cleaned_meanwhile)
    with staging_folder(tmp_path / "mine") as staging:
        write_atomically(staging / "file", b"mine")
        publish(staging, tmp_path / "mine")
    remove_unfinished([tmp_path, tmp_path / "missing"])
    left = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"mine/file": "mine", "kept/file": ".kept.before", "new/file": "new", "visible.lock": ""}


def test_an_error_while_a_folder_is_replaced_keeps_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "run"
    target.mkdir()
    (target / "file").write_text("old")
    replace, calls = os.replace, []

    def fails_at_last(source, to):
        calls.append(to)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        replace(source, to)

    with ExitStack() as stack:
        staging = stack.enter_context(staging_folder(target))
        monkeypatch.setattr("core.files.os.replace", fails_at_last)
        with pytest.raises(OSError, match="No space"):
            publish(staging, target)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (target / "file").read_text() == "old"


def test_a_lack_of_space_for_mapped_memory_is_the_error_of_a_full_disk(tmp_path):
    require_space(tmp_path, 1)
    with pytest.raises(OSError, match="No space left"):
        require_space(tmp_path, 2**60)
