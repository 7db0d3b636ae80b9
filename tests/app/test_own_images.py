"""Own images on the Train page: from a zip to a study, its result, corrected labels, and other visitors."""

import shutil

import pytest

from core.data import own_images
from core.data.dataset import load_dataset
from core.data.datasets.custom import custom_dataset
from core.data.specs import list_images
from core.jobs.catalog import Catalog
from core.jobs.own_study import study_sizes
from core.jobs.queue import Queue
from core.runs import open_store
from tests.app.test_address import visit
from tests.app.test_pages import open_page, texts
from tests.uploaded_files import class_files, image, packed, striped
from trainer.cli import main
from trainer.commands.list import catalog as rows

FILES = class_files({"ill": 40, "well": 40})


@pytest.fixture(scope="module")
def catalog():
    """The training options, listed in this process instead of a new one."""
    return Catalog(rows())


@pytest.fixture
def place(tmp_path, monkeypatch, catalog):
    """Empty folders for data, runs, cache and jobs; no worker takes jobs from the queue."""
    for name in ("data", "cache", "runs", "jobs"):
        monkeypatch.setenv(f"LOWSHOT_{name.upper()}", str(tmp_path / name))
    monkeypatch.setattr(Queue, "wake", lambda self: "")
    monkeypatch.setattr("core.ui.cache.catalog", lambda: catalog)
    return tmp_path


def open_train(place, monkeypatch):
    return open_page("train", place / "runs", monkeypatch)


def bring(app, files, title="Mine"):
    app.file_uploader[0].set_value((f"{title}.zip", packed(files), "application/zip"))
    app.run()
    assert not app.exception
    return app


def stored(app):
    app.button(key="train_store").click().run()
    assert not app.exception
    return app


def plain(app):
    return texts(app).replace("\\", "")


def has(app, key):
    return any(one.key == key for one in app.button)


def only_set():
    (own,) = own_images.sets_of_others("")
    return own


def test_a_zip_is_stored_checked_and_put_into_the_queue(place, monkeypatch):
    app = open_train(place, monkeypatch)
    assert "for 7 days" in texts(app)
    app = stored(bring(app, FILES | {"ill/notes.txt": b"x"}))
    own = only_set()
    shown = texts(app)
    assert "1 file left out: ill/notes.txt" in shown.replace("\\", "")
    assert "**ill**, 40 images" in shown
    assert "Only this browser shows them" in shown
    assert "no verdict" in shown
    assert "not known" in shown
    app.button(key="train_start").click().run()
    assert not app.exception
    (job,) = Queue().jobs()
    sizes = ",".join(map(str, study_sizes(load_dataset(custom_dataset(own.path)))))
    assert len(sizes.split(",")) == 4
    assert job.request.argv()[3:] == [
        "curve", f"--folder={own.path}",
        "--models=imagenet-efficientnet-lite0,medical-efficientnet-lite0,scratch-cnn-64",
        "--strategies=frozen,scratch-quick", f"--sizes={sizes}", "--seeds=0,1,2", "--image-check",
    ]  # fmt: skip
    assert not has(app, "train_start")
    app.button(key="train_own_delete").click().run()
    assert "Cancel it first" in texts(app)
    assert own.path.is_dir()


def test_another_visitor_sees_neither_images_nor_jobs(place, monkeypatch):
    app = stored(bring(open_train(place, monkeypatch), FILES))
    app.button(key="train_start").click().run()
    own = only_set()
    other = open_train(place, monkeypatch)
    assert "Mine" not in texts(other)
    assert all(one.key != "train_own" for one in other.selectbox)
    other.segmented_control(key="train_kind").set_value("A folder on the server").run()
    other.text_input(key="train_folder").set_value(str(own.path)).run()
    assert "belong to the visitor who uploaded them" in texts(other)
    other.segmented_control(key="train_kind").set_value("My own images").run()
    other = stored(bring(other, class_files({"a": 40, "b": 40}, start=100), "Theirs"))
    other.button(key="train_start").click().run()
    assert "Jobs ahead in the queue: 1" in texts(other).replace("\\", "")
    assert "Mine" not in texts(other)
    assert len(own_images.sets_of_others("")) == 2
    assert {job.request.title for job in Queue().jobs()} == {"Mine", "Theirs"}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (lambda: class_files({"only": 20}), "only one"),
        (lambda: class_files({"ill": 1, "well": 1}), "at least 13 images"),
        (lambda: {f"c{i % 2}/{i}.png": b"x" for i in range(10_000)}, "at most 5500"),
        (lambda: {"inner.zip": packed(FILES)}, "archive inside an archive"),
    ],
)
def test_bad_uploads_are_refused_in_a_sentence(files, words, place, monkeypatch):
    app = bring(open_train(place, monkeypatch), files())
    if has(app, "train_store"):
        app = stored(app)
    assert words in texts(app)
    assert not [path for path in (place / "data").rglob("*") if path.is_file()]


def test_copies_are_left_out_with_one_click_and_brought_back(place, monkeypatch):
    files = FILES | {f"ill/copy{i}.png": FILES[f"ill/{i}.png"] for i in range(3)} | {"well/odd.png": FILES["ill/9.png"]}
    app = stored(bring(open_train(place, monkeypatch), files | {"well/bad.png": image(1)[:60]}))
    shown = texts(app)
    assert "2 images with a copy in another class" in shown
    assert "3 copies of another image of the same class" in shown
    assert "1 file not readable" in shown
    assert not has(app, "train_start")
    for key in ("across", "within", "unreadable"):
        app.button(key=f"train_leave_{key}").click().run()
        assert not app.exception
    own = only_set()
    assert len(own.left_out) == 2 + 3 + 1
    assert has(app, "train_start")
    app.button(key="train_back").click().run()
    assert own.left_out == []
    label = next(one for one in app.selectbox if one.key == "train_label_well/odd.png")
    label.set_value("ill").run()
    app.button(key="train_correct").click().run()
    assert not app.exception
    assert "with a copy in another class" not in texts(app)


def test_of_copies_across_the_split_the_training_twin_is_left_out(place, monkeypatch):
    files = class_files({"ill": 40, "well": 40}, "train/") | class_files({"ill": 20, "well": 20}, "test/", start=80)
    app = stored(bring(open_train(place, monkeypatch), files | {"train/ill/a.png": files["test/ill/0.png"]}))
    assert "1 copy of test images among the training images. For example: train/ill/a.png" in texts(app).replace(
        "\\", ""
    )
    app.button(key="train_leave_twins").click().run()
    assert not app.exception
    own = only_set()
    assert own.left_out == ["train/ill/a.png"]
    assert (own.path / "test" / "ill" / "0.png").exists()


def test_medical_transfer_waits_until_the_images_are_compared_with_its_corpus(place, monkeypatch):
    """A set of its corpus is on this machine, and not read yet."""
    folder = custom_dataset(class_folders(place / "corpus"))
    monkeypatch.setattr("core.ui.train.own_images.read_card", lambda path: {"seen": ["kermany"]})
    monkeypatch.setattr("core.ui.train.own_images.is_present", lambda spec: True)
    monkeypatch.setattr("core.ui.train.own_images.cache.listing", lambda name: list_images(folder))
    monkeypatch.setattr("core.ui.train.own_images.copies_in_corpus", lambda spec, card, watch: (set(), []))
    app = stored(bring(open_train(place, monkeypatch), FILES))
    shown = texts(app)
    assert "Medical transfer takes no part yet" in shown
    assert "press Compare above" in shown
    assert "medical" not in networks(app)
    app.button(key="train_compare").click().run()
    assert not app.exception
    assert "takes no part yet" not in texts(app)
    assert "medical" in networks(app)


def class_folders(folder):
    """Stores a few images in class folders and returns the folder."""
    for name, content in class_files({"a": 2, "b": 2}, start=900).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def networks(app):
    """The sentence that names the networks of the study."""
    return next(element.value for element in app.markdown if element.value.startswith("**Networks:**"))


def test_any_label_is_corrected_from_the_thumbnails(place, monkeypatch):
    app = stored(bring(open_train(place, monkeypatch), FILES))
    app.toggle(key="train_browse").set_value(True).run()
    assert not app.exception
    app.number_input(key="train_browse_page_ill_2").set_value(2).run()
    labels = [box for box in app.selectbox if box.key.startswith("train_browse_label_ill/")]
    assert len(labels) == 20
    assert all("Label of" in box.label for box in labels)
    name = labels[3].key.removeprefix("train_browse_label_")
    labels[3].set_value("well").run()
    app.button(key="train_browse_correct").click().run()
    assert not app.exception
    assert "**ill**, 39 images" in texts(app)
    assert not (only_set().path / name).exists()
    assert not Queue().jobs()


def test_classes_that_are_copies_of_one_another_cannot_be_trained_on(place, monkeypatch):
    files = class_files({"ill": 20})
    app = stored(bring(open_train(place, monkeypatch), files | {n.replace("ill", "well"): c for n, c in files.items()}))
    assert "40 images with a copy in another class" in texts(app)
    assert not has(app, "train_start")
    app.button(key="train_leave_across").click().run()
    assert not app.exception
    assert "cannot be told apart" in texts(app)
    app.button(key="train_own_delete").click().run()
    assert not app.exception
    assert not [path for path in (place / "data").rglob("*") if path.is_file()]


def test_classes_are_named_and_filled_one_by_one(place, monkeypatch):
    app = open_train(place, monkeypatch)
    app.segmented_control(key="train_way").set_value("Class by class").run()
    for index, name in enumerate(("mole", "none")):
        app.text_input(key=f"train_own_class{index}_0").set_value(name)
        app.file_uploader[index].set_value(
            [(f"{i}.png", image(i + 50 * index), "image/png") for i in range(20)]
        )  # fmt: skip
    app = stored(app.run())
    assert list_images(custom_dataset(only_set().path)).class_names == ("mole", "none")
    assert app.selectbox(key="train_own").options[0] == "mole or none"


@pytest.mark.usefixtures("frame")
def test_a_link_restores_the_way_to_bring_images_and_the_study(place, monkeypatch):
    app = visit("train", way="class-by-class")
    assert app.segmented_control(key="train_way").value == "Class by class"
    assert app.query_params == {"way": "class-by-class"}
    own_images.store("x", "Mine", own_images.file_entries(FILES.items()))
    monkeypatch.setattr("core.ui.login.owner", lambda: "x")
    link = {"browse": "yes", "deeper": ["dinov2-s", "five-seeds"]}
    app = visit("train", **link)
    assert app.toggle(key="train_browse").value is True
    assert app.pills(key="train_deeper").value == ["DINOv2-S", "Five seeds"]
    assert app.query_params == link
    app.pills(key="train_deeper").set_value([]).run()
    assert app.query_params == {"browse": "yes"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a tiny study of own images, trained by the command that a job runs, and the set of images."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("data", "cache", "runs"):
            patch.setenv(f"LOWSHOT_{name.upper()}", str(place / name))
        own, _ = own_images.store("x", "Mine", own_images.file_entries(striped().items()))
        models = "imagenet-efficientnet-lite0,medical-efficientnet-lite0"
        assert main(["curve", f"--folder={own.path}", f"--models={models}", "--sizes=4,8,16", "--image-check"]) == 0
    return place, own


def test_a_result_is_stated_in_words_and_its_network_can_be_tried_and_downloaded(trained, place, catalog, monkeypatch):
    made, own = trained
    monkeypatch.setattr("core.ui.login.owner", lambda: "x")
    for name in ("data", "cache", "runs"):
        monkeypatch.setenv(f"LOWSHOT_{name.upper()}", str(made / name))
    monkeypatch.setattr("core.ui.network_download.export_network", lambda run: run.encode())
    app = open_page("train", made / "runs", monkeypatch)
    assert not app.exception
    shown = texts(app)
    assert "With 16 labeled images per class, the measured AUROC is" in shown.replace("\\", "")
    assert "The gain from more images cannot be predicted" in shown or "16 more images per class" in shown
    assert "Estimates from 3 seeds" in shown
    assert "Diagnose has an image check for these images" in shown
    app.button(key="train_prepare").click().run()
    assert not app.exception
    assert app.get("download_button")
    runs = open_store(made / "runs").metas(own.name)
    assert len(runs) == 18
    assert {meta.variant for meta in runs} == {""}
    diagnose = open_page("diagnose", made / "runs", monkeypatch)
    assert any(own.path.name in option for option in diagnose.selectbox(key="diagnose_task").options)
    monkeypatch.setattr("core.ui.login.owner", lambda: "y")
    assert "No trained network" in texts(open_page("diagnose", made / "runs", monkeypatch))


def test_a_corrected_label_is_trained_on_again_in_one_step(trained, place, catalog, monkeypatch, tmp_path):
    made, own = trained
    monkeypatch.setattr("core.ui.login.owner", lambda: "x")
    shutil.copytree(made / "runs", tmp_path / "runs")
    monkeypatch.setenv("LOWSHOT_DATA", str(made / "data"))
    app = open_page("train", tmp_path / "runs", monkeypatch)
    app.toggle(key="train_browse").set_value(True).run()
    box = next(box for box in app.selectbox if box.key == "train_browse_label_level/0.png")
    box.set_value("upright").run()
    try:
        button = app.button(key="train_browse_correct")
        assert button.label == "Correct label and train again"
        button.click().run()
        assert not app.exception
        (job,) = Queue().jobs()
        assert job.request.folder == str(own.path)
    finally:
        own_images.relabel(own, "upright/0.png", "level")


def test_changed_images_are_trained_on_again_and_old_runs_are_deleted(trained, place, catalog, monkeypatch, tmp_path):
    made, own = trained
    monkeypatch.setattr("core.ui.login.owner", lambda: "x")
    shutil.copytree(made / "runs", tmp_path / "runs")
    monkeypatch.setenv("LOWSHOT_DATA", str(made / "data"))
    own_images.leave_out(own, ["level/0.png"])
    try:
        app = open_page("train", tmp_path / "runs", monkeypatch)
        assert not app.exception
        assert "have changed since networks were trained" in texts(app).replace("\\", "")
        app.button(key="train_start").click().run()
        assert not app.exception
        assert not open_store(tmp_path / "runs").metas(own.name)
        (job,) = Queue().jobs()
        assert job.request.folder == str(own.path)
    finally:
        own_images.bring_back(own)
