"""The address of a page restores choices and follows them; unknown values are reported."""

import pytest
from streamlit.testing.v1 import AppTest

from core.data.datasets.phantom import phantom_at
from core.data.images import encode_png
from tests import PATIENCE
from tests.app.test_pages import texts
from tests.synthetic_runs import STRONG, WEAK, make_run

pytestmark = pytest.mark.usefixtures("frame")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Runs on two data sets, one of them with two sizes."""
    for kind in (WEAK, STRONG):
        for dataset, size in (("kermany", 20), ("ham10000", 20), ("ham10000", 50)):
            for seed in range(2):
                make_run(tmp_path / "runs", kind, size, seed, 2.0, dataset=dataset, dataset_title=dataset)
    monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path / "runs"))


def visit(page, **parameters):
    """Open a link as a new visitor."""
    app = AppTest.from_file("../../streamlit_app.py", default_timeout=PATIENCE)
    if page != "start":  # the page of the first run
        app.run()
        app.switch_page(f"pages/{page}.py")
    app.query_params.update(parameters)
    app.run()
    assert not app.exception
    return app


def test_a_link_restores_compare_and_stays_as_it_is(runs):
    link = {"set": "ham10000", "size": "20", "section": "differences", "metric": "f1"}
    app = visit("compare", **link)
    assert app.selectbox(key="compare_dataset").value == "ham10000"
    assert app.select_slider(key="compare_size_ham10000").value == 20
    assert app.segmented_control(key="compare_section").value == "Differences"
    assert app.selectbox(key="compare_difference_metric").value == "f1"
    assert app.query_params == link
    app.run()
    assert app.query_params == link, "a rerun changes nothing"


def test_a_link_restores_the_folder_that_was_chosen(class_folder, tmp_path, monkeypatch):
    class_folder({"well": 20, "ill": 20}, name="data/mine")
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path / "runs"))
    link = {"images": "folder", "folder": "mine"}
    app = visit("train", **link)
    assert app.query_params == link
    assert app.selectbox(key="train_offered").value == "mine"
    assert "Split" in texts(app)
    app = visit("train", images="folder", folder="nothing")
    assert app.selectbox(key="train_offered").value is None
    assert "nothing" in texts(app)
    assert "mine" in texts(app)


def test_the_address_follows_the_choices_and_leaves_defaults_out(runs):
    app = visit("compare")
    assert app.query_params == {}
    app.selectbox(key="compare_dataset").set_value("ham10000").run()
    assert app.query_params == {"set": "ham10000"}
    app.select_slider(key="compare_size_ham10000").set_value(20).run()
    app.segmented_control(key="compare_section").set_value("Operating point").run()
    app.slider(key="compare_shift").set_value(0.2).run()
    series = app.multiselect(key="compare_series_ham10000")
    series.set_value(series.value[:1]).run()
    followed = dict(app.query_params)
    assert followed["shift"] == "0.2"
    assert followed["section"] == "operating-point"
    again = visit("compare", **followed)
    assert again.query_params == followed
    assert again.slider(key="compare_shift").value == 0.2
    assert again.multiselect(key="compare_series_ham10000").value == series.value[:1]
    again.selectbox(key="compare_dataset").set_value("kermany").run()
    assert "set" not in again.query_params
    assert again.select_slider(key="compare_size_kermany").value == 20


def test_what_if_on_a_case_restores_and_follows(phantom_runs, monkeypatch):
    monkeypatch.setenv("LOWSHOT_RUNS", str(phantom_runs))
    what_if = {"case-threshold": "0.8", "case-prevalence": "0.5", "case-heatmaps": "yes"}
    link = {"section": "confusion", **what_if}
    app = visit("compare", **link)
    name = next(box for box in app.selectbox if box.label == "Case").value
    threshold = app.slider(key=f"what_if_cut_{name}")
    assert threshold.value == 0.8
    assert app.select_slider(key=f"what_if_share_{name}").value == 0.5
    assert app.toggle(key=f"cell_heat_phantom_{name}").value is True
    assert app.query_params == link
    threshold.set_value(0.3).run()
    assert app.query_params == {**link, "case-threshold": "0.3"}


def test_unknown_values_are_reported_with_the_available_ones(runs):
    app = visit("compare", set="ham10000", size="30", section="magic", color="red")
    shown = texts(app).replace("\\", "")
    assert "size=30 is not available here, so the page shows its default. Available: 20, 50." in shown
    assert "section=magic is not available here" in shown
    assert "color=red in the address does not apply to this page. It has: set, size, series" in shown
    assert app.select_slider(key="compare_size_ham10000").value == 50
    assert app.query_params == {"set": "ham10000"}
    assert "not available here" not in texts(app.run())


@pytest.mark.parametrize("value", ["banana", "nan", "7", "1e999"])
def test_numbers_outside_their_range_are_refused(runs, value):
    app = visit("compare", section="operating-point", shift=value)
    assert f"shift={value} is not available here" in texts(app).replace("\\", "")
    assert "numbers from -0.5 to 0.5" in texts(app).replace("\\", "")
    assert app.slider(key="compare_shift").value == 0
    assert "shift" not in app.query_params


def test_a_hostile_value_is_shown_as_text(runs):
    app = visit("compare", set="![x](https://example.org/p.png)")
    assert "![x](" not in texts(app)


def test_choices_survive_a_change_of_page(runs):
    app = visit("compare", set="ham10000", size="20")
    before = dict(app.query_params)
    app.query_params.clear()  # as the navigation does
    app.switch_page("pages/learning_curves.py").run()
    app.selectbox(key="curves_metric").set_value("brier").run()
    assert app.query_params == {"metric": "brier"}
    app.query_params.clear()
    app.switch_page("pages/compare.py").run()
    assert app.query_params == before
    assert app.select_slider(key="compare_size_ham10000").value == 20
    app.query_params.clear()
    app.query_params["set"] = "ham10000"
    app.switch_page("pages/learning_curves.py").run()
    assert app.selectbox(key="curves_metric").value == "auroc", "a link decides about what it leaves out, too"


def test_start_and_model_cards_restore(runs):
    app = visit("start", set="ham10000")
    assert app.selectbox(key="start_dataset").value == "ham10000"
    app = visit("models", set="ham10000", size="20", seed="1")
    assert app.selectbox(key="models_dataset").value == "ham10000"
    assert app.query_params == {"set": "ham10000", "size": "20", "seed": "1"}
    app = visit("models", network="imagenet-resnet18")
    assert app.segmented_control(key="models_kind").value == "Networks"
    assert app.query_params == {"network": "imagenet-resnet18"}
    assert app.run().query_params == {"network": "imagenet-resnet18", "section": "networks"}


def test_learning_curves_restore(runs):
    link = {"set": "ham10000", "metric": "brier", "layout": "panels", "seeds": "yes"}
    app = visit("learning_curves", **link)
    assert app.selectbox(key="curves_dataset").value == "ham10000"
    assert app.toggle(key="curves_seeds").value is True
    assert app.query_params == link


def test_the_form_of_a_job_restores(runs, monkeypatch):
    from core.jobs.catalog import Catalog
    from trainer.commands.list import catalog

    monkeypatch.setattr("core.ui.cache.catalog", lambda: Catalog(catalog()))
    settings = {"setting": ["label_smoothing", "lr"], "lr": "0.001", "label_smoothing": "0.1"}
    link = {"set": "phantom", "model": "scratch-cnn", "size": ["10", "40"], **settings}
    app = visit("train", **link)
    assert app.multiselect(key="train_sizes").value == ["10", "40"]
    assert app.query_params == link


def test_an_integer_of_many_digits_in_the_address_is_refused(runs, monkeypatch):
    from core.jobs.catalog import Catalog
    from trainer.commands.list import catalog

    monkeypatch.setattr("core.ui.cache.catalog", lambda: Catalog(catalog()))
    app = visit("train", set="phantom", setting="epochs", epochs="9" * 400)
    assert not app.exception
    assert "epochs" not in app.query_params


def test_the_data_page_restores(runs):
    link = {"set": "phantom", "section": "augmentation", "image": "3", "seed": "5"}
    app = visit("data", **link)
    assert app.segmented_control(key="data_section").value == "Augmentation"
    assert app.number_input(key="data_preview_seed").value == 5
    assert app.query_params == link


def test_uploads_and_their_settings_survive_a_change_of_page(phantom_runs, monkeypatch):
    monkeypatch.setenv("LOWSHOT_RUNS", str(phantom_runs))
    app = visit("diagnose", task="phantom", opacity="0.3")
    app.file_uploader[0].set_value([("mine.png", encode_png(phantom_at(4001).pixels), "image/png")]).run()
    shown = len(app.metric)
    assert shown
    assert app.slider(key="diagnose_opacity").value == 0.3
    app.query_params.clear()
    app.switch_page("pages/data.py").run()
    app.switch_page("pages/diagnose.py").run()
    assert len(app.metric) == shown
    assert app.query_params["opacity"] == "0.3"
    app.button(key="diagnose_remove").click().run()
    assert not app.metric
