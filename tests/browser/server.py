"""A real server and a real headless browser, for tests and for the README's screenshots.

`make screenshots` takes the pictures in `docs/` again, of synthetic phantoms only.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from tests import PATIENCE

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = (1280, 800)
AXE = Path(__file__).with_name("node_modules") / "axe-core" / "axe.min.js"  # installed by `make test`


def chromium():
    """Return the path of the browser, or None if none is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def running(store=None):
    """Run the app on a free port of the loopback interface; yield its address."""
    with process(store) as (address, _):
        yield address


@contextmanager
def process(store=None, script="streamlit_app.py", **environment):
    """Run the app or another script on a free port of the loopback interface; yield its address and process ID.

    Args:
        store: folder of the run store; None for the default one.
        script: path of the script.
        environment: further environment variables.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, **({"LOWSHOT_RUNS": str(store)} if store else {}), **environment}
    argv = [sys.executable, "-m", "streamlit", "run", str(script), f"--server.port={port}"]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:  # a full pipe that nobody reads would block the server
        server = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=log)
        try:
            _wait(address, server, log)
            yield address, server.pid
        finally:
            server.terminate()
            try:
                server.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(address, server, log):
    """Wait until the server responds."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if server.poll() is not None:
            log.seek(0)
            raise RuntimeError(f"The app stopped: {log.read()}")
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=PATIENCE).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("The app did not respond in time.")


@contextmanager
def browser():
    """Run a headless Chromium; yield its Playwright object."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            yield opened
        finally:
            opened.close()


def new_page(opened, width=1280):
    """Open a page whose timeouts suit a slow machine."""
    page = opened.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE * 1000)
    return page


def settle(page):
    """Wait until the script has finished, no element is stale, and the code of every element is loaded."""
    page.wait_for_selector("[data-testid=stApp]")
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
        " && !document.querySelector('[data-stale=true], [data-testid=stSkeleton]')"
    )
    page.wait_for_timeout(500)


def violations(page):
    """Return serious and critical violations that axe-core finds, and gaps between headings, with an element each."""
    page.add_script_tag(path=str(AXE))
    rows = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{row['id']}: {row['help']}: {row['nodes'][0]['html'][:200]}"
        for row in rows
        if row["impact"] in ("serious", "critical") or row["id"] == "heading-order"
    ]


def whole_page(page, width, path):
    """Save a screenshot of the whole page, including what is scrolled out of view."""
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(4000, max(700, height + 80))})
    page.wait_for_timeout(1000)
    page.screenshot(path=str(path))


def diagnose(page, address):
    """Show the predictions for a phantom on the Diagnose page."""
    page.goto(f"{address}/diagnose?task=phantom")
    settle(page)
    page.get_by_text("Show an example").click()
    page.wait_for_selector("[data-testid=stMetric]")
    settle(page)


SCREENSHOTS = {"diagnose.png": diagnose}


def main(folder):
    """Take the README's screenshots with the shipped phantom runs."""
    with running() as address, browser() as opened:
        for name, show in SCREENSHOTS.items():
            page = new_page(opened)
            show(page, address)
            whole_page(page, 1280, Path(folder) / name)
            page.close()


if __name__ == "__main__":
    main(sys.argv[1])
