"""JSON files stored next to the runs of a data set, with a hash that shows whether they are intact.

The module that writes a file defines its meaning. A statement about a run names the hash of the run's file from which
it was computed, so that it is never applied to another run.
"""

import json
from pathlib import Path
from typing import Any

from core.errors import CorruptRun
from core.files import canonical_json, sha256_of, write_atomically

_MOST_BYTES = 16_000_000


def save_sidecar(folder: Path, name: str, content: dict[str, Any]) -> Path:
    """Write a record into the folder of a data set's runs."""
    text = canonical_json(content)
    path = folder / name
    write_atomically(path, f'{{"sha256": "{sha256_of([text])}",\n "content": {text}}}\n'.encode())
    return path


def read_sidecar(folder: Path, name: str) -> dict[str, Any] | None:
    """Read a record stored next to the runs; None if there is none.

    Raises:
        CorruptRun: if it is damaged or was edited by hand.
    """
    path = folder / name
    if not path.exists():
        return None
    place = f"{folder.name}/{name}"
    try:
        if path.is_symlink() or path.stat().st_size > _MOST_BYTES:
            raise CorruptRun(f"{place} cannot be read (a link, or larger than {_MOST_BYTES:,} bytes)")
        record = json.loads(path.read_text())
        content, stated = record["content"], record["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptRun(f"{place} cannot be read ({error})") from None
    if not isinstance(content, dict) or sha256_of([canonical_json(content)]) != stated:
        raise CorruptRun(f"{place} was changed after it was written: its hash differs. Create it again")
    return content
