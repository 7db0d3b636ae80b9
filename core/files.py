"""Files on disk: atomic writes and hashes, independent of the files' meaning."""

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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import SupportsRead

_CHUNK = 1 << 20


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file atomically: a reader sees the old or the new content, never a part, even if the process dies."""
    write_stream_atomically(path, io.BytesIO(content))


def write_stream_atomically(path: Path, content: SupportsRead[bytes]) -> None:
    """Replace a file atomically by the content of a stream of any length, copied in chunks."""
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


@lru_cache(maxsize=4096)
def _sha256_once(path: str, size: int, modified_ns: int) -> str:
    return sha256_of_file(Path(path))
