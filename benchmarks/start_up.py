"""Start of the app until the first page is complete, and of the command line: pair 6."""

import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks.harness import Measured, Pair, Row, Side, Values, calling, middle
from core.paths import PROJECT
from tests.browser.server import process
from tests.load.visitor import Visitor

LIST, TORCH, PYTHON = "python -m trainer list", "import torch", "Python alone"
APP, BLANK = "app", "empty Streamlit app"
COMMANDS = {LIST: ("-m", "trainer", "list"), TORCH: ("-c", "import torch"), PYTHON: ("-c", "pass")}


def sides(quick: bool, folder: Path) -> Mapping[str, Side]:
    """Return commands and apps; each runs in a new process, the app with an empty cache."""
    blank = folder / "blank.py"
    blank.write_text("import streamlit\n\nstreamlit.title('Empty')\n")

    def command(arguments: tuple[str, ...]) -> None:
        subprocess.run([sys.executable, *arguments], cwd=PROJECT, stdout=subprocess.DEVNULL, check=True)

    def app(script: Path, page: str, turn: int) -> Values:
        with (
            process(script=script, LOWSHOT_CACHE=str(folder / f"cache{turn}")) as (address, _),
            Visitor(address, page) as visitor,
        ):
            return {"problem": visitor.opened.problem}

    return {name: calling(partial(command, arguments)) for name, arguments in COMMANDS.items()} | {
        APP: partial(app, PROJECT / "streamlit_app.py", "start"),
        BLANK: partial(app, blank, ""),
    }


def rows(measured: Measured) -> list[Row]:
    """Return the seconds of the command and of the app."""
    problems = {values["problem"] for values in measured[APP] if values["problem"]}
    return [
        Row(
            f"{LIST}, against {TORCH}", "s", middle(measured, LIST), middle(measured, TORCH), middle(measured, PYTHON),
            most=1.5, note="limit: Python alone",
        ),
        Row(
            "Start of the app until the page Start is complete", "s", middle(measured, APP),
            limit=middle(measured, BLANK), note="; ".join(["limit: an empty Streamlit app", *sorted(problems)]),
        ),
    ]  # fmt: skip


PAIR = Pair("start-up", "Start of the app and of the command line", 2, sides, rows)
