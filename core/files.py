"""Files on disk: atomic writes, locks between processes and hashes, independent of the files' meaning.

An unfinished file or folder has a hidden name next to its target, and a lock, which the operating system releases when
the process dies. One that is not locked was therefore left by a killed process.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from core.errors import BadRequest

if TYPE_CHECKING:
    from _typeshed import SupportsRead

_CHUNK = 1 << 20
_LOCK, _PARTIAL, _BEFORE = ".lock", ".partial", ".before"
_DEPTH = 5  # levels of folders that are searched for unfinished writes: sent/<hash>/<maker>/<model>/ in the cache


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file atomically: a reader sees the old or the new content, never a part, even if the process dies."""
    write_stream_atomically(path, io.BytesIO(content))


def write_stream_atomically(path: Path, content: SupportsRead[bytes]) -> None:
    """Replace a file atomically by the content of a stream of any length, copied in chunks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _hidden(path, f".{secrets.token_hex(4)}{_PARTIAL}")
    with FileLock(partial):  # creates the file; the lock ends with the process
        try:
            with partial.open("wb") as file:
                shutil.copyfileobj(content, file, _CHUNK)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def locked(target: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock of a file or folder, which need not exist; a thread may take a lock that it already holds.

    Args:
        target: the file or folder.
        timeout: seconds to wait for another process or thread; negative waits forever.
    Raises:
        filelock.Timeout: if another one holds the lock.
        OSError: if the parent folder cannot be written to.
    """
    lock = FileLock(_hidden(target, _LOCK), is_singleton=True)
    with lock.acquire(timeout):
        try:
            yield
        finally:
            if lock.lock_counter == 1:
                Path(lock.lock_file).unlink(missing_ok=True)


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Hold the lock of a log while a command continues it.

    Raises:
        BadRequest: if another process holds it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path, timeout=0))
        except Timeout:
            raise BadRequest(
                f"Another process is writing {path.name}. Wait until it ends, or name another --log."
            ) from None
        yield


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder for the new content of a folder, to be published; the target is locked meanwhile.

    At the end everything that was not moved out is deleted.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target):
        _tidy(target)
        staging = _hidden(target, _PARTIAL)
        staging.mkdir()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def publish(staging: Path, target: Path) -> None:
    """Move a finished folder into place; a kill leaves the old or the new folder, an error leaves the old one."""
    try:
        if target.exists():
            os.replace(target, _hidden(target, _BEFORE))
        os.replace(staging, target)
    finally:
        _tidy(target)


def remove_unfinished(roots: Iterable[Path]) -> None:
    """Remove what killed processes left half-written below some folders; files of running processes stay.

    A folder whose replacement was interrupted is restored.
    """
    for root in roots:
        for folder, folders, files in os.walk(root):
            for path in (Path(folder, name) for name in (*folders, *files) if name.startswith(".")):
                with suppress(OSError):  # in use, already removed, or read-only
                    if path.suffix == _PARTIAL and path.is_file():
                        with FileLock(path).acquire(timeout=0):
                            path.unlink()
                    elif path.suffix in (_LOCK, _PARTIAL, _BEFORE):
                        target = path.with_name(path.stem[1:])
                        with locked(target, timeout=0):
                            _tidy(target)
            if len(Path(folder).relative_to(root).parts) == _DEPTH - 1:
                folders.clear()


def _hidden(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}{suffix}")


def _tidy(target: Path) -> None:
    """Undo or finish the replacement of a folder, and remove what was staged for it."""
    before = _hidden(target, _BEFORE)
    if before.exists() and not target.exists():
        os.replace(before, target)
    for path in (before, _hidden(target, _PARTIAL)):
        shutil.rmtree(path, ignore_errors=True)


def require_space(folder: Path, size: int) -> None:
    """Raise the error of a full disk unless `size` bytes are free: writing to mapped memory would end the process."""
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces, so that equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def sha256_of(parts: Iterable[bytes | str]) -> str:
    """Return the SHA-256 over length-prefixed parts, so that ["ab", "c"] and ["a", "bc"] differ."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached_sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, computed again only if its size or modification time changes."""
    stat = path.stat()
    return _sha256_once(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=2**16)  # files of 20,000 runs
def _sha256_once(path: str, size: int, modified_ns: int) -> str:
    return sha256_of_file(Path(path))
