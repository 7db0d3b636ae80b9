"""Showing results changes nothing in the run store, so that a server may mount it read-only."""

import pytest
from streamlit.testing.v1 import AppTest

from core.data.datasets.phantom import phantom_at
from core.data.images import encode_png
from tests import PATIENCE
from tests.app.test_pages import upload

pytestmark = pytest.mark.usefixtures("frame")


def state(store):
    """Return the time of the last change of every file and folder; a temporary file changes that of its folder."""
    return {path: path.stat().st_mtime_ns for path in [store, *store.rglob("*")]}


def test_pages_and_a_prediction_leave_the_store_unchanged(phantom_runs, monkeypatch):
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
