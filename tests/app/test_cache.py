"""The app recomputes cached values when the record of a run changes, even if its other files do not."""

import gc
import json
import os
import shutil
from dataclasses import replace

import streamlit as st

from core.analysis.contest import default_networks
from core.paths import PROJECT
from core.runs import Run, Store, open_store, read_run
from core.runs.series import estimate
from core.ui import cache
from tests.app.test_pages import open_page
from tests.synthetic_runs import STRONG, make_run


def test_estimates_follow_the_threshold_of_the_record(tmp_path):
    make_run(tmp_path, STRONG, 20, 0, 1.0)
    run = Run(*next(iter(open_store(tmp_path).runs.items())))
    before = cache.estimates([run])
    other = run._replace(meta=replace(run.meta, threshold=0.95))
    assert cache.estimates([other]) == estimate([other]) != before


def test_a_network_is_loaded_again_when_its_record_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "Predictor", read_run)
    folder = make_run(tmp_path, STRONG, 20, 0, 1.0)
    assert cache.predictor(Run(folder, read_run(folder))).temperature == 1
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "temperature": 7.5}))
    assert cache.predictor(Run(folder, read_run(folder))).temperature == 7.5


def test_the_store_is_read_again_only_when_a_file_is_added_changed_or_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path))
    assert not cache.store().runs
    folder = make_run(tmp_path, STRONG, 20, 0, 1.0)
    one = cache.store()
    assert list(one.runs) == [folder]
    hidden = folder.parent / ".being-written"
    hidden.mkdir()
    (hidden / "run.json").write_text("{")
    assert cache.store() is one
    (folder / "run.json").write_text("{")
    assert not cache.store().runs
    shutil.rmtree(folder)
    assert not cache.store().problems


def test_a_listing_is_read_again_when_a_file_changed_even_if_the_clock_was_set_back(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(cache, "find_dataset", lambda name: name)
    monkeypatch.setattr(cache, "find_folder", lambda spec: tmp_path)
    monkeypatch.setattr(cache, "list_images", lambda spec: read.append(spec) or object())
    for name in ("images.csv", "labels.csv"):
        (tmp_path / name).touch()
    before = cache.listing("set-of-tables")
    assert cache.listing("set-of-tables") is before
    os.utime(tmp_path / "labels.csv", (0, 0))
    assert cache.listing("set-of-tables") is not before
    assert len(read) == 2


def test_the_networks_of_diagnose_follow_the_store(phantom_runs, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path / "store"))
    assert cache.store_and_networks()[1] == {}
    shutil.copytree(phantom_runs, tmp_path / "store")
    store, networks = cache.store_and_networks()
    assert list(networks) == ["phantom"]
    defaults = {family: members[0].run for family, members in networks["phantom"].items()}
    assert defaults == default_networks(store, "phantom")
    assert store is cache.store()
    folder = next(iter(defaults.values()))[0]
    shutil.rmtree(folder)
    left = [network.run[0] for members in cache.store_and_networks()[1]["phantom"].values() for network in members]
    assert left
    assert folder not in left


def test_uploads_are_left_to_the_garbage_collector(tmp_path, monkeypatch):
    """Pages hold uploads in reference cycles, which only the collector frees; only libraries are exempt from it."""
    app = open_page("diagnose", PROJECT / "checkpoints", monkeypatch)
    assert gc.get_freeze_count() > 0
    st.cache_resource.clear()
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    app.run()
    cache.store()
    cache.predictor(cache.store_and_networks()[1]["phantom"]["scratch"][0].run)
    cache.image_checker("phantom", [])
    assert not frozen


def test_problems_of_runs_on_another_visitors_images_are_not_shown():
    problems = {
        "own-theirs/damaged": "run.json is damaged",
        "own-theirs/failed": "its training failed",
        "phantom/x": "x",
    }
    assert cache._without({"own-theirs"}, Store({}, problems, {})).problems == {"phantom/x": "x"}
