"""How long pages take in a real browser, cold and warm, in seconds.

Run `python -m benchmarks.page_times` or, for some pages only, `python -m benchmarks.page_times compare start`. Cold is
the first visit of a freshly started server with an empty cache of its own; warm is the second visit, by another
visitor. A section is opened by a click and timed from there. An app that shows one small chart and nothing else is the
limit: Streamlit, the browser and the library of the charts take as long in every app.

The stored runs are those of `LOWSHOT_RUNS`, by default the shipped ones. With `--runs 10000` they are those runs and
copies of them under new sizes and seeds, in a temporary store. The times of all pages are stored next to the results of
`python -m benchmarks`, whose `--write` puts them into its document. Needs Chromium and the packages of
`requirements-dev.txt`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.harness import (
    RESULTS,
    Record,
    Values,
    busy_share,
    describe_machine,
    read_results,
    recorded_code,
    recorded_versions,
    write_results,
)
from core.errors import BadRequest
from core.files import sha256_of
from core.paths import runs_folder
from core.runs import open_store
from core.runs.store import RUN_FILE
from tests.browser.server import browser, new_page, process, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGES = {  # page -> its sections, which a click opens
    "start": (),
    "diagnose": (),
    "learning_curves": ("Label efficiency",),
    "compare": (
        "Differences", "External test", "Operating point", "Confusion", "Prediction sets", "Two stages", "Training",
    ),
    "data": ("Images",),
    "models": ("Networks",),
    "train": (),
}  # fmt: skip
NAME, STORED = "pages", "pages.json"  # in the folder of the other results
LIMIT = "an app with one chart"
ONE_CHART = """import streamlit as st

st.title("One chart")
st.plotly_chart({"data": [{"y": [1, 2, 3]}]})
"""
STORE = "store"  # the side that records the number of runs
WARM, COLD, FIRST = 2.0, 5.0, 3.0  # maximum seconds of a page: warm, cold, and for a cold visit of Start
READY = """() => {
    const app = document.querySelector('[data-testid=stApp]')
    return app?.dataset.testScriptState === 'notRunning' && document.querySelector('h1')
        && !document.querySelector('[data-stale=true], [data-testid=stSpinner], [data-testid=stSkeleton]')
}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of all pages and sections, and store it; returns 1 if one is slow, else 0."""
    parser = argparse.ArgumentParser(description="Time the pages in a browser.")
    parser.add_argument("pages", nargs="*", help=f"of {', '.join(PAGES)} (default: all)")
    parser.add_argument("--runs", type=int, metavar="N", help="number of runs in the store (default: those there are)")
    parser.add_argument("--results", type=Path, default=path_beside(), metavar="FILE", help="(default: %(default)s)")
    asked = parser.parse_args(arguments)
    chosen = asked.pages or list(PAGES)
    if unknown := set(chosen) - set(PAGES):
        parser.error(f"no such page: {', '.join(sorted(unknown))}; the pages are {', '.join(PAGES)}")
    with tempfile.TemporaryDirectory() if asked.runs else nullcontext() as folder:
        store = runs_folder()
        if folder:
            store = Path(folder)
            try:
                grow(runs_folder(), store, asked.runs)
            except BadRequest as error:
                parser.error(str(error))
        runs, busy = len(open_store(store).runs), busy_share()
        times = _print_times(chosen, store)
    if set(chosen) == set(PAGES):
        measured = {what: [values] for what, values in times.items()} | {STORE: [{"runs": runs}]}
        today = datetime.now(UTC).date().isoformat()
        record = Record(describe_machine(), recorded_versions(), 1, today, busy, measured, recorded_code())
        name = f"{NAME} {asked.runs}" if asked.runs else NAME
        write_results(asked.results, read_results(asked.results) | {name: record})
    return int(any(is_slow(what, values) for what, values in times.items()))


def path_beside(results: Path = RESULTS) -> Path:
    """Return the file of page times, given the file of the other results."""
    return results.with_name(STORED)


def limits(what: str) -> tuple[float, float]:
    """Return the seconds that a page or section should take at most, cold and warm."""
    return (FIRST if what == "start" else COLD), WARM


def is_slow(what: str, values: Values) -> bool:
    """Return whether a page or section exceeds one of its limits; the values are its seconds, `cold` and `warm`."""
    cold, warm = limits(what)
    return what != LIMIT and bool(values["cold"] > cold or values["warm"] > warm)


def grow(store: Path, target: Path, count: int) -> None:
    """Copy a run store, and its runs again under new sizes and seeds, until there are enough runs.

    The sizes and the seeds of every series grow alike; runs on the full training set have new seeds only. A copy is
    another run in every respect that the program looks at: its name, its cell, its training images, and the last
    digits of its temperature, without which it would share the cached metrics of the run that it was copied from.

    Args:
        store: the run store.
        target: an empty folder.
        count: number of runs.
    Raises:
        BadRequest: if the store has none, or more than that.
    """
    runs = open_store(store).runs
    if not 0 < len(runs) <= count:
        raise BadRequest(f"Expected --runs to be at least the number of runs in {store}, {len(runs)}, but got {count}.")
    shutil.copytree(store, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("encoders"))
    for failed in open_store(target).failed:
        shutil.rmtree(failed)
    rounds = math.ceil(count / len(runs))
    across = math.ceil(math.sqrt(rounds))  # seeds of each size
    step = 1 + max(max(meta.seed, meta.train_size or 0) for meta in runs.values())
    copies = ((turn, folder) for turn in range(1, rounds) for folder in runs)
    for turn, folder in islice(copies, count - len(runs)):
        record = json.loads((folder / RUN_FILE).read_text())
        if record["train_size"] is None:
            record["seed"] += step * turn
        else:
            record["train_size"] += step * (turn // across)
            record["seed"] += step * (turn % across)
        record["run"] += f"-copy{turn}"
        record["subset_hash"] = sha256_of([record["subset_hash"], str(turn)])
        record["temperature"] *= 1 + 1e-9 * turn
        copy = target / record["dataset"] / record["run"]
        shutil.copytree(folder, copy)
        (copy / RUN_FILE).write_text(json.dumps(record))


def _print_times(pages: Sequence[str], store: Path) -> dict[str, Values]:
    """Print a row for each page and section, with a fresh server for each page; return them."""
    times: dict[str, Values] = {}
    print(f"{'page':<32}{'cold':>7}{'warm':>7}")
    for name in pages:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["LOWSHOT_CACHE"] = cache
            with running(store) as address, browser() as opened:
                cold, warm = (_times(opened, address, name) for _ in range(2))
        for section in cold:
            what = " / ".join(filter(None, (name, section)))
            times[what] = {"cold": round(cold[section], 2), "warm": round(warm[section], 2)}
            slow = " slow" if is_slow(what, times[what]) else ""
            print(f"{what:<32}{cold[section]:7.1f}{warm[section]:7.1f}{slow}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        (script := Path(folder) / "one_chart.py").write_text(ONE_CHART)
        with process(script=script) as (address, _), browser() as opened:
            cold, warm = (_times(opened, address, "") for _ in range(2))
    times[LIMIT] = {"cold": round(cold[""], 2), "warm": round(warm[""], 2)}
    print(f"{LIMIT:<32}{cold['']:7.1f}{warm['']:7.1f}", flush=True)
    return times


def _times(opened: Browser, address: str, name: str) -> dict[str, float]:
    """Return the seconds that a page ("") and each of its sections take to be complete."""
    page = new_page(opened)
    began = perf_counter()
    page.goto(f"{address}/{name}")
    times = {"": _until_complete(page, began)}
    for section in PAGES.get(name, ()):
        began = perf_counter()
        page.get_by_role("radio", name=section, exact=True).click()
        page.wait_for_timeout(100)  # until the click has reached the server
        times[section] = _until_complete(page, began)
    page.close()
    return times


def _until_complete(page: Page, began: float) -> float:
    page.wait_for_function(READY, polling=50)
    return perf_counter() - began


if __name__ == "__main__":
    raise SystemExit(main())
