"""Results of a load test, as rows for programs and for a document; stored next to those of `make bench`.

The visitors themselves are those of `tests.load.load`. A record holds a side for each thing that visitors do, with the
median of its seconds, and the sides `visitors` and `memory`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, linear_regression
from typing import Any

from benchmarks.harness import RESULTS, Record

NAME = "load"
STORED = "load.json"  # in the folder of the other results, as `make bench` may run for hours and write its own file
MOST_GROWTH = 0.05  # share by which the memory may grow in the second half, along the fitted line
VISITORS, MEMORY = "visitors", "memory"
DOING = {"diagnose": "on Diagnose", "walk": "on Compare and Learning curves", "train": "on Train"}


def path_beside(results: Path = RESULTS) -> Path:
    """Return the file of a load test's record, given the file of the other results."""
    return results.with_name(STORED)


def growth(seconds: Sequence[float], held: Sequence[float]) -> float:
    """Return the growth of a quantity in the second half of its time, along a fitted line, as a share of its mean.

    Args:
        seconds: when it was measured, rising.
        held: the values.
    Returns:
        0 where there are too few values for a line.
    """
    half = [row for row in zip(seconds, held, strict=True) if row[0] >= seconds[-1] / 2]
    if len(half) < 3:
        return 0.0
    times, values = zip(*half, strict=True)
    return linear_regression(times, values).slope * (times[-1] - times[0]) / fmean(values)


def rows(record: Record) -> list[dict[str, Any]]:
    """Return a row for each thing that visitors did, and one for the memory of the server."""
    found = []
    for what, values in record.measured.items():
        if what not in (VISITORS, MEMORY):
            taken = values[0]
            figures = {"median": taken["seconds"], "p95": taken["p95"]}
            found.append({"what": f"{what}, s", **figures, "times": taken["times"], "errors": taken["errors"]})
    watched = record.measured[MEMORY]
    seconds, held = ([row[name] for row in watched] for name in ("seconds", "mib"))
    grown = growth(seconds, held)
    found.append({
        "what": "Memory of the server, MiB", "first": held[0], "half": held[len(held) // 2], "last": held[-1],
        "growth": round(grown, 4), "most_growth": MOST_GROWTH, "flat": grown < MOST_GROWTH,
        "peak_with_jobs": record.measured[VISITORS][0]["peak_mib"],
    })  # fmt: skip
    return found


def json_lines(record: Record) -> str:
    """Return the rows as JSON objects, one per line."""
    return "\n".join(map(json.dumps, rows(record)))
