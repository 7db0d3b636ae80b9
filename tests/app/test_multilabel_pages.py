"""Pages on multilabel tasks, on variants, and on runs with permitted leaks."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from core.data.datasets.phantom import make_phantom_of_findings
from core.data.images import encode_png
from core.ui.text import LEAK_MARK
from tests.app.test_pages import open_page, texts, upload
from tests.synthetic_runs import STRONG, WEAK, make_run


def test_diagnose_explains_the_most_certain_finding_or_the_chosen_one(findings_runs, monkeypatch):
    app = open_page("diagnose", findings_runs, monkeypatch)
    app = upload(app, [("a.png", encode_png(make_phantom_of_findings(3, [True, False, True])[0]))])
    assert not app.exception
    assert app.metric[0].label.startswith("Probability of")
    assert "Decision:" in texts(app)
    assert set(app.dataframe[0].value["Class"]) == {"Opacity", "Nodule", "Effusion"}
    app.selectbox(key="diagnose_phantom-multilabel_target").set_value(1).run()
    assert not app.exception
    assert app.metric[0].label == "Probability of nodule"


def test_compare_evaluates_all_findings_or_one(findings_runs, monkeypatch):
    app = open_page("compare", findings_runs, monkeypatch)
    assert not app.exception
    mean = app.dataframe[0].value["AUROC"][0]
    app.selectbox(key="compare_finding_phantom-multilabel").set_value(1).run()
    assert not app.exception
    assert app.dataframe[0].value["AUROC"][0] != mean


def test_a_finding_that_cannot_be_evaluated_is_reported_and_breaks_no_page(tmp_path, monkeypatch):
    def forget(held_out, test):
        return held_out, replace(test, labels=np.where(np.arange(2) == 1, np.nan, test.labels))

    for seed in (0, 1):
        for kind in (WEAK, STRONG):
            make_run(tmp_path, kind, 20, seed, 2.0, task="multilabel", change=forget)
    for page, key in (("compare", "compare_finding_phantom"), ("learning_curves", "curves_finding_phantom")):
        app = open_page(page, tmp_path, monkeypatch)
        app.selectbox(key=key).set_value(1).run()
        assert not app.exception
        assert "y cannot be evaluated" in texts(app)


@pytest.mark.parametrize("name", ["learning_curves", "compare"])
def test_variants_are_hidden_until_requested(name, findings_runs, monkeypatch):
    app = open_page(name, findings_runs, monkeypatch)
    assert len(app.dataframe[0].value) == 1
    picker = app.multiselect[0]
    assert "preparation=clahe" in picker.options[1]
    picker.select(picker.options[1]).run()
    assert not app.exception
    assert len(app.dataframe[0].value) == 2


@pytest.mark.parametrize("name", ["learning_curves", "compare"])
def test_series_made_with_leaks_allowed_are_marked_beside_the_banner(name, tmp_path, monkeypatch):
    make_run(tmp_path, STRONG, 20, 0, 2.0, leaks=7)
    app = open_page(name, tmp_path, monkeypatch)
    assert not app.exception
    assert LEAK_MARK in app.multiselect[0].options[0]
    assert app.dataframe[0].value["Series"].str.contains(LEAK_MARK).all()


def test_runs_made_with_leaks_allowed_are_marked_on_diagnose(phantom_runs, tmp_path, monkeypatch):
    store = tmp_path / "store"
    shutil.copytree(phantom_runs, store)
    for path in store.glob("phantom/*/run.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "leaks": 7}))
    app = open_page("diagnose", store, monkeypatch)
    app.toggle(key="diagnose_example").set_value(True).run()
    assert not app.exception
    assert "leaks allowed" in texts(app)
