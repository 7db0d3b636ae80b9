"""Copies and patients in more than one part: dropped, refused, or marked wherever the run is shown."""

import json
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.datasets.custom import custom_dataset
from core.data.overlap import comparable, copies_by_source
from core.data.specs import find_folder, is_present
from core.data.splits import split
from core.errors import LeakFound
from core.runs import read_run
from tests.conftest import need, real
from tests.unit.data.test_splits import NO_COPIES, copies
from trainer.cli import main
from trainer.progress import progress_bar
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell

LABELS = np.arange(200) % 2
OWN = np.array([f"p{i}" for i in range(200)])
GIVEN = np.array(["train"] * 160 + ["test"] * 40)
ALL = np.ones(200, bool)


def test_training_copies_of_test_images_are_dropped_unless_leaks_are_allowed():
    usual = split(LABELS, OWN, GIVEN, ALL, copies((3, 170), (5, 6)))
    assert (usual.dropped, usual.leaks) == (1, 0)
    allowed = split(LABELS, OWN, GIVEN, ALL, copies((3, 170), (5, 6)), allow_leaks=True)
    assert (allowed.dropped, allowed.leaks) == (0, 1)
    assert 3 in np.concatenate([allowed.train, allowed.validation])
    assert any(note.startswith("LEAKS ALLOWED: 1 ") for note in allowed.notes)
    clean = split(LABELS, OWN, GIVEN, ALL, NO_COPIES, allow_leaks=True)
    assert np.array_equal(clean.train, split(LABELS, OWN, GIVEN, ALL, NO_COPIES).train)
    assert clean.leaks == 0


def test_a_class_whose_every_training_image_crosses_stops_the_run():
    patients = np.where(
        (GIVEN == "train") & (LABELS == 1), np.char.add("p", (160 + np.arange(200) % 40).astype(str)), OWN
    )
    with pytest.raises(LeakFound, match="--allow-leaks"):
        split(LABELS, patients, GIVEN, ALL, NO_COPIES)
    assert split(LABELS, patients, GIVEN, ALL, NO_COPIES, allow_leaks=True).leaks == 80


def test_copies_with_different_labels_are_reported():
    parts = split(LABELS, OWN, GIVEN, ALL, copies((3, 8), (5, 7)))
    assert "1 pairs of copies bear different labels" in parts.notes[0]
    findings = np.column_stack([LABELS, np.where(LABELS, np.nan, 0)]).astype(np.float32)
    parts = split(findings, OWN, np.full(200, ""), ALL, copies((3, 8), (4, 6)))
    assert "1 pairs of copies" in parts.notes[0]


def test_a_run_with_leaks_is_marked_in_record_and_output(class_folder, runs, short_training, capsys):
    root = class_folder({"sick": 30, "well": 30}, parts=["train", "test"])
    for index in range(4):
        shutil.copy(root / "test" / "sick" / f"{index}.png", root / "train" / "sick" / f"copy{index}.png")
    argv = ["run", "--folder", str(root), "--model", "scratch-cnn", "--strategy", "scratch", "--size", "5"]
    assert main(argv) == 0
    assert main([*argv, "--allow-leaks"]) == 0
    said = capsys.readouterr()
    assert "4 training or validation images were dropped" in said.err
    assert "LEAKS ALLOWED: 4 images" in said.out
    metas = sorted((read_run(folder) for folder in runs.glob("*/*")), key=lambda meta: meta.leaks)
    assert [meta.leaks for meta in metas] == [0, 4]
    assert metas[0].split_hash != metas[1].split_hash


def noise(path, seed, side=72):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (14, 14), dtype=np.uint8)
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def compilation(tmp_path, monkeypatch):
    """A small compilation in its publisher's layout that holds copies of the Kermany set beside it."""
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "data"))
    kermany, covid = tmp_path / "data" / "chest_xray", tmp_path / "data" / "COVID-19_Radiography_Dataset"
    for number in range(8):
        noise(kermany / "train" / "NORMAL" / f"IM-{number:04d}-0001.jpeg", number)
        noise(kermany / "train" / "PNEUMONIA" / f"person{number}_virus_1.jpeg", 100 + number)
        noise(kermany / "test" / "NORMAL" / f"IM-{number:04d}-0001.jpeg", 200 + number)
        noise(covid / "COVID" / "images" / f"COVID-{number}.png", 300 + number)
        noise(covid / "Normal" / "images" / f"Normal-{number}.png", number if number < 5 else 400 + number, 64)
        noise(
            covid / "Viral Pneumonia" / "images" / f"Viral-{number}.png", 100 + number if number < 3 else 500 + number
        )
    return covid


def test_copies_are_reported_by_source_and_class_from_either_side(compilation, capsys):
    assert [other.name for other in comparable(DATASETS["covid-radiography"])] == ["kermany"]
    (source,) = copies_by_source(DATASETS["covid-radiography"], progress_bar)
    assert (source.images, source.of) == (8, 24)
    assert source.by_class == {"COVID": 0, "Normal": 5, "Viral Pneumonia": 3}
    assert source.by_part == {"train": 8}
    (back,) = copies_by_source(DATASETS["kermany"], progress_bar)
    assert (back.images, back.by_class["Normal"], back.by_class["Pneumonia"]) == (8, 5, 3)
    assert main(["audit", "covid-radiography", "--sources"]) == 1
    assert "8 of 24 images are copies: Normal 5, Viral Pneumonia 3" in capsys.readouterr().out
    assert main(["audit", "covid-radiography", "--sources", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["other"] == "kermany"


@pytest.mark.data
def test_custom_images_from_the_encoders_corpus_stop_its_runs(tmp_path, runs):
    need(is_present(DATASETS["nih-chestxray14"]), "nih-chestxray14 is not under LOWSHOT_DATA")
    folder = find_folder(DATASETS["nih-chestxray14"]) / "images"
    images = sorted(folder.rglob("*.jpg"))[:60] or sorted(folder.rglob("*.png"))[:60]
    for index, path in enumerate(images):
        target = tmp_path / "mine" / ("sick" if index % 2 else "well")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    medical, other = (
        Cell("mine", model, "frozen", 5, 0) for model in ("medical-efficientnet-lite0", "imagenet-efficientnet-lite0")
    )
    dataset = load_dataset(custom_dataset(tmp_path / "mine"))
    assert plan_run(other, dataset).setup.leaks == 0
    with pytest.raises(LeakFound, match="60 of these images"):
        plan_run(medical, dataset)
    allowed = load_dataset(custom_dataset(tmp_path / "mine"), allow_leaks=True)
    meta = plan_run(medical, allowed).setup
    assert meta.leaks == 60
    assert any("LEAKS ALLOWED: the medical encoder" in note for note in meta.notes)


def test_without_the_corpus_custom_images_are_reported_as_unchecked(class_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "nothing"))
    dataset = load_dataset(custom_dataset(class_folder({"a": 25, "b": 25})))
    meta = plan_run(Cell("mine", "medical-efficientnet-lite0", "frozen", 5, 0), dataset).setup
    assert any("Nobody has compared" in note for note in meta.notes)


@pytest.mark.data
@pytest.mark.parametrize("name", ["ham10000", "nih-chestxray14"])
def test_no_lesion_or_patient_is_on_both_sides_of_any_split_for_any_seed(name):
    """The parts, what each seed's subset leaves to them, and the folds inside every subset."""
    from trainer.training.folds import validation_folds

    data = real(name)
    sides = [set(data.parts.groups[rows]) for rows in (data.parts.train, data.parts.validation, data.parts.test)]
    named = [set(data.listing.groups[rows]) for rows in (data.parts.train, data.parts.validation, data.parts.test)]
    for one in (sides, named):
        assert not one[0] & one[1]
        assert not one[0] & one[2]
        assert not one[1] & one[2]
    for seed in range(5):
        for size in (10, 100):
            rows = data.subset(size, seed).indices
            assert set(data.parts.groups[rows]) <= sides[0]
            groups = data.listing.groups[rows]
            for trained_on, held in validation_folds(data.listing.labels[rows], data.parts.groups[rows], 5, seed):
                assert not set(groups[trained_on]) & set(groups[held])


@pytest.mark.data
def test_related_data_sets_count_as_one():
    from core.data.specs import family_of
    from core.models.medical_encoders import relatives

    assert family_of("pneumoniamnist") == family_of("kermany") == family_of("kermany-3")
    assert {"dermamnist", "ham10000"} <= relatives("ham10000")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert all(other.derived_from is None for other in comparable(DATASETS["covid-radiography"]))
