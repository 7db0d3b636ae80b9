"""External results on the pages: values side by side, each view by itself, and why a series was not evaluated."""

import pytest

from core.analysis import external
from core.metrics import METRICS
from core.runs import ExternalRecord, Run, add_external, read_run
from tests.app.test_compare_page import show
from tests.app.test_pages import open_page, texts
from tests.synthetic_runs import STRONG, WEAK, make_run
from tests.unit.analysis.test_external import NAME, evaluate


@pytest.fixture
def store(tmp_path):
    """One family evaluated on an external set, the other refused there."""
    for seed in range(2):
        evaluate(make_run(tmp_path, STRONG, 20, seed, 3.0), 1.0, same_archive=True)
        folder = make_run(tmp_path, WEAK, 20, seed, 1.0)
        add_external(folder, {NAME: ExternalRecord("Adults", refused="its encoder learned from them.")}, {})
    return tmp_path


def test_compare_shows_both_side_by_side(store, monkeypatch):
    app = show(open_page("compare", store, monkeypatch), "External test")
    said = texts(app).replace("\\", "")
    runs = [Run(folder, read_run(folder)) for folder in sorted(store.glob("phantom/*frozen*"))]
    found = external.compare_with_external(runs, NAME)
    assert found.sentence("auroc") in said
    assert "evaluated on Adults: its encoder learned from them." in said
    assert "Adults instead of children." in said
    assert "same archive" in said
    assert "So few images do not support a verdict." in said
    assert "Views (AP, PA) are confounded" in said
    rows = app.dataframe[0].value
    assert rows["Views"].tolist() == ["all", "AP", "PA"]
    own, drop = found.own["auroc"], found.drop["auroc"]
    assert rows["Internal test"][0] == f"{own.value:.3f} ({own.low:.3f} to {own.high:.3f})"
    assert rows["Internal minus external"][0] == f"{drop.effect:+.3f} ({drop.low:+.3f} to {drop.high:+.3f})"
    app.selectbox(key="compare_external_metric").set_value("ece").run()
    assert not app.exception
    assert set(app.dataframe[0].value["Metric"]) == {METRICS["ece"].title}


def test_without_external_results_the_page_explains_how_to_get_some(made_runs, monkeypatch):
    app = show(open_page("compare", made_runs, monkeypatch), "External test")
    assert "None of these runs was evaluated on an external test set" in texts(app)
    assert [link.proto.label for link in app.get("page_link")] == ["Train runs"]


def test_model_cards_show_external_results(store, monkeypatch):
    app = open_page("models", store, monkeypatch)
    assert not app.exception
    names = app.selectbox(key="models_series_phantom").options
    seen = ""
    for place, name in enumerate(names):
        app.selectbox(key="models_series_phantom").select_index(place).run()
        assert not app.exception, name
        seen += texts(app).replace("\\", "")
    assert "on the internal test images" in seen
    assert "Not evaluated on Adults: its encoder learned from them." in seen
    assert "Other sources were not tested" in seen


def test_learning_curves_switch_to_the_external_set(store, monkeypatch):
    app = open_page("learning_curves", store, monkeypatch)
    own = app.dataframe[0].value
    switch = app.segmented_control(key="curves_test_set")
    assert switch.options == ["Internal test set", "Adults"]
    switch.set_value(NAME).run()
    assert not app.exception
    there = app.dataframe[0].value
    assert own["Series"].nunique() == 2
    assert there["Series"].nunique() == 1  # the other family was refused there
    runs = [read_run(folder) for folder in sorted(store.glob("phantom/*frozen*"))]
    mean = sum(meta.external[NAME].metrics["auroc"] for meta in runs) / len(runs)
    assert there["AUROC"][0] == pytest.approx(mean)
    assert "of the external set, on the classes that both sets share" in texts(app)
    assert app.segmented_control(key="curves_section").disabled


def test_learning_curves_without_external_sets_have_no_switch(made_runs, monkeypatch):
    app = open_page("learning_curves", made_runs, monkeypatch)
    assert "curves_test_set" not in [widget.key for widget in app.segmented_control]
