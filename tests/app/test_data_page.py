"""The Data page: every section for every kind of data set, on a first and a second visit, and without data."""

import errno

import numpy as np
import pytest

from core.data import DATASETS
from core.data.augmentation import AUGMENTATIONS
from core.data.datasets.custom import custom_dataset
from core.data.preprocessing import PREPROCESSING
from core.data.previews import as_image, augmentation_previews, pixels_of
from core.data.specs import list_images
from core.models import FAMILY_COLORS
from core.ui.data import summary_charts
from tests.app.test_address import visit
from tests.app.test_pages import open_page, texts
from tests.unit.training.test_contamination import compilation  # noqa: F401  (a fixture)

SECTIONS = ["Overview", "Images", "Split and copies", "Augmentation", "Preprocessing"]


def show(app, name, section):
    app.selectbox(key="data_set").set_value(name).run()
    app.segmented_control(key="data_section").set_value(section).run()
    return app


@pytest.mark.parametrize("name", ["phantom", "phantom-multilabel", "phantom-3d"])
@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_of_every_kind_of_data_set(name, section, tmp_path, monkeypatch):
    app = show(open_page("data", tmp_path / "runs", monkeypatch), name, section)
    assert not app.exception
    shown = texts(app).replace("\\", "")
    assert "synthetic" in shown
    if section == "Augmentation":
        assert sum(f"\n{row}: " in shown for row in AUGMENTATIONS) >= len(AUGMENTATIONS) - 1
    if section == "Preprocessing":
        assert "Values -1.00 to" in shown
        assert all(f"\n{row.name}: " in shown for row in PREPROCESSING.values() if name != "phantom-3d" or row.volumes)


def test_charts_of_the_data_leave_the_colors_to_the_families():
    parts = {part: {"a": 3, "b": 4} for part in ("train", "validation", "test", "not split")}
    row = {"Width": 3, "Height": 4, "Class": "a"}
    figures = summary_charts.balance(parts), summary_charts.sizes([row]), summary_charts.group_sizes(np.arange(4))
    for figure in figures:
        used = figure.to_json().upper()
        assert not [color for color in FAMILY_COLORS.values() if color in used]
    assert len({bar.marker.color for bar in figures[0].data}) == len(parts)


def test_a_data_set_is_read_split_and_compared_on_demand(compilation, tmp_path, monkeypatch):  # noqa: F811
    app = show(open_page("data", tmp_path / "runs", monkeypatch), "covid-radiography", "Split and copies")
    assert "all 24 images are read once" in texts(app)
    app.button[0].click().run()
    assert not app.exception
    assert "groups of images" in texts(app), "eight images per class are too few to set a part aside"
    app = show(app, "covid-radiography", "Overview")
    assert app.dataframe[0].value["not split"].tolist() == [8, 8, 8]


@pytest.mark.usefixtures("frame")
def test_a_full_disk_is_named_where_images_are_decoded(compilation, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    app = show(visit("data"), "covid-radiography", "Split and copies")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("core.files.os.fsync", full)
    app.button[0].click().run()
    assert not app.exception
    assert [error.value for error in app.error] == ["The disk is full (No space left on device). Free some space."]
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_copies_by_source_come_from_the_audit(class_folder, tmp_path, monkeypatch):
    from tests.unit.training.test_contamination import noise

    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "data"))
    covid, nih = tmp_path / "data" / "COVID-19_Radiography_Dataset", tmp_path / "data" / "nih_chestxray14"
    rows = ["Image Index,Finding Labels,Patient ID"]
    for number in range(24):
        noise(nih / "images" / f"{number:08d}_000.png", number)
        rows.append(f"{number:08d}_000.png,{'Mass' if number % 2 else 'No Finding'},{number}")
        noise(covid / "COVID" / f"COVID-{number}.png", number if number < 6 else 300 + number, 64)
        noise(covid / "Normal" / f"Normal-{number}.png", 600 + number)
    (nih / "Data_Entry_2017.csv").write_text("\n".join(rows))
    app = show(open_page("data", tmp_path / "runs", monkeypatch), "covid-radiography", "Split and copies")
    for label in ("Read and compare images", "Look for copies"):
        next(button for button in app.button if button.label == label).click().run()
        assert not app.exception
    assert "**NIH ChestX-ray14**: 6 of 48 images are copies" in texts(app)
    assert "No group is in two parts" in texts(app)
    assert app.dataframe[-2].value["Copies"].tolist() == [6]


def test_without_real_data_the_page_explains_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path))
    app = open_page("data", tmp_path / "runs", monkeypatch)
    assert not app.exception
    absent = app.dataframe[-1].value
    assert {"kermany", "chexpert", "dermamnist"} <= set(absent["Name"])
    assert any("stanford" in way.lower() for way in absent["How to get it"])


def test_previews_change_the_image_and_are_the_same_for_the_same_seed(class_folder):
    spec = custom_dataset(class_folder({"a": 3, "b": 3}))
    listing = list_images(spec)
    first, second = (pixels_of(spec, listing, index) for index in (0, 4))
    shown = augmentation_previews(first, second, 0)
    assert [preview.row.name for preview in shown] == list(AUGMENTATIONS)
    for preview, again in zip(shown, augmentation_previews(first, second, 0), strict=True):
        assert (preview.pixels == again.pixels).all()
        assert (preview.pixels != as_image(first)).any(), preview.row.name


def test_every_registered_data_set_shows_what_a_newcomer_needs():
    for spec in DATASETS.values():
        assert spec.licence, spec.name
        assert spec.citation, spec.name
