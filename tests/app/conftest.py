"""The frame around pages, and synthetic runs that tests of several sections read; none writes to them."""

import pytest
from streamlit.runtime.pages_manager import PagesManager

from tests.synthetic_runs import STRONG, WEAK, make_run


@pytest.fixture(scope="session")
def made_runs(tmp_path_factory):
    """Binary runs of two families of known strength."""
    store = tmp_path_factory.mktemp("made") / "runs"
    for seed in range(3):
        for kind, strength in ((WEAK, 0.5), (STRONG, 3.0)):
            make_run(store, kind, 20, seed, strength)
    return store


@pytest.fixture(scope="session")
def class_runs(tmp_path_factory):
    """Three-class runs of two families."""
    store = tmp_path_factory.mktemp("classes") / "runs"
    for seed in range(2):
        for kind, strength in ((WEAK, 1.0), (STRONG, 3.0)):
            make_run(store, kind, 20, seed, strength, task="multiclass")
    return store


@pytest.fixture
def frame(monkeypatch):
    """Run pages within the frame, as a server does; by default AppTest runs each file of `pages` by itself."""
    create = PagesManager.__init__

    def create_without_folder(self, *args, **fields):
        create(self, *args, **fields)
        PagesManager.uses_pages_directory = False

    monkeypatch.setattr(PagesManager, "__init__", create_without_folder)
