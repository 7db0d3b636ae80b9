"""The server answers once libraries and records of runs are loaded; a store that cannot be read does not stop it."""

import subprocess
import sys
from pathlib import Path

from core.paths import PROJECT
from tests.browser.server import process

START = """
import asyncio
import core.runs
import streamlit_app

async def start():
    async with streamlit_app.loaded(streamlit_app.app):
        print("answers")

def away():
    print("reads the store")
    raise OSError("the disk is away")

core.runs.open_store = away
asyncio.run(start())
"""


def test_the_server_loads_its_libraries_before_it_answers():
    with process() as (_, pid):
        assert "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def test_the_server_starts_without_its_store():
    done = subprocess.run([sys.executable, "-c", START], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["reads the store", "answers"]
