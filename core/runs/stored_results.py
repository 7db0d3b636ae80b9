"""Results that ship with the runs of a data set, so that pages show them without resampling any test image.

Intervals of a series at one size, differences between two series, and fitted learning curves are stored as they were
computed, in double precision: a page shows the same numbers with and without them. A result is found by a key over the
predictions and operating points of all its runs, the resampling, and `metric_cache.VERSION`, so it is never used for
other runs. `core.analysis.precomputed_results` writes the file. If it is missing or damaged, everything is computed.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from core.errors import CorruptRun
from core.files import sha256_of
from core.runs import Run
from core.runs.metric_cache import key_of
from core.runs.sidecar import read_sidecar, save_sidecar

FILE = "results.json"
Kind = Literal["intervals", "differences", "curves"]
Results = dict[Kind, dict[str, Any]]
Row = TypeVar("Row")


def result_key(runs: Sequence[Run], finding: int | None, *settings: str) -> str:
    """Return the key of a result.

    Args:
        runs: all runs that it depends on.
        finding: the finding, or class against the rest, that is evaluated; None for the task as it is.
        settings: whatever else it depends on.
    """
    return sha256_of([*settings, *(key_of(run, finding) for run in runs)])[:32]


def stored_result(kind: Kind, runs: Sequence[Run], finding: int | None, *settings: str) -> Any | None:
    """Return a stored result as it was packed; None if none is stored for exactly these runs and settings."""
    if not runs:
        return None
    path = runs[0].folder.parent / FILE
    try:
        status = path.stat()
    except OSError:
        return None
    results = _read(path.parent, status.st_mtime_ns, status.st_size).get(kind)
    return results.get(result_key(runs, finding, *settings)) if results else None


@lru_cache(maxsize=16)
def _read(folder: Path, changed: int, size: int) -> Mapping[str, Any]:
    try:
        return read_sidecar(folder, FILE) or {}
    except CorruptRun:  # results are computed again instead
        return {}


def save_results(folder: Path, results: Results) -> Path:
    """Store the results of a data set next to its runs; returns the path of the file."""
    return save_sidecar(folder, FILE, {str(kind): rows for kind, rows in results.items()})


def pack(row: Any) -> dict[str, Any]:
    """Convert a dataclass of numbers, texts, tuples and arrays to plain JSON types, without loss of precision."""
    return {field.name: _plain(getattr(row, field.name)) for field in fields(row)}


def unpack(kind: type[Row], record: Mapping[str, Any]) -> Row:
    """Convert the result of `pack` back to a dataclass."""
    types = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: _original(value, types[name]) for name, value in record.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return base64.b64encode(value.astype("<f8").tobytes()).decode()
    if isinstance(value, float) and math.isnan(value):
        return None
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _original(value: Any, of_type: str) -> Any:
    if "ndarray" in of_type:
        return np.frombuffer(base64.b64decode(value), "<f8")
    if value is None:
        return math.nan
    return tuple(_original(item, "") for item in value) if isinstance(value, list) else value
