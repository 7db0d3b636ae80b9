"""Every data set in its publisher's layout: small fabricated trees for all, the real files where available."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.data import DATASETS
from core.data.datasets import chexpert, ham10000, medmnist, nih
from core.data.demographics import read_demographics
from core.data.label_tables import read_table
from core.data.overview import class_counts, label_text
from core.data.specs import family_of, find_dataset, find_folder, list_images
from core.errors import DataUnavailable, UnknownName
from tests.conftest import as_rows, need, put

RANDOM = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty data root."""
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path))
    return tmp_path


def test_kermany_in_three_classes(root):
    for name in ("NORMAL/IM-0001-0001", "PNEUMONIA/person1_bacteria_1", "PNEUMONIA/person1_virus_2"):
        put(root / "chest_xray" / "train" / f"{name}.jpeg")
    rows = as_rows(list_images(DATASETS["kermany-3"]))
    assert [row[0] for row in rows.values()] == [0, 1, 2]
    assert family_of("kermany-3") == family_of("pneumoniamnist@size=64") == "kermany"
    put(root / "chest_xray" / "train" / "PNEUMONIA" / "person2_unknown_1.jpeg")
    with pytest.raises(DataUnavailable, match=r"person2_unknown_1\.jpeg: the name says neither"):
        list_images(DATASETS["kermany-3"])


def test_ham10000_as_published(root):
    put(root / "HAM10000" / "HAM10000_images_part_1" / "ISIC_1.jpg")
    put(root / "HAM10000" / "HAM10000_images_part_2" / "ISIC_2.jpg")
    table = root / "HAM10000" / "HAM10000_metadata.csv"
    put(table, "lesion_id,image_id,dx,dx_type,age\nHAM_1,ISIC_1,mel,histo,40\nHAM_1,ISIC_2,mel,histo,\n")
    assert as_rows(list_images(DATASETS["ham10000"])) == {
        "HAM10000_images_part_1/ISIC_1.jpg": (4, "HAM_1", ""),
        "HAM10000_images_part_2/ISIC_2.jpg": (4, "HAM_1", ""),
    }
    for text, words in (
        ("lesion_id,image_id\nHAM_1,ISIC_1\n", "lacks the column 'dx'"),
        ("lesion_id,image_id,dx\nHAM_1,ISIC_1,mel\nHAM_1,ISIC_1,mel\n", "row 3: 'ISIC_1' is a duplicate"),
        ("lesion_id,image_id,dx\nHAM_1,ISIC_1,wart\n", "row 2: 'wart' is not one of"),
        ("lesion_id,image_id,dx\nHAM_1,ISIC_9,mel\n", "None of the images in HAM10000_metadata"),
        ("", "cannot be read as a table"),
    ):
        put(table, text)
        with pytest.raises(DataUnavailable, match=words):
            list_images(DATASETS["ham10000"])


def test_ham10000_in_class_folders(root):
    for name in ham10000.CLASSES:
        put(root / "ham10000" / "train" / name.upper() / f"{name}.jpg")
        put(root / "ham10000" / "test" / name / f"{name}.jpg")
    listing = list_images(DATASETS["ham10000"])
    assert sorted(listing.labels) == sorted([*range(7)] * 2)
    assert set(listing.parts) == {"train", "test"}


def test_isic_keeps_unlabeled_images_and_groups_near_copies(root):
    folder = root / "isic2017_dermoscopy"
    for name in "abcde":
        put(folder / "images" / f"{name}.jpg")
    put(folder / "labels.csv", "image_id,dx\na,mel\nb,\nc,nv\nd,bkl\ne,nv\ngone,nv\n")
    put(folder / "near_duplicates.csv", "a,b\na,c\nd,e\nc,e\n")
    spec = DATASETS["isic2017-dermoscopy"]
    listing = list_images(spec)
    assert [spec.labels[label] if label >= 0 else "" for label in listing.labels] == ["mel", "", "nv", "bkl", "nv"]
    groups = dict(zip(listing.ids, listing.groups, strict=True))
    assert len({groups[f"images/{name}.jpg"] for name in "aced"}) == 1
    assert groups["images/b.jpg"] not in {groups["images/a.jpg"]}
    assert class_counts(listing.labels, spec.labels) == {"bkl": 1, "mel": 1, "nv": 2, "no label": 1}
    assert label_text(listing.labels[1], spec.labels) == "no label"
    put(folder / "near_duplicates.csv", "a,b\na,nobody\n")
    with pytest.raises(DataUnavailable, match=r"near_duplicates\.csv, row 2: 'nobody' is not in labels\.csv"):
        list_images(spec)
    put(folder / "labels.csv", "image_id,dx\na,akiec\n")
    with pytest.raises(DataUnavailable, match=r"labels\.csv, row 2: dx is 'akiec'; expected bkl, mel, nv, or nothing"):
        list_images(spec)


def test_adult_pneumonia_as_published(root):
    folder = root / "nih_adult_pneumonia"
    for name in ("PNEUMONIA/1_0", "PNEUMONIA/1_1", "NORMAL/2_0"):
        put(folder / f"{name}.jpg")
    columns = "image,label,patient,age,sex,view,expert_airspace_opacity\n"
    rows = (
        "PNEUMONIA/1_0.jpg,PNEUMONIA,1,61,M,AP,YES\nPNEUMONIA/1_1.jpg,PNEUMONIA,1,61,M,PA,\n"
        "NORMAL/2_0.jpg,NORMAL,2,,F,odd,NO\n"
    )
    put(folder / "labels.csv", columns + rows)
    spec = DATASETS["nih-adult-pneumonia"]
    listing = list_images(spec)
    assert as_rows(listing) == {
        "PNEUMONIA/1_0.jpg": (1, "1", ""), "PNEUMONIA/1_1.jpg": (1, "1", ""), "NORMAL/2_0.jpg": (0, "2", ""),
    }  # fmt: skip
    people = read_demographics(spec, listing.ids)
    assert {fact: values.tolist() for fact, values in people.facts.items()} == {
        "view": ["AP", "PA", ""], "reader": ["yes", "", "no"],
    }  # fmt: skip
    assert family_of(spec.name) == "nih-chestxray14"
    put(folder / "labels.csv", columns + "NORMAL/2_0.jpg,healthy,2,,F,PA,\n")
    with pytest.raises(DataUnavailable, match=r"row 2: label is 'healthy'; expected NORMAL or PNEUMONIA"):
        list_images(spec)
    put(folder / "labels.csv", columns + "../2_0.jpg,NORMAL,2,,F,PA,\n")
    with pytest.raises(DataUnavailable, match="leads out of"):
        list_images(spec)


def test_external_sets_and_their_classes_exist():
    named = [(spec, external) for spec in DATASETS.values() for external in spec.external]
    assert {(spec.name, external.dataset) for spec, external in named} == {
        ("kermany", "nih-adult-pneumonia"), ("ham10000", "isic2017-dermoscopy"),
    }  # fmt: skip
    for spec, external in named:
        assert set(external.classes) <= set(DATASETS[external.dataset].labels)
        assert set(external.classes.values()) <= set(spec.labels)
        assert family_of(external.dataset) != family_of(spec.name)


@pytest.mark.data
def test_the_real_external_sets():
    adults, skin = DATASETS["nih-adult-pneumonia"], DATASETS["isic2017-dermoscopy"]
    for spec in (adults, skin):
        need(find_folder(spec), f"{spec.name} is not under LOWSHOT_DATA")
    listing = list_images(adults)
    assert np.bincount(listing.labels).tolist() == [500, 500]
    assert len(np.unique(listing.groups)) == 682
    people = read_demographics(adults, listing.ids)
    assert [int((people.facts["view"] == view).sum()) for view in ("AP", "PA")] == [567, 433]
    assert (people.facts["reader"] != "").sum() == 39
    nih_here = DATASETS["nih-chestxray14"]
    if find_folder(nih_here):
        assert len(np.intersect1d(listing.groups, list_images(nih_here).groups)) > 300
    listing = list_images(skin)
    assert np.bincount(listing.labels + 1).tolist() == [568, 160, 459, 1506]
    assert len(np.unique(listing.groups)) == 2693 - 6


@pytest.mark.parametrize("shape", ["images", "images_001/images"])
def test_nih_as_published(root, shape):
    folder = root / "NIH_ChestXray14"
    header = "Image Index,Finding Labels,Follow-up #,Patient ID\n"
    rows = "00000001_000.png,Cardiomegaly|Effusion,0,1\n00000002_000.png,No Finding,0,2\n00000003_000.png,Hernia,0,3\n"
    put(folder / "Data_Entry_2017.csv", header + rows)
    for name in ("00000001_000", "00000002_000"):
        put(folder / shape / f"{name}.png")
    put(folder / "train_val_list.txt", "00000001_000.png\n")
    put(folder / "test_list.txt", "00000002_000.png\n")
    listing = list_images(DATASETS["nih-chestxray14"])
    assert as_rows(listing).keys() == {f"{shape}/00000001_000.png", f"{shape}/00000002_000.png"}
    assert listing.labels[0][[1, 4]].tolist() == [1, 1]
    assert listing.labels.sum() == 2
    assert listing.groups.tolist() == ["1", "2"]
    assert listing.parts.tolist() == ["train", "test"]
    put(folder / "Data_Entry_2017.csv", header + rows + "00000004_000.png,Gout,0,4\n")
    with pytest.raises(DataUnavailable, match="row 5: 'Gout' is not one of the 14 findings"):
        list_images(DATASETS["nih-chestxray14"])


def chexpert_table(*rows):
    head = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *chexpert.FINDINGS])
    return "\n".join([head, *(f"{path},F,60,Frontal,AP,{','.join(cells)}" for path, cells in rows)]) + "\n"


CELLS = ["", "1.0", "0.0", "-1.0", *[""] * 10]


def test_chexpert_as_published(root):
    folder = root / "CheXpert-v1.0-small"
    for part, patient in (("train", "patient00001"), ("valid", "patient64541")):
        name = f"{part}/{patient}/study1/view1_frontal.jpg"
        put(folder / name)
        put(folder / f"{part}.csv", chexpert_table((f"CheXpert-v1.0-small/{name}", CELLS)))
    listing = list_images(DATASETS["chexpert"])
    assert listing.parts.tolist() == ["train", "test"]
    assert listing.groups.tolist() == ["patient00001", "patient64541"]
    for name, expected in (
        ("chexpert", [0, 1, 0, np.nan, 0]),
        ("chexpert@uncertain=zeros", [0, 1, 0, 0, 0]),
        ("chexpert@uncertain=ones", [0, 1, 0, 1, 0]),
        ("chexpert@uncertain=smooth", [0, 1, 0, chexpert.SMOOTHED, 0]),
        ("chexpert@blank=unknown,uncertain=ones", [np.nan, 1, 0, 1, np.nan]),
    ):
        assert np.allclose(list_images(find_dataset(name)).labels[0][:5], expected, equal_nan=True)
    with pytest.raises(UnknownName, match=r"uncertain=ignore\|zeros\|ones\|smooth"):
        find_dataset("chexpert@uncertain=perhaps")


@pytest.mark.parametrize(
    ("path", "cells", "words"),
    [
        ("CheXpert-v1.0/train/patient1/a.jpg", ["2", *CELLS[1:]], "row 2: No Finding is '2'"),
        ("../../etc/patient1.jpg", CELLS, "row 2: the path '../../etc/patient1.jpg' leads out"),
        ("/etc/patient1.jpg", CELLS, "leads out"),
        ("train/someone/a.jpg", CELLS, "names no patient"),
    ],
)
def test_chexpert_faults_are_named(root, path, cells, words):
    put(root / "chexpert" / "train.csv", chexpert_table((path, cells)))
    put(root / "chexpert" / "train" / "someone" / "a.jpg")
    with pytest.raises(DataUnavailable, match=words):
        list_images(DATASETS["chexpert"])


def test_chexpert_in_class_folders(root):
    for part, finding, name in (
        ("train", "No_Finding", "patient1_a.png"),
        ("train", "Pleural_Other", "patient2_a.png"),
        ("train", "Support_Devices", "patient2_a.png"),
        ("val", "Support_Devices", "patient3_a.png"),
    ):
        put(root / "chexpert" / part / finding / name)
    listing = list_images(DATASETS["chexpert"])
    found = {name.rsplit("/", 1)[1]: label for name, label in zip(listing.ids, listing.labels, strict=True)}
    at = chexpert.FINDINGS.index
    assert found["patient2_a.png"][[at("Pleural Other"), at("Support Devices")]].tolist() == [1, 1]
    assert found["patient1_a.png"].sum() == 1
    assert set(listing.groups) == {"patient1", "patient2", "patient3"}


@pytest.mark.parametrize("inner", ["images/", ""])
def test_covid_takes_the_classes_that_are_there_and_leaves_masks_alone(root, inner):
    for label in ("Covid", "Lung_infection", "Healthy"):
        put(root / "COVID-19_Radiography_Dataset" / label / f"{inner}{label}-1.png")
        put(root / "COVID-19_Radiography_Dataset" / label / "masks" / f"{label}-1.png")
    listing = list_images(DATASETS["covid-radiography"])
    assert listing.class_names == ("COVID", "Lung_Opacity", "Normal")
    assert len(listing) == 3
    assert not any("masks" in name for name in listing.ids)


def archive(path, shape, classes=2, columns=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, count in (("train", 6), ("val", 4), ("test", 5)):
        arrays[f"{part}_images"] = RANDOM.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{part}_labels"] = RANDOM.integers(0, classes, (count, columns))
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("name", "file", "shape"),
    [
        ("pneumoniamnist", "pneumoniamnist.npz", (28, 28)),
        ("dermamnist@size=64", "dermamnist_64.npz", (64, 64, 3)),
        ("nodulemnist3d", "nodulemnist3d.npz", (28, 28, 28)),
        ("vesselmnist3d@size=64", "vesselmnist3d_64.npz", (64, 64, 64)),
    ],
)
def test_medmnist(root, name, file, shape):
    archive(root / "medmnist" / file, shape)
    spec = find_dataset(name)
    with pytest.warns(UserWarning, match="not the file that MedMNIST publishes"):
        listing = list_images(spec)
    assert len(listing) == 15
    assert listing.dims == spec.dims
    assert np.unique(listing.parts, return_counts=True)[1].tolist() == [5, 6, 4]
    assert np.asarray(listing.read(7)).shape == shape


def test_every_row_of_the_medmnist_table_is_a_data_set():
    assert set(medmnist.INFO) <= set(DATASETS)
    multilabel = [name for name in medmnist.INFO if DATASETS[name].task == "multilabel"]
    assert multilabel == ["chestmnist"]
    assert family_of("chestmnist") == "nih-chestxray14"


def test_a_damaged_medmnist_file_is_named(root):
    put(root / "medmnist" / "breastmnist.npz", "not an archive")
    with pytest.raises(DataUnavailable, match="damaged"):
        list_images(DATASETS["breastmnist"])
    assert find_folder(DATASETS["pathmnist"]) is None


def label_files():
    """The folder of real label files inside the torchxrayvision wheel, found without importing it."""
    found = importlib.util.find_spec("torchxrayvision")
    need(found is not None and found.origin, "torchxrayvision is not installed (requirements-dev.txt)", required=True)
    return Path(found.origin).parent / "data"


def test_the_full_nih_table_parses(tmp_path):
    table = tmp_path / "Data_Entry_2017.csv"
    table.write_bytes(gzip.decompress((label_files() / "Data_Entry_2017_v2020.csv.gz").read_bytes()))
    rows = read_table(table, ("Image Index", "Finding Labels", "Patient ID"), unique="Image Index")
    labels = nih.parse_findings(rows["Finding Labels"].to_numpy(), table)
    assert len(rows) == 112_120
    assert rows["Patient ID"].nunique() == 30_805
    counts = dict(zip(nih.FINDINGS, labels.sum(axis=0).astype(int).tolist(), strict=True))
    assert counts["Hernia"] == 227
    assert counts["Infiltration"] == 19_894
    assert counts["Pneumonia"] == 1_431
    assert int((labels.sum(axis=1) == 0).sum()) == 60_361


def test_the_full_chexpert_table_parses():
    table = label_files() / "chexpert_train.csv.gz"
    rows = read_table(table, ("Path", *chexpert.FINDINGS), unique="Path")
    assert len(rows) == 223_414
    labels = chexpert.parse_labels(rows, table, "ignore", "negative")
    counts = pd.DataFrame(labels, columns=chexpert.FINDINGS)
    assert int((counts["Pleural Effusion"] == 1).sum()) == 86_187
    assert int(counts["Pleural Effusion"].isna().sum()) == 11_628
    assert int((counts["No Finding"] == 1).sum()) == 22_381


def test_a_medmnist_file_that_cannot_be_opened_is_named(root, monkeypatch):
    archive(root / "medmnist" / "breastmnist.npz", (28, 28))

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(medmnist.zipfile, "ZipFile", refuse)
    with pytest.raises(DataUnavailable, match=r"breastmnist.npz cannot be read .*Check its permissions"):
        DATASETS["breastmnist"].load(root / "medmnist")


def test_medmnist_files_of_another_kind_are_refused_with_the_reason(root):
    def archive(**changed):
        arrays = {f"{part}_images": np.zeros((4, 28, 28), np.uint8) for part in ("train", "val", "test")}
        arrays |= {f"{part}_labels": np.zeros((4, 1), np.uint8) for part in ("train", "val", "test")}
        np.savez(root / "medmnist" / "breastmnist.npz", **arrays | changed)

    (root / "medmnist").mkdir()
    spec = DATASETS["breastmnist"]
    for changed, reason in (
        ({"val_labels": np.full((4, 1), 2, np.uint8)}, "val labels contain an unknown class"),
        ({"test_labels": np.zeros(4, np.uint8)}, "test labels are not 4 rows of 1 integers"),
        ({"train_labels": np.full((4, 1), np.nan)}, "train labels are not"),
        ({"train_images": np.zeros((4, 28, 28, 3), np.uint8)}, "train images are not uint8 with 3 axes"),
    ):
        archive(**changed)
        with pytest.raises(DataUnavailable, match=reason):
            list_images(spec)
    archive()
    path = root / "medmnist" / "breastmnist.npz"
    whole = path.read_bytes()
    encrypted = bytearray(whole)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := encrypted.find(mark, at + 1)) >= 0:
            encrypted[at + offset] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(DataUnavailable, match="encrypted"):
        list_images(spec)
    path.write_bytes(whole)
    with pytest.warns(UserWarning, match="not the file that MedMNIST publishes"):
        assert len(list_images(spec)) == 12
