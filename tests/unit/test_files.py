"""Atomic writes and content hashes of files."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from core.files import sha256_of, write_atomically


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
