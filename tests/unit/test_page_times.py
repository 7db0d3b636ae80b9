"""Page times with many runs: the grown store is valid, and pages show it. No time is checked."""

from collections import Counter

import pytest

from benchmarks import page_times
from core.runs import open_store
from core.runs.metric_cache import key_of
from tests.app.test_pages import open_page
from tests.synthetic_runs import make_families, make_run


@pytest.fixture
def grown(runs, tmp_path):
    make_families(runs, sizes=(10, 50), seeds=(0, 1))
    make_run(runs, ("scratch-cnn", "scratch"), 60, 0, 2.0, train_size=None)
    page_times.grow(runs, tmp_path / "grown", 63)
    return tmp_path / "grown"


def test_a_grown_store_has_as_many_different_runs(grown):
    store = open_store(grown)
    assert store.problems == {}
    assert len(store.runs) == len(store.metas()) == 63
    assert len({key_of(run, None) for rows in store.by_experiment.values() for run in rows}) == 63
    assert len({(meta.train_size, meta.seed, meta.subset_hash) for meta in store.metas()}) == 35
    sizes = Counter(meta.train_size for meta in store.metas() if meta.model == "scratch-cnn")
    assert len(sizes) == 7
    assert sizes[None] == 7
    assert {sizes[10], sizes[50]} == {6}


@pytest.mark.parametrize("page", ["compare", "learning_curves", "start"])
def test_pages_show_a_grown_store(page, grown, monkeypatch):
    assert not open_page(page, grown, monkeypatch).exception


def test_fewer_runs_than_there_are_cannot_be_asked_for(runs, capsys):
    make_families(runs, sizes=(10,), seeds=(0, 1))
    with pytest.raises(SystemExit, match="2"):
        page_times.main(["--runs", "3"])
    assert "4, but got 3" in capsys.readouterr().err


def test_the_table_is_of_the_grown_store(runs, monkeypatch):
    make_families(runs, sizes=(10,), seeds=(0, 1))
    shown = []
    monkeypatch.setattr(
        page_times, "_print_times", lambda pages, store: shown.append((pages, len(open_store(store).runs)))
    )
    assert page_times.main(["compare", "--runs", "24"]) == 0
    assert page_times.main(["compare"]) == 0
    assert shown == [(["compare"], 24), (["compare"], 4)]
