"""Files on disk: atomic writes and hashes. What the files mean is decided by the callers."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

_CHUNK = 1 << 20


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces `path` as a whole: a reader, or a kill in the middle, finds the old content or the new, never a part."""
    write_stream_atomically(path, io.BytesIO(content))


def write_stream_atomically(path: Path, content: IO[bytes]) -> None:
    """The same from a stream, copied in pieces, so that its length does not matter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(content, file, _CHUNK)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def sha256_of(parts: Iterable[bytes | str]) -> str:
    """SHA-256 over length-prefixed parts, so that ["ab", "c"] and ["a", "bc"] differ."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def sha256_unless_changed(path: Path) -> str:
    """SHA-256 of a file's content, computed again only when its size or time of change differs."""
    status = path.stat()
    return _sha256_once(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_once(path: str, size: int, changed: int) -> str:
    return sha256_of_file(Path(path))
