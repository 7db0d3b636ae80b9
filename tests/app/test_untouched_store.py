"""Showing results changes nothing in the run store, so that servers which only show them may have it read-only."""

import pytest
from streamlit.testing.v1 import AppTest

from core.data.datasets.phantom import phantom_at
from core.data.images import encode_png
from tests import PATIENCE
from tests.app.test_pages import upload

pytestmark = pytest.mark.usefixtures("frame")


def state(store):
    """Every file and folder with the time of its last change; a file that comes and goes changes that of its folder."""
    return {path: path.stat().st_mtime_ns for path in [store, *store.rglob("*")]}


def test_pages_and_an_answer_leave_the_store_as_it_was(phantom_runs, monkeypatch):
    monkeypatch.setenv("LOWSHOT_RUNS", str(phantom_runs))
    before = state(phantom_runs)
    app = AppTest.from_file("../../streamlit_app.py", default_timeout=PATIENCE)
    app.run()
    for name in ("learning_curves", "compare", "data", "models", "diagnose"):
        app.switch_page(f"pages/{name}.py").run()
        assert not app.exception
    upload(app, [("one.png", encode_png(phantom_at(6001).pixels))])
    assert len(app.metric) == 2
    assert state(phantom_runs) == before
