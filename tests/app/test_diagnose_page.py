"""The Diagnose page: valid and invalid uploads, batches, examples and explainers; no upload is stored."""

import asyncio
import io
import json
import zipfile

from PIL import Image

from core.data.datasets.phantom import phantom_at
from core.data.images import encode_png
from core.ui.cache import store_and_networks
from tests.app.test_pages import open_page, texts, upload


def test_valid_and_invalid_uploads_side_by_side(phantom_runs, monkeypatch):
    app = open_page("diagnose", phantom_runs, monkeypatch)
    jpeg = io.BytesIO()
    Image.fromarray(phantom_at(4001).pixels).save(jpeg, "JPEG")
    app = upload(
        app,
        [
            ("good.png", encode_png(phantom_at(4000).pixels)),
            ("renamed.png", b"hello"),
            ("cut.jpg", jpeg.getvalue()[:600]),
            ("good.jpg", jpeg.getvalue()),
        ],
    )
    assert not app.exception
    assert "not a PNG" in texts(app)
    assert "damaged" in texts(app)
    assert len(app.metric) == 4  # two families for each of two good images
    assert all(element.value.endswith("%") for element in app.metric)


def test_identical_files_are_shown_once(phantom_runs, monkeypatch):
    app = open_page("diagnose", phantom_runs, monkeypatch)
    content = encode_png(phantom_at(4000).pixels)
    app = upload(app, [("first.png", content), ("second.png", content)])
    assert not app.exception
    assert "shown once" in texts(app)
    assert len(app.metric) == 2


def test_a_shortcut_is_named_before_the_upload_and_with_the_prediction(phantom_runs, monkeypatch):
    found = "Borders alone nearly suffice to distinguish the classes"
    monkeypatch.setattr("core.ui.pickers.shortcut_warning", lambda *_: found)
    app = open_page("diagnose", phantom_runs, monkeypatch)
    assert sum(found in element.value for element in app.warning) == 1
    assert found not in "".join(element.value for element in app.caption)
    app.toggle(key="diagnose_example").set_value(True).run()
    assert not app.exception
    assert sum(found in element.value for element in app.caption) == 1


def test_an_example_and_a_smaller_training_set(phantom_runs, monkeypatch):
    app = open_page("diagnose", phantom_runs, monkeypatch)
    app.toggle(key="diagnose_example").set_value(True).run()
    assert not app.exception
    assert len(app.metric) == 2
    before = [element.value for element in app.metric]
    box = app.selectbox(key="diagnose_phantom_imagenet")
    assert [option.split(" · ")[2] for option in box.options] == ["5 per class", "3 per class"]
    box.select_index(1).run()
    assert not app.exception
    assert app.metric[0].value == before[0]
    assert app.metric[1].value != before[1]
    app.slider(key="diagnose_opacity").set_value(0.2).run()
    assert not app.exception


def test_more_images_than_fit_become_a_table_with_one_shown_in_full(phantom_runs, monkeypatch):
    app = open_page("diagnose", phantom_runs, monkeypatch)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for index in range(5):
            packed.writestr(f"in/{index}.png", encode_png(phantom_at(4000 + index).pixels))
        packed.writestr("x.svg", b"<svg/>")
    app = upload(app, [("all.zip", archive.getvalue())])
    assert not app.exception
    table = app.dataframe[0].value
    assert table["Verdict"].tolist()[-1] == "Unreadable"
    assert "contain programs" in table["Why"].iloc[-1]
    ranks = [["disagree", "reservations", "No result", "Both"].index(rank_of(row)) for row in table["Verdict"][:-1]]
    assert ranks == sorted(ranks)
    assert all(image.startswith("data:image/png;base64,") for image in table["Image"][:-1])
    assert len(app.metric) == 2
    first = [element.value for element in app.metric]
    assert table["A · From scratch"][0].endswith(f"({first[0]} Opacity)")
    assert table["Verdict"][0] in texts(app).replace("\\", "")
    app.selectbox(key="diagnose_pick").select_index(1).run()
    assert not app.exception
    assert [element.value for element in app.metric] != first


def rank_of(verdict):
    """Return the words that state the urgency of a verdict."""
    return next(mark for mark in ("disagree", "reservations", "No result", "Both") if mark in verdict)


def test_archives_are_unpacked_once_per_visit(phantom_runs, opened, monkeypatch):
    archives = []
    for index in (4000, 4001):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr(f"{index}", encode_png(phantom_at(index).pixels))
        archives.append(("all.zip", archive.getvalue()))
    app = upload(open_page("diagnose", phantom_runs, monkeypatch), archives[:1])
    app.toggle(key="diagnose_example").set_value(True).run()
    app.slider(key="diagnose_opacity").set_value(0.2).run()
    assert len(app.metric) == 4  # the example was added once, not at every click
    assert opened == ["4000"]
    app = upload(app, archives[1:])
    assert not app.exception
    assert opened == ["4000", "4001"]


def test_a_stopped_batch_reports_it_and_can_continue(phantom_runs, monkeypatch):
    app = open_page("diagnose", phantom_runs, monkeypatch)
    files = [(f"{index}.png", encode_png(phantom_at(4000 + index).pixels)) for index in range(5)]
    from core.files import sha256_of

    digests = [sha256_of([content, ""])[:8] for _, content in files]
    app.session_state["diagnose_stopped"] = "-".join(digests)
    app = upload(app, files)
    assert "Stopped: 0 of 5" in texts(app)
    app.button(key="diagnose_go_on").click().run()
    assert len(app.dataframe[0].value) == 5
    assert "Stopped" not in texts(app)


def test_explainers_can_be_changed_and_an_incompatible_one_says_why(phantom_runs, monkeypatch):
    app = open_page("diagnose", phantom_runs, monkeypatch)
    app.toggle(key="diagnose_example").set_value(True).run()
    target = app.selectbox(key="diagnose_phantom_target")
    assert target.format_func(target.value) == "Default class for each network"
    app.selectbox(key="diagnose_explainer").set_value("guided-grad-cam").run()
    assert not app.exception
    assert "ReLU6" in texts(app)
    assert "For experts" in texts(app)
    app.selectbox(key="diagnose_explainer").set_value("integrated-gradients").run()
    assert not app.exception
    assert "the score rose by" in texts(app)
    app.selectbox(key="diagnose_phantom_target").set_value(0).run()
    assert not app.exception


def test_rows_of_a_batch_are_about_the_positive_class_whatever_is_explained(phantom_runs, monkeypatch):
    app = open_page("diagnose", phantom_runs, monkeypatch)
    app = upload(app, [(f"{index}.png", encode_png(phantom_at(4000 + index).pixels)) for index in range(5)])
    app.selectbox(key="diagnose_phantom_target").set_value(0).run()
    assert not app.exception
    assert all(cell.endswith("Opacity)") for cell in app.dataframe[0].value["A · From scratch"])
    assert app.metric[0].label == "Probability of no opacity"


def test_heatmaps_share_one_scale_only_on_request(phantom_runs, monkeypatch):
    app = open_page("diagnose", phantom_runs, monkeypatch)
    app = upload(app, [(f"{index}.png", encode_png(phantom_at(index).pixels)) for index in (4001, 4003)])
    assert "own scale" in texts(app)
    assert "Scale maximum" not in texts(app)
    app.toggle(key="diagnose_common_scale").set_value(True).run()
    assert not app.exception
    assert "share one scale" in texts(app)


def test_an_image_can_be_enlarged_with_its_window_and_heatmaps(phantom_runs, monkeypatch):
    app = open_page("diagnose", phantom_runs, monkeypatch)
    app = upload(app, [("x.png", encode_png(phantom_at(4001).pixels))])
    next(button for button in app.button if button.label == "Enlarge").click().run()
    assert not app.exception
    assert "the networks receive the image as uploaded" in texts(app)
    assert {"Dark areas", "Bright areas", "As stored"} <= {button.label for button in app.button}
    assert {slider.label for slider in app.slider} >= {"Level (gray value at the center)"}


def test_heatmaps_are_measured_on_demand(phantom_runs, monkeypatch):
    app = open_page("diagnose", phantom_runs, monkeypatch)
    app.toggle(key="diagnose_example").set_value(True).run()
    assert "Deletion" not in texts(app)
    next(button for button in app.button if "Measure deletion" in button.label).click().run()
    assert not app.exception
    assert "random order" in texts(app)


def test_heatmaps_show_the_checks_of_the_model_card(phantom_runs, monkeypatch):
    from core.analysis.saliency_sanity import FILE, caution_for, save_check
    from core.runs import open_store
    from tests.unit.analysis.test_saliency_sanity import FOUND

    monkeypatch.setenv("LOWSHOT_RUNS", str(phantom_runs))
    kept = [(folder, meta) for folder, meta in open_store().runs.items() if meta.has_weights]
    for folder, meta in kept:
        save_check(folder, meta, FOUND)
    try:
        app = open_page("diagnose", phantom_runs, monkeypatch)
        app.toggle(key="diagnose_example").set_value(True).run()
        assert not app.exception
        assert f"A · From scratch**, from its model card: {caution_for(*kept[0])}"[:60] in texts(app).replace("\\", "")
    finally:
        (kept[0][0].parent / FILE).unlink()


def test_no_upload_reaches_a_log_or_the_disk(phantom_runs, monkeypatch, caplog, capfd, tmp_path):
    from tests.unit.data.test_dicom import SECRET, dicom

    caplog.set_level("DEBUG")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    app = open_page("diagnose", phantom_runs, monkeypatch)
    gray = phantom_at(4000).pixels
    app = upload(app, [("Doe_Jane.dcm", dicom(gray.astype("uint16"))), ("Doe_bad.png", b"GIF89a Doe")])
    assert not app.exception
    assert "Doe_Jane.dcm" in [element.value.replace("\\", "") for element in app.header]
    said = caplog.text + "".join(capfd.readouterr())
    assert SECRET not in said
    assert "Doe_" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_large_upload_is_not_spooled_to_the_disk():
    from starlette.requests import Request

    import core.ui.app_frame  # noqa: F401 (imported first by the app)
    from core.paths import LIMITS, MIB

    content = bytes(3 * MIB)
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    messages = iter([{"type": "http.request", "body": head + content + b"\r\n--x--\r\n", "more_body": False}])

    async def receive():
        return next(messages)

    async def parsed():
        headers = [(b"content-type", b"multipart/form-data; boundary=x")]
        form = await Request({"type": "http", "method": "PUT", "headers": headers}, receive).form()
        return form["file"].file._rolled, await form["file"].read(), form["file"].file._max_size

    rolled, read, most = asyncio.run(parsed())
    assert not rolled
    assert read == content
    assert most > LIMITS.file_bytes


def test_every_prediction_says_how_often_it_is_right_at_the_chosen_prevalence(phantom_runs, monkeypatch):
    app = open_page("diagnose", phantom_runs, monkeypatch)
    app.toggle(key="diagnose_example").set_value(True).run()
    for meta in (network.run.meta for network in (row[0] for row in store_and_networks()[1]["phantom"].values())):
        hits, alarms = round(100 * meta.metrics["sensitivity"]), round(100 * (1 - meta.metrics["specificity"]))
        counts = f"it finds {hits}; of 100 without, it raises a false alarm in {alarms}"
        assert counts in texts(app).replace("\\", "")
    assert "Where 10% of patients have opacity" in texts(app).replace("\\", "")
    app.slider(key="diagnose_prevalence").set_value(0.5).run()
    assert not app.exception
    assert "Where 50% of patients have opacity" in texts(app).replace("\\", "")


def test_a_report_is_chosen_in_a_dialog(phantom_runs, monkeypatch):
    app = open_page("diagnose", phantom_runs, monkeypatch)
    app.toggle(key="diagnose_example").set_value(True).run()
    assert not [box for box in app.text_input if box.label == "Patient or case"]
    next(button for button in app.button if button.label == "Report").click().run()
    assert not app.exception
    assert [box for box in app.text_input if box.label == "Patient or case"]
    assert {"Print the file name", "Print the image and its heatmaps"} <= {box.label for box in app.checkbox}


def test_real_examples_are_offered_with_their_credits(phantom_runs, tmp_path, monkeypatch):
    import core.inference.examples

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "1.png").write_bytes(encode_png(phantom_at(4001).pixels))
    row = {"tasks": ["phantom"], "credit": "Doe 2020, CC0", "author": "Doe", "licence": "CC0", "source": "", "note": ""}
    (tmp_path / "mine" / "credits.json").write_text(json.dumps({**row, "images": {"1.png": "opacity"}}))
    monkeypatch.setattr(core.inference.examples.examples_of, "__defaults__", (tmp_path,))
    app = open_page("diagnose", phantom_runs, monkeypatch)
    (shown,) = [image.proto.imgs[0] for image in app.get("image")]
    assert (shown.alt, shown.caption) == ("Example 1", "Doe 2020, CC0"), "neither tells the label before the answer"
    app.toggle(key="diagnose_example_phantom_1").set_value(True).run()
    assert not app.exception
    assert len(app.metric) == 2
    assert "Example 1" in [element.value for element in app.header]
