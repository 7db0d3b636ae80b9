"""The server answers once its libraries are loaded, so that its first visitor does not wait for them."""

from pathlib import Path

from tests.browser.server import process


def test_the_server_loads_its_libraries_before_it_answers():
    with process() as (_, pid):
        assert "libtorch" in Path(f"/proc/{pid}/maps").read_text()
