"""Page times: a grown store is valid, pages show it, and the table is stored. No page is timed here."""

from collections import Counter

import pytest

from benchmarks import __main__ as command
from benchmarks import page_times
from benchmarks.harness import read_results
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


@pytest.fixture
def timed(runs, tmp_path, monkeypatch):
    """A store of four runs; `main` times nothing, but finds `times` and lists in `shown` what it would have timed."""
    make_families(runs, sizes=(10,), seeds=(0, 1))
    times: dict = {"start": {"cold": 2.96, "warm": 1.0}, "compare / Training": {"cold": 4.0, "warm": 1.9}}
    times[page_times.LIMIT], shown = {"cold": 5.5, "warm": 2.5}, []

    def print_times(pages, store):
        shown.append((pages, len(open_store(store).runs)))
        return times

    monkeypatch.setattr(page_times, "_print_times", print_times)
    monkeypatch.setattr(page_times, "busy_share", lambda: 0.0)
    return times, shown, tmp_path / "results.json"


def test_the_table_is_of_the_grown_store(timed):
    _, shown, results = timed
    argv = ["compare", "--results", str(page_times.path_beside(results))]
    assert page_times.main([*argv, "--runs", "24"]) == 0
    assert page_times.main(argv) == 0
    assert shown == [(["compare"], 24), (["compare"], 4)]
    assert not page_times.path_beside(results).exists()  # some pages only


@pytest.mark.parametrize(
    ("what", "slow"),
    [("start", {"cold": 3.1, "warm": 1.0}), ("start", {"cold": 1.0, "warm": 2.1}), ("data", {"cold": 5.1, "warm": 1})],
)
def test_a_slow_page_is_a_failure(what, slow, timed):
    times, _, results = timed
    argv = ["--results", str(page_times.path_beside(results))]
    assert page_times.main(argv) == 0
    times[what] = slow
    assert page_times.main(argv) == 1


def test_the_times_of_all_pages_are_stored_for_the_document(timed, tmp_path):
    times, _, results = timed
    path, document = page_times.path_beside(results), tmp_path / "performance.md"
    document.write_text("<!-- benchmarks: pages -->\n<!-- end of benchmarks -->\n")
    write = ["--write", str(document), "--results", str(results)]
    assert command.main(write) == 0
    assert "Not measured yet" in document.read_text()
    page_times.main(["--results", str(path)])
    times["start"] = {"cold": 3.5, "warm": 1.0}
    page_times.main(["--results", str(path), "--runs", "24"])
    assert list(read_results(path)) == ["pages", "pages 24"]
    assert command.main(write) == 0
    text = document.read_text()
    assert text.count("| compare / Training | 4.0 | 1.9 | at most 5 s and 2 s: reached |") == 2
    assert "| start | 3.0 | 1.0 | at most 3 s and 2 s: reached |" in text
    assert "| start | 3.5 | 1.0 | at most 3 s and 2 s: missed |" in text
    assert text.count("| an app with one chart | 5.5 | 2.5 | the limit |") == 2
    assert "A store of 4 runs on" in text
    assert "A store of 24 runs on" in text
