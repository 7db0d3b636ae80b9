"""What all pairs share: measurements in turn, their storage, new processes, and rows of figures.

A pair measures Lowshot and its peers at the same work. Its sides take turns, so that other load on the machine affects
all alike, and every measurement is stored at once, so that an interrupted benchmark continues where it stopped. Rows
are computed from stored measurements alone.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psutil

from core.errors import BadRequest, LowshotError
from core.files import write_atomically
from core.paths import PROJECT, code_hash, library_versions

RESULTS = PROJECT / "benchmarks" / "results.json"
BUSY = 0.2  # share of the processors in use by other programs above which measurements are doubtful
LOWER_IS_BETTER = ("s", "MiB")
_WATCH = 0.02  # seconds between two measurements of the memory

Values = dict[str, Any]
Side = Callable[[int], Values]  # number of the turn -> values; `seconds` is added unless it is among them
Measured = Mapping[str, list[Values]]  # name of the side -> its values in each turn


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        what: what was measured.
        unit: unit of the figures. Less is better for units in `LOWER_IS_BETTER`, else more.
        ours: Lowshot's figure.
        peer: the peer's figure; None if there is no peer.
        limit: the best figure that is possible here, such as that of the bare network; None if it is not known.
        least_ratio, least_share, most: goals for the ratio, the share of the limit and the figure itself.
        same_quality: whether Lowshot's results are as good as the peer's; a goal is missed otherwise.
        note: quality of both sides, or how a figure was computed.
    """

    what: str
    unit: str
    ours: float
    peer: float | None = None
    limit: float | None = None
    least_ratio: float | None = None
    least_share: float | None = None
    most: float | None = None
    same_quality: bool = True
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better Lowshot is than its peer."""
        return self._compared_with(self.peer)

    @property
    def limit_share(self) -> float | None:
        """Share of the limit that Lowshot reaches."""
        return self._compared_with(self.limit)

    def _compared_with(self, other: float | None) -> float | None:
        if other is None:
            return None
        return other / self.ours if self.unit in LOWER_IS_BETTER else self.ours / other

    @property
    def json_line(self) -> str:
        """The figures as a JSON object, for programs."""
        numbers = {name: getattr(self, name) for name in ("ours", "peer", "ratio", "limit_share")}
        rounded = {name: None if value is None else float(f"{value:.4g}") for name, value in numbers.items()}
        return json.dumps({"what": f"{self.what}, {self.unit}", **rounded})

    @property
    def goal(self) -> tuple[str, bool]:
        """The goal in words, "" for none, and whether it is reached."""
        goals = []
        if self.least_ratio is not None:
            goals.append((f"at least {self.least_ratio:g} times", (self.ratio or 0) >= self.least_ratio))
        if self.least_share is not None:
            goals.append((f"at least {self.least_share:.0%} of the limit", (self.limit_share or 0) >= self.least_share))
        if self.most is not None:
            goals.append((f"at most {self.most:g} {self.unit}", self.ours <= self.most))
        return " and ".join(text for text, _ in goals), self.same_quality and all(met for _, met in goals)


@dataclass(frozen=True)
class Pair:
    """A row of the table of pairs.

    Attributes:
        name: name that `--only` takes.
        title: what is compared, for people.
        minutes: how long it takes on two cores.
        sides: (whether at the smallest size, empty folder) -> what is measured in turn, by name.
        rows: measurements -> rows.
        needs: packages of `requirements-bench.txt` that it needs.
        turns: measurements of each side.
    """

    name: str
    title: str
    minutes: float
    sides: Callable[[bool, Path], Mapping[str, Side]]
    rows: Callable[[Measured], list[Row]]
    needs: tuple[str, ...] = ()
    turns: int = 3


@dataclass
class Record:
    """Measurements of a pair on one machine with one set of library versions, as they are stored.

    Attributes:
        machine, versions: machine and library versions of the measurements.
        turns: measurements of each side.
        date: day of the last one, as in ISO 8601.
        busy: largest share of the processors that other programs used.
        measured: the measurements.
        code: Lowshot's code when they began; "" in records from before this was stored.
    """

    machine: str
    versions: Mapping[str, str]
    turns: int
    date: str = ""
    busy: float = 0.0
    measured: dict[str, list[Values]] = field(default_factory=dict)
    code: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether every side has been measured in every turn."""
        return bool(self.measured) and all(len(values) >= self.turns for values in self.measured.values())


def read_results(path: Path) -> dict[str, Record]:
    """Return the stored measurements by pair; empty if there is no file.

    Raises:
        BadRequest: if the file holds something else.
    """
    if not path.exists():
        return {}
    try:
        return {name: Record(**record) for name, record in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadRequest(f"{path} does not hold results of benchmarks ({error}). Restore or delete it.") from None


def write_results(path: Path, results: Mapping[str, Record]) -> None:
    """Store the measurements of all pairs."""
    content = {name: asdict(record) for name, record in sorted(results.items())}
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def measure(pair: Pair, quick: bool, record: Record, save: Callable[[], None]) -> None:
    """Measure the sides of a pair in turn, leaving out what the record has; save after each measurement."""
    with tempfile.TemporaryDirectory(prefix="lowshot-bench-") as folder:
        sides = pair.sides(quick, Path(folder))
        record.measured = {name: record.measured.get(name, []) for name in sides}
        for turn in range(record.turns):
            for name, side in sides.items():
                if len(record.measured[name]) > turn:
                    continue
                print(f"{pair.name}: {name}, {turn + 1} of {record.turns}", file=sys.stderr)
                record.busy = max(record.busy, busy_share() if not quick else 0.0)
                start = perf_counter()
                values = side(turn)
                record.measured[name].append({"seconds": round(perf_counter() - start, 4), **values})
                record.date = datetime.now(UTC).date().isoformat()
                save()


def busy_share() -> float:
    """Return the share of the processors that programs use now."""
    return round(psutil.cpu_percent(interval=1.0) / 100, 2)


def calling(function: Callable[[], object], **values: Any) -> Side:
    """Return a side that calls a function and returns the same values in every turn."""

    def side(turn: int) -> Values:
        function()
        return values

    return side


def in_fresh_process(function: Callable[..., Values], *arguments: Any, **environment: str) -> Values:
    """Call a function of a module in a new Python process, with variables added to its environment.

    Args:
        function: takes and returns what JSON can hold.
        arguments: its arguments.
        environment: the variables.
    Returns:
        its values, and the share of the processor time that the system took (`system_share`).
    Raises:
        LowshotError: if the process fails; its own message has been printed.
    """
    code = (
        f"import json, sys; from {function.__module__} import {function.__name__} as call; "
        "print(json.dumps(call(*json.loads(sys.argv[1]))))"
    )
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        env=os.environ | environment, cwd=PROJECT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if done.returncode:
        raise LowshotError(f"{function.__name__} failed for the reason printed above, and the benchmark stopped.")
    after = os.times()
    user, system = after.children_user - before.children_user, after.children_system - before.children_system
    values: Values = json.loads(done.stdout.splitlines()[-1])
    return {"system_share": round(system / max(user + system, 1e-9), 3), **values}


def timed(function: Callable[[], object], **values: Any) -> Values:
    """Call a function; return the values, its seconds and the peak of the memory that only this process holds.

    Files that are mapped into memory do not count: the system drops their pages where it needs room.
    """
    process, over, peak = psutil.Process(), threading.Event(), [0]

    def watch() -> None:
        while not over.wait(_WATCH):
            held = process.memory_info()
            peak[0] = max(peak[0], held.rss - getattr(held, "shared", 0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = perf_counter()
    try:
        function()
    finally:
        seconds = perf_counter() - start
        over.set()
        watcher.join()
    return {"seconds": round(seconds, 4), "mib": round(peak[0] / 2**20), **values}


def middle(measured: Measured, side: str, value: str = "seconds") -> float:
    """Return the median of a side's values."""
    return float(median(row[value] for row in measured[side]))


def rate(measured: Measured, side: str) -> float:
    """Return a side's images per second."""
    return float(measured[side][0]["images"] / middle(measured, side))


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1


def describe_machine() -> str:
    """Return the processor, the number of usable cores, and the memory of this machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    memory = round(psutil.virtual_memory().total / 2**30)
    return f"{processor}, {cores()} cores, {memory} GiB, {platform.system()}, Python {platform.python_version()}"


def recorded_code() -> str:
    """Return the first digits of the hash of Lowshot's code."""
    return code_hash()[:8]


def recorded_versions() -> dict[str, str]:
    """Return the versions of the libraries on which speed depends; those that are missing are left out."""
    versions = library_versions()
    for package in ("fastai", "grad-cam", "onnxruntime", "streamlit"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
