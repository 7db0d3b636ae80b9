"""Folders of class folders, and the layout of the Kermany set."""

import os

import pytest
from PIL import Image

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.datasets.custom import custom_dataset
from core.data.datasets.folders import list_class_folders
from core.data.datasets.kermany import load, patient_of
from core.data.specs import find_folder, list_images
from core.errors import DataUnavailable


def test_folders_are_matched_without_regard_to_case(tmp_path):
    expected = {
        "Train/normal/IM-0001-0001.jpeg": (0, "train"),
        "training/PNEUMONIA/person1_bacteria_1.jpeg": (1, "train"),
        "TEST/Pneumonia/person1_virus_2.jpeg": (1, "test"),
        "Test/NORMAL/NORMAL2-IM-0001-0001.jpeg": (0, "test"),
        "valid/Normal/IM-0009-0001.jpeg": (0, "validation"),
    }
    for name in [*expected, "other/NORMAL/IM-0001-0001.jpeg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20)).save(tmp_path / name)
    listing = load(tmp_path)
    found = zip(listing.ids.tolist(), listing.labels.tolist(), listing.parts.tolist(), strict=True)
    assert {name: (label, part) for name, label, part in found} == expected


def test_patients_are_read_from_names():
    assert patient_of("train", "Pneumonia", "person12_bacteria_7") == patient_of(
        "train", "Pneumonia", "person12_virus_9"
    )
    assert patient_of("train", "Normal", "IM-0115-0001") == patient_of(
        "validation", "Normal", "NORMAL2-IM-0115-0001-0002"
    )
    assert patient_of("train", "Normal", "IM-0115-0001") != patient_of("test", "Normal", "IM-0115-0001")
    assert patient_of("train", "Normal", "person1") != patient_of("train", "Pneumonia", "person1")
    assert patient_of("train", "Normal", "strange") == "train/Normal/strange"


def test_an_own_folder_without_parts_is_carved(class_folder, runs):
    root = class_folder({"healthy": 40, "sick": 40})
    dataset = load_dataset(custom_dataset(root))
    assert dataset.labels == ("healthy", "sick")
    assert len(dataset.parts.test) == 16
    assert "a fifth of the images" in dataset.parts.notes[0]


def test_an_own_folder_with_a_test_keeps_it(class_folder):
    root = class_folder({"a": 30, "b": 30, "c": 30}, parts=["train"])
    for label in "abc":
        (root / "test" / label).mkdir(parents=True)
        Image.effect_noise((40, 40), 80).save(root / "test" / label / "x.png")
    dataset = load_dataset(custom_dataset(root))
    assert dataset.spec.task == "multiclass"
    assert len(dataset.parts.test) == 3


def test_links_masks_and_other_files_are_left_alone(class_folder, tmp_path):
    root = class_folder({"a": 2, "b": 2})
    (root / "a" / "masks").mkdir()
    Image.new("L", (20, 20)).save(root / "a" / "masks" / "m.png")
    (root / "a" / "notes.txt").write_text("x")
    secret = tmp_path / "secret.png"
    Image.new("L", (20, 20)).save(secret)
    os.symlink(secret, root / "b" / "link.png")
    os.symlink(root, root / "loop")
    assert len(list_class_folders(root)) == 4


def test_errors_name_what_is_wrong(tmp_path, class_folder, monkeypatch):
    with pytest.raises(DataUnavailable, match="There is nothing"):
        custom_dataset(tmp_path / "nowhere")
    with pytest.raises(DataUnavailable, match="at least two folders"):
        custom_dataset(class_folder({"only": 2}, name="single"))
    with pytest.raises(DataUnavailable, match="no image of class"):
        custom_dataset(class_folder({"a": 2, "empty": 0}, name="hollow"))
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path))
    with pytest.raises(DataUnavailable, match="set LOWSHOT_DATA"):
        list_images(DATASETS["kermany"])


def test_hyphens_and_underscores_do_not_matter(tmp_path, monkeypatch):
    (tmp_path / "Chest-Xray").mkdir()
    monkeypatch.setenv("LOWSHOT_DATA", os.pathsep.join(["/nowhere", str(tmp_path)]))
    assert find_folder(DATASETS["kermany"]).name == "Chest-Xray"


def test_an_unreadable_file_is_named_and_left_out(class_folder):
    root = class_folder({"a": 30, "b": 30})
    (root / "a" / "0.png").write_bytes(b"broken")
    dataset = load_dataset(custom_dataset(root))
    used = sum(len(part) for part in (dataset.parts.train, dataset.parts.validation, dataset.parts.test))
    assert used == 59
    assert list(dataset.unreadable) == ["a/0.png"]
    assert next(iter(dataset.bank(32).errors.values())).startswith("This is not a PNG")


def test_the_fingerprint_follows_content_not_time(class_folder):
    root = class_folder({"a": 30, "b": 30})
    before = load_dataset(custom_dataset(root))
    os.utime(root / "a" / "1.png", (1, 1))
    assert load_dataset(custom_dataset(root)).fingerprint == before.fingerprint
    Image.effect_noise((40, 40), 80).save(root / "a" / "1.png")
    assert load_dataset(custom_dataset(root)).fingerprint != before.fingerprint
