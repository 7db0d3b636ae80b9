"""The Train page: choices, costs, the start of a job, and jobs in every state. These tests train nothing."""

import json
import sys
import time
from dataclasses import asdict, replace

import psutil
import pytest

from core.data import own_images
from core.jobs import records
from core.jobs.catalog import Catalog
from core.jobs.own_study import STUDY_SEEDS, STUDY_STRATEGIES
from core.jobs.queue import Queue
from core.jobs.records import State
from core.jobs.request import Request
from tests.app.test_pages import open_page, texts
from tests.uploaded_files import class_files
from trainer.commands.list import catalog as rows

REQUEST = Request(
    title="Own [x](y)", dataset="phantom", models=("scratch-cnn",), strategies=("scratch",), sizes=(3,), seeds=(0, 1),
    expected=(30.0, 30.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def catalog():
    """The training options, listed in this process instead of a new one."""
    return Catalog(rows())


@pytest.fixture
def queue(tmp_path, monkeypatch, catalog):
    """An empty job queue without a worker."""
    monkeypatch.setenv("LOWSHOT_JOBS", str(tmp_path / "jobs"))
    monkeypatch.setattr(Queue, "wake", lambda self: None)
    monkeypatch.setattr("core.ui.cache.catalog", lambda: catalog)
    return Queue()


def put(queue, state, *events, request=REQUEST):
    job = records.create(queue.folder, request)
    (job.folder / records.STATE).write_text(json.dumps(asdict(state)))
    lines = [{"time": time.time(), **event} for event in events]
    (job.folder / records.PROGRESS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return job


def running():
    here = psutil.Process()
    return State("running", here.pid, records.start_of(here), began=time.time() - 30)


def button(app, label):
    return next(one for one in app.button if one.label == label)


def test_a_job_is_chosen_and_put_into_the_queue(queue, phantom_runs, monkeypatch):
    app = open_page("train", phantom_runs, monkeypatch)
    assert not app.exception
    app.segmented_control(key="train_kind").set_value("An available data set").run()
    app.selectbox(key="train_dataset").set_value("phantom").run()
    assert "synthetic" in texts(app)
    models = next(one for one in app.multiselect if one.label == "Models")
    models.set_value(["scratch-cnn"]).run()
    app.multiselect(key="train_sizes").set_value(["3", "5"]).run()
    assert "**4 runs**, all of them in the store" in texts(app)
    app.multiselect(key="train_sizes").set_value(["3", "5", "full"]).run()
    assert "Expected time: **unknown**" in texts(app)
    app.multiselect(key="train_sizes").set_value(["3", "4"]).run()
    assert "**4 runs**, 2 of them in the store already. Expected time: **about" in texts(app)
    app.multiselect(key="train_more").set_value(["lr"]).run()
    app.number_input(key="train_set_lr").set_value(0.01).run()
    assert "**4 runs**. Expected time: **about" in texts(app)
    app.multiselect(key="train_more").set_value(["epochs"]).run()
    app.number_input(key="train_set_epochs").set_value(7).run()
    app.multiselect(key="train_set_augment").set_value(["horizontal-flip", "noise"]).run()
    app.selectbox(key="train_set_imbalance").set_value("oversample").run()
    assert "repeated until they are as frequent" in texts(app)
    assert "**4 runs**. Expected time: **unknown**, because the settings change" in texts(app)
    button(app, "Start").click().run()
    assert not app.exception
    (job,) = queue.jobs()
    assert job.request.argv()[3:] == [
        "curve", "--dataset=phantom", "--models=scratch-cnn", "--strategies=scratch", "--sizes=3,4", "--seeds=0,1",
        "--augment=horizontal-flip+noise", "--imbalance=oversample", "--epochs=7",
    ]  # fmt: skip
    assert job.request.expected == ()
    assert "queued" in texts(app)
    assert sys.executable == job.request.argv()[0]


def test_own_images_are_taken_from_below_a_data_root_only(queue, class_folder, tmp_path, monkeypatch):
    folder = class_folder({"well": 4, "ill": 4}, name="data/mine")
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "data"))
    app = open_page("train", tmp_path / "runs", monkeypatch)
    app.segmented_control(key="train_kind").set_value("A folder on the server").run()
    assert not app.exception
    assert all(one.label != "Start" for one in app.button)
    assert app.selectbox(key="train_offered").options == ["mine", "Another path"]
    app.selectbox(key="train_offered").set_value("Another path").run()
    for bad in ("/etc", "../jobs", "nothing"):
        app.text_input(key="train_folder").set_value(bad).run()
        assert not app.exception
        assert "Move your own images there" in texts(app)
    app.text_input(key="train_folder").set_value("mine").run()
    assert not app.exception
    assert "2 classes, ill, well" in texts(app)
    app.toggle(key="train_choose").set_value(True).run()
    assert "unknown" in texts(app)
    button(app, "Start").click().run()
    assert queue.jobs()[0].request.folder == str(folder)


def test_a_folder_on_the_server_gets_the_study_and_is_not_changed(queue, class_folder, tmp_path, monkeypatch):
    folder = class_folder({"well": 30, "ill": 30}, name="data/mine")
    (folder / "well" / "damaged.png").write_bytes(b"no image")
    before = sorted(path.name for path in folder.rglob("*"))
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    app = open_page("train", tmp_path / "runs", monkeypatch)
    app.segmented_control(key="train_kind").set_value("A folder on the server").run()
    app.selectbox(key="train_offered").set_value("mine").run()
    assert not app.exception
    assert "1 file not readable and not used" in texts(app)
    assert "Move them out of the folder" in texts(app)
    assert not [one for one in app.button if one.label.startswith(("Leave", "Delete", "Correct"))]
    button(app, "Start").click().run()
    request = queue.jobs()[0].request
    assert (request.folder, request.strategies, request.seeds) == (str(folder), STUDY_STRATEGIES, STUDY_SEEDS)
    assert len(request.sizes) == 4
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_incompatible_choices_are_explained(queue, tmp_path, monkeypatch):
    app = open_page("train", tmp_path / "runs", monkeypatch)
    app.segmented_control(key="train_kind").set_value("An available data set").run()
    app.multiselect(key="train_seeds").set_value([]).run()
    assert "at least one seed" in texts(app)
    app.multiselect(key="train_seeds").set_value(["0"]).run()
    strategies = next(one for one in app.multiselect if one.label == "Training strategies")
    strategies.set_value([]).run()
    assert "at least one training strategy" in texts(app)
    assert not app.exception
    assert all(one.label != "Start" for one in app.button)


def test_a_running_job_is_shown_and_can_be_cancelled(queue, tmp_path, monkeypatch):
    epochs = [
        {"kind": "epoch", "epoch": n, "train_loss": None if n == 0 else 0.5, "validation_loss": 0.6,
         "validation_accuracy": 0.75} for n in range(4)
    ]  # fmt: skip
    job = put(
        queue, running(), {"kind": "bar", "title": "curve", "unit": "run", "done": 1, "total": 2},
        {"kind": "begin", "title": "one", "unit": "step"}, *epochs,
        {"kind": "bar", "title": "one", "unit": "step", "done": 5, "total": 10}, {"kind": "say", "text": "a note"},
    )  # fmt: skip
    waiting = put(queue, State())
    app = open_page("train", tmp_path / "runs", monkeypatch)
    assert not app.exception
    assert "is training" in texts(app)
    assert "[x](y)" not in texts(app)
    shown = {one.label: one.value for one in app.metric}
    assert [shown[name] for name in ("Epoch", "Loss, training", "Loss, held out", "Accuracy, held out")] == [
        "3", "0.500", "0.600", "0.750",
    ]  # fmt: skip
    assert shown["Time left"].startswith("about")
    assert "a note" in app.code[0].value
    assert "Jobs ahead in the queue: 1." in texts(app).replace("\\", "")
    app.button(key=f"train_cancel_{job.name}").click().run()
    assert not app.exception
    assert "is being cancelled" in texts(app)
    assert (job.folder / records.STOP).exists()
    assert not (waiting.folder / records.STOP).exists()


def test_no_time_is_negative_if_the_clock_was_set_back(queue, tmp_path, monkeypatch):
    bar = {"kind": "bar", "title": "curve", "unit": "run", "done": 1, "total": 2}
    put(queue, replace(running(), began=time.time() + 3600), bar)
    app = open_page("train", tmp_path / "runs", monkeypatch)
    assert not app.exception
    shown = {one.label: one.value for one in app.metric}
    assert shown["Time so far"] == "0 s"
    assert shown["Time left"] == "about 30 s"  # of two runs, the first was in the store


def test_a_worker_that_cannot_start_is_reported(queue, tmp_path, monkeypatch):
    put(queue, State())
    monkeypatch.setattr(Queue, "wake", lambda self: "No job can be started: <b> 0.0 MB left.")
    app = open_page("train", tmp_path / "runs", monkeypatch)
    assert not app.exception
    assert "No job can be started" in texts(app)
    assert "starts in a moment" not in texts(app)


def test_finished_jobs_report_how_they_ended_and_can_continue(queue, tmp_path, monkeypatch):
    run = {"kind": "run", "title": "one", "trained": True, "seconds": 3.0, "failed": "", "metrics": {"AUROC": 0.9}}
    put(queue, State("done", began=1.0, ended=91.0, kept=2, total=2), run)
    failed = put(queue, State("failed", began=1.0, ended=5.0, why="The disk is full. <b>", kept=1, total=2), run)
    gone = replace(running(), started=1.0)
    put(queue, gone)
    app = open_page("train", tmp_path / "runs", monkeypatch)
    assert not app.exception
    assert "2 of 2 runs are in the store. It took about 90 s" in texts(app).replace("2 min", "90 s")
    assert "The disk is full" in texts(app)
    assert "ended without giving a reason" in texts(app)
    app.toggle(key=f"train_log_{failed.name}").set_value(True).run()
    assert not app.exception
    assert app.dataframe[-1].value["AUROC"].tolist() == [0.9]
    app.button(key=f"train_again_{failed.name}").click().run()
    assert not app.exception
    assert [job.state.status for job in queue.jobs()][-1] == "queued"
    app.button(key=f"train_forget_{failed.name}").click().run()
    assert not failed.folder.exists()


@pytest.mark.parametrize(
    ("why", "label", "sizes"),
    [
        ("Memory ran out. Close other programs.", "Train with fewer images: 3 per class", (3,)),
        ("The subset cannot train it. Raise --size.", "Train with more images: 5 per class", (5,)),
    ],
)
def test_a_failed_job_offers_the_remedy(why, label, sizes, queue, tmp_path, monkeypatch):
    put(queue, State("failed", began=1.0, ended=5.0, why=why), request=replace(REQUEST, sizes=(3, 5)))
    app = open_page("train", tmp_path / "runs", monkeypatch)
    button(app, label).click().run()
    assert not app.exception
    assert queue.jobs()[-1].request == replace(REQUEST, sizes=sizes, expected=())


def test_a_full_disk_offers_to_delete_own_images(queue, tmp_path, monkeypatch):
    for name in ("DATA", "CACHE"):
        monkeypatch.setenv(f"LOWSHOT_{name}", str(tmp_path / name.lower()))
    monkeypatch.setattr("core.ui.login.owner", lambda: "me")
    own, _ = own_images.store("me", "Mine", own_images.file_entries(class_files({"ill": 13, "well": 13}).items()))
    put(queue, State("failed", began=1.0, ended=5.0, why="The disk is full."))
    app = open_page("train", tmp_path / "runs", monkeypatch)
    button(app, "Delete Mine").click().run()
    assert not app.exception
    assert not own.path.exists()
    assert len(queue.jobs()) == 1


def test_missing_weights_lead_to_the_card_that_names_what_to_install(queue, no_weights, tmp_path, monkeypatch):
    request = replace(REQUEST, models=("imagenet-resnet50",), strategies=("frozen",))
    put(queue, State("failed", began=1.0, ended=5.0, why="It could not be trained here."), request=request)
    app = open_page("train", tmp_path / "runs", monkeypatch)
    assert not app.exception
    (link,) = [one.proto for one in app.get("page_link") if "What to install" in one.proto.label]
    assert link.query_string == "section=networks&network=imagenet-resnet50"
    card = open_page("models", tmp_path / "runs", monkeypatch)
    card.segmented_control(key="models_kind").set_value("Networks").run()
    card.selectbox(key="models_network").set_value("imagenet-resnet50").run()
    assert not card.exception
    assert "not on this machine" in texts(card).replace("\\", "")


def test_models_without_weights_link_to_their_cards_and_no_page_prints_a_command(
    queue, no_weights, tmp_path, monkeypatch
):
    monkeypatch.setenv("LOWSHOT_ENCODERS", str(tmp_path / "encoders"))
    app = open_page("train", tmp_path / "runs", monkeypatch)
    app.segmented_control(key="train_kind").set_value("An available data set").run()
    app.selectbox(key="train_dataset").set_value("phantom").run()
    assert not app.exception
    assert "python -m" not in texts(app)
    assert "**EfficientNet-Lite0, medical**: none of its encoders is known" in texts(app)
    links = {link.proto.label.replace("\\", ""): link.proto.query_string for link in app.get("page_link")}
    assert links["What to install for ResNet-50, ImageNet"] == "section=networks&network=imagenet-resnet50"


def test_a_trainer_that_does_not_respond_is_reported(queue, tmp_path, monkeypatch):
    from core.errors import LowshotError

    def fail():
        raise LowshotError("The trainer does not say what it can do")

    monkeypatch.setattr("core.ui.cache.catalog", fail)
    app = open_page("train", tmp_path / "runs", monkeypatch)
    assert not app.exception
    assert "does not say" in texts(app)
