"""How long pages take in a real browser, cold and warm, in seconds.

Run `python -m benchmarks.page_times` or, for some pages only, `python -m benchmarks.page_times compare start`. Cold is
the first visit of a freshly started server with an empty cache of its own; warm is the second visit, by another
visitor. A section is opened by a click and timed from there. The stored runs are those of `LOWSHOT_RUNS`, by default
the shipped ones. Needs Chromium and the packages of `requirements-dev.txt`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from tests.browser.server import browser, new_page, running

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
WARM, COLD = 2.0, 5.0  # the longest that a page should take
READY = """() => {
    const app = document.querySelector('[data-testid=stApp]')
    return app?.dataset.testScriptState === 'notRunning' && document.querySelector('h1')
        && !document.querySelector('[data-stale=true], [data-testid=stSpinner], [data-testid=stSkeleton]')
}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of all pages and sections; returns 0."""
    parser = argparse.ArgumentParser(description="Time the pages in a browser.")
    parser.add_argument("pages", nargs="*", help=f"of {', '.join(PAGES)} (default: all)")
    chosen = parser.parse_args(arguments).pages or list(PAGES)
    if unknown := set(chosen) - set(PAGES):
        parser.error(f"no such page: {', '.join(sorted(unknown))}; the pages are {', '.join(PAGES)}")
    print(f"{'page':<32}{'cold':>7}{'warm':>7}")
    for name in chosen:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["LOWSHOT_CACHE"] = cache
            with running() as address, browser() as opened:
                cold, warm = (_times(opened, address, name) for _ in range(2))
        for section in cold:
            slow = " slow" if cold[section] > COLD or warm[section] > WARM else ""
            print(
                f"{' / '.join(filter(None, (name, section))):<32}{cold[section]:7.1f}{warm[section]:7.1f}{slow}",
                flush=True,
            )
    return 0


def _times(opened: Browser, address: str, name: str) -> dict[str, float]:
    """Return the seconds that a page ("") and each of its sections take to be complete."""
    page = new_page(opened)
    began = perf_counter()
    page.goto(f"{address}/{name}")
    times = {"": _until_complete(page, began)}
    for section in PAGES[name]:
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
