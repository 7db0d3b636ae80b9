"""Network cards on the Model cards page: every kind of row, with and without stored runs and weights."""

import pytest
from streamlit.testing.v1 import AppTest

from core.errors import LowshotError
from core.jobs.catalog import Catalog
from tests import PATIENCE
from tests.app.test_pages import open_page, texts
from trainer.commands.list import catalog as rows

SAID = {
    "scratch-cnn": "Nothing: its weights are random",
    "imagenet-efficientnet-lite0": "no medical images are named",
    "generic-dinov2-vits14": "not ImageNet pretraining: pretrained on 142 million unlabeled web images",
    "scratch-resnet18-3d": "three-dimensional kernels",
    "medical-medsiglip": "Data they do not name may have been seen too",
}


@pytest.fixture(autouse=True)
def catalog(monkeypatch):
    """The training options, listed in this process instead of a new one."""
    options = Catalog(rows())
    monkeypatch.setattr("core.ui.cache.catalog", lambda: options)


def facts(app):
    """Return the tables of facts as one mapping."""
    return {name: value.replace("\\", "") for one in app.table for name, value in one.value["Fact"].items()}


def networks(store, monkeypatch):
    app = open_page("models", store, monkeypatch)
    return app.segmented_control(key="models_kind").set_value("Networks").run()


def test_networks_of_every_kind_without_runs_and_weights(tmp_path, no_weights, monkeypatch):
    app = networks(tmp_path / "empty", monkeypatch)
    for name, said in SAID.items():
        app.selectbox(key="models_network").set_value(name).run()
        assert not app.exception
        assert said in texts(app).replace("\\", "")
        known = facts(app)
        assert "- License" in texts(app)
        assert {"Normalization", "Feature map", "Embedding", "Trainable", "Multiply-adds"} <= known.keys()
        stages, ways = (frame.value for frame in app.dataframe)
        assert stages["Stage"].iloc[-1] == "in all"
        assert stages["Parameters"].iloc[-1] == stages["Parameters"].iloc[:-1].sum()
        assert f"{stages['Parameters'].iloc[-1]:,}" == known["Parameters"]
        assert ("frozen" in set(ways["In commands"])) == (not name.startswith("scratch"))
    assert "To download them: accept the terms" in texts(app).replace("\\", "")


def test_networks_are_listed_next_to_runs(phantom_runs, monkeypatch):
    app = networks(phantom_runs, monkeypatch)
    assert not app.exception
    assert app.header[0].value == "Small CNN"
    assert [box.label for box in app.selectbox] == ["Network"]


@pytest.mark.usefixtures("frame")
@pytest.mark.parametrize("name", ["imagenet-resnet18", "medical:resnet18@/etc/hosts"])
def test_a_link_opens_a_network(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path))
    app = AppTest.from_file("../../streamlit_app.py", default_timeout=PATIENCE)
    app.run()
    app.switch_page("pages/models.py")
    app.query_params["network"] = name
    app.run()
    assert not app.exception
    shown = {"imagenet-resnet18": "ResNet-18, ImageNet"}.get(name, "Small CNN")
    assert app.header[0].value.replace("\\", "") == shown


def test_a_trainer_that_does_not_respond_is_reported(tmp_path, monkeypatch):
    def fail():
        raise LowshotError("The trainer does not answer.")

    monkeypatch.setattr("core.ui.cache.catalog", fail)
    app = networks(tmp_path, monkeypatch)
    assert not app.exception
    assert app.error[0].value.replace("\\", "") == "The trainer does not answer."
