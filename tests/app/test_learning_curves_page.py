"""The Learning curves page: label savings, in panels and in one chart, and curves that cannot be fitted."""

import numpy as np
import pytest

from core.analysis.comparison import curves_over_seeds, learning_curves
from core.runs import open_store
from core.runs.series import runs_by_series
from tests.app.test_pages import open_page, texts
from tests.synthetic_runs import STRONG, WEAK, make_run
from trainer.reporting import sections


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """Two families at four sizes, both better with more labels."""
    store = tmp_path_factory.mktemp("sizes") / "runs"
    for seed in range(3):
        for step, size in enumerate((10, 20, 40, 80)):
            make_run(store, WEAK, size, seed, 0.3 + 0.3 * step)
            make_run(store, STRONG, size, seed, 1.0 + 0.5 * step)
    return store


def show(app, section="Label efficiency"):
    app.segmented_control(key="curves_section").set_value(section).run()
    assert not app.exception
    return app


def test_curves_come_before_their_bands(sizes, monkeypatch, tmp_path):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    store = open_store(sizes)
    series = runs_by_series(store, store.metas())
    values = {name: [run.meta.metrics["auroc"] for run in runs] for name, runs in series.items()}
    quick = curves_over_seeds(series, values, "auroc")
    assert not (tmp_path / "cache").exists(), "no test image is resampled"
    full = learning_curves(series, "auroc")[1]
    for name, fit in full.items():
        assert quick[name].means == pytest.approx(fit.means, abs=1e-6)
        at = np.array(fit.sizes)
        assert quick[name].rising(at)[0] == pytest.approx(fit.rising(at)[0], abs=0.02)


@pytest.mark.parametrize("metric", ["auroc", "brier", "mcc"])
def test_label_savings_are_read_off_the_fits(sizes, metric, monkeypatch):
    app = open_page("learning_curves", sizes, monkeypatch)
    app.selectbox(key="curves_metric").set_value(metric).run()
    app = show(app)
    needed, more = (app.dataframe[place].value for place in (0, 1))
    assert len(needed) == 2
    assert needed["Images per class needed"].str.contains("95% interval").all()
    assert list(more.columns) == ["Series behind", "needs times as many labels", "to equal"]
    assert "Crossovers" in [element.value for element in app.header]
    app.segmented_control(key="curves_layout").set_value("A panel per series").run()
    assert not app.exception


def test_another_target_needs_another_number_of_images(sizes, monkeypatch):
    app = show(open_page("learning_curves", sizes, monkeypatch))
    before = app.dataframe[0].value["Images per class needed"].tolist()
    app.number_input(key="curves_wanted_phantom-auroc").set_value(0.999).run()
    assert app.dataframe[0].value["Images per class needed"].tolist() != before
    assert "Images per class needed for 0.999" in [element.value for element in app.header]


def test_the_page_and_the_report_agree_on_the_sizes_needed(sizes, monkeypatch):
    store = open_store(sizes)
    found = sections.curves(runs_by_series(store, store.metas()), "auroc", None, None, None)
    app = show(open_page("learning_curves", sizes, monkeypatch))
    assert app.number_input(key="curves_wanted_phantom-auroc").value == found["reach"]
    words = [row["needed"]["words"] for row in found["series"]]
    assert app.dataframe[0].value["Images per class needed"].tolist() == words


def test_a_variant_named_in_markdown_is_shown_as_it_is(tmp_path, monkeypatch):
    make_run(tmp_path, STRONG, 20, 0, 3.0, variant="![x](y.png)")
    make_run(tmp_path, STRONG, 10, 0, 1.0, variant="![x](y.png)")
    app = open_page("learning_curves", tmp_path, monkeypatch)
    assert "Best mean" in texts(app)
    assert "![x](y.png)" not in texts(app)
    assert "(highest of 2 cells on the test set, so slightly optimistic)" in texts(app)


def test_an_asymptote_that_is_not_identifiable_is_reported(tmp_path, monkeypatch):
    for size in (10, 20, 40):
        make_run(tmp_path, STRONG, size, 0, size / 15)
    app = show(open_page("learning_curves", tmp_path, monkeypatch))
    assert app.dataframe[0].value["Asymptote"].tolist() == ["not identifiable"]
    assert "3 sizes are too few for an asymptote" in texts(app)


def test_two_sizes_are_too_few_for_a_curve(tmp_path, monkeypatch):
    for size in (10, 20):
        make_run(tmp_path, STRONG, size, 0, 2.0)
    app = show(open_page("learning_curves", tmp_path, monkeypatch))
    assert "No selected series has three sizes or more" in texts(app)


def test_a_single_finding_can_be_shown(tmp_path, monkeypatch):
    for size in (10, 20, 40):
        for seed in range(2):
            make_run(tmp_path, STRONG, size, seed, size / 15, task="multilabel")
    app = open_page("learning_curves", tmp_path, monkeypatch)
    mean = app.dataframe[0].value["AUROC"].tolist()
    app.selectbox(key="curves_finding_phantom").set_value(1).run()
    assert not app.exception
    assert app.dataframe[0].value["AUROC"].tolist() != mean
    show(app)
    assert "too few for an asymptote" in texts(app)
