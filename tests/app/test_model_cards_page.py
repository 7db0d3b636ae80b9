"""The Model cards page: runs of every kind of task, encoders, and an empty store."""

import shutil

import pytest

from core.jobs.queue import Queue
from core.models import FAMILY_COLORS
from core.models.medical_encoders import CARD_FILE, read_card
from tests.app.test_pages import open_page, texts


def test_without_results_the_page_explains_what_to_do(tmp_path, monkeypatch):
    app = open_page("models", tmp_path / "empty", monkeypatch)
    assert not app.exception
    assert "No results are stored yet" in texts(app)


def test_the_card_of_a_run(phantom_runs, monkeypatch):
    app = open_page("models", phantom_runs, monkeypatch)
    assert not app.exception
    said = texts(app)
    for part in ("computer-generated", "Only 2 stored seed", "**93,506 parameters**, of which this strategy trains "
                 "93,506", "Expected calibration error", "No check of its heatmaps"):  # fmt: skip
        assert part in said.replace("\\", "")
    assert not app.code, "a page does what a command would"
    metrics = next(frame.value for frame in app.dataframe if "Metric" in frame.value)
    assert ((metrics["patients from"] <= metrics["This run"]) & (metrics["This run"] <= metrics["patients to"])).all()
    series = next(box for box in app.selectbox if box.label == "Series")
    series.select_index(1).run()
    assert not app.exception
    assert "2,562 of" not in texts(app)
    app.segmented_control(key="models_guideline").set_value("tripod-ai").run()
    assert not app.exception
    assert set(app.dataframe[-1].value["Answer"]) > {"open"}


def test_a_job_computes_what_a_card_lacks_and_the_network_can_be_downloaded(phantom_runs, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_JOBS", str(tmp_path / "jobs"))
    monkeypatch.setattr(Queue, "wake", lambda self: "")
    monkeypatch.setattr("core.ui.network_download.export_network", lambda run: run.encode())
    app = open_page("models", phantom_runs, monkeypatch)
    app.button(key="models_sanity").click().run()
    assert not app.exception
    (job,) = Queue().jobs()
    assert job.request.argv()[1:] == ["-m", "trainer", "sanity", "--dataset=phantom"]
    assert all(button.key != "models_sanity" for button in app.button)
    assert "A job computes this: see Train" in [link.proto.label for link in app.get("page_link")]
    app.button(key="models_prepare").click().run()
    assert not app.exception
    assert "Download (ONNX, safetensors, cards)" in [element.proto.label for element in app.get("download_button")]
    train = open_page("train", phantom_runs, monkeypatch)
    assert not train.exception
    assert "Check of heatmaps" in texts(train)


def test_findings_are_evaluated_one_by_one(findings_runs, monkeypatch):
    app = open_page("models", findings_runs, monkeypatch)
    assert not app.exception
    assert "Choose a finding" in texts(app)
    app.selectbox(key="models_finding_phantom-multilabel").set_value(1).run()
    assert not app.exception
    assert "Expected calibration error" in texts(app)


def test_damaged_runs_and_checks_are_named(phantom_runs, tmp_path, monkeypatch):
    store = tmp_path / "store"
    shutil.copytree(phantom_runs, store)
    folder = next(store.glob("phantom/scratch-cnn-scratch-n5-s0*"))
    for name in ("sanity.json", "people.json"):
        (store / "phantom" / name).write_text("[")
        app = open_page("models", store, monkeypatch)
        assert not app.exception
        assert f"phantom/{name} cannot be read" in texts(app).replace("\\", "")
        (store / "phantom" / name).unlink()
    (folder / "run.json").write_text("{")
    app = open_page("models", store, monkeypatch)
    assert not app.exception
    assert folder.name in texts(app)


@pytest.mark.parametrize(
    ("model", "targets", "seen"),
    [
        ("efficientnet-lite0", "kermany-covid-radiography-ham10000", "nih-chestxray14, isic2017-dermoscopy"),
        ("dinov2-vits14-imgfocus", "nih-chestxray14", "kermany, isic2017-dermoscopy, ham10000"),
    ],
)
def test_the_card_of_a_shipped_encoder(model, targets, seen, tmp_path, monkeypatch):
    app = open_page("models", tmp_path / "empty", monkeypatch)
    app.segmented_control(key="models_kind").set_value("Encoders").run()
    box = app.selectbox(key="models_encoder")
    folder = box.value.parents[1] / f"medical-{model}" / f"strict-without-{targets}"
    box.set_value(folder).run()
    assert not app.exception
    said = texts(app).replace("\\", "")
    assert f"Do not use it on data it was trained on, or on sets of the same images: {seen}." in said
    assert app.dataframe[0].value["Images"].tolist() == [part["images"] for part in read_card(folder)["corpus"]]
    (loss,) = app.get("plotly_chart")
    assert FAMILY_COLORS["medical"] not in str(loss.proto), "the color stands for the family"


@pytest.mark.parametrize("card", [None, "{", '{"seen": []}'])
def test_missing_and_damaged_encoders_are_reported(card, tmp_path, monkeypatch):
    if card is not None:
        folder = tmp_path / "encoders" / "medical-efficientnet-lite0" / "any"
        folder.mkdir(parents=True)
        (folder / CARD_FILE).write_text(card)
    monkeypatch.setattr("core.paths.encoders_folder", lambda: tmp_path / "encoders")
    app = open_page("models", tmp_path / "empty", monkeypatch)
    app.segmented_control(key="models_kind").set_value("Encoders").run()
    assert not app.exception
    assert ("No encoder was pretrained" if card is None else CARD_FILE) in texts(app).replace("\\", "")
