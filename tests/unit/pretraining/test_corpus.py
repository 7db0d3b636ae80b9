"""What a pretraining corpus may contain: the strict rule on patients, held-out patients, external sets."""

from dataclasses import replace

import numpy as np
import pytest

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.specs import External
from core.errors import DataUnavailable
from tests.publisher_folders import put_image, put_nih
from trainer.pretraining.corpus import build_corpus, guard_sets, without_test_images

NIH = "nih-chestxray14"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Kermany with two images, its external set with one, and NIH with 40 patients of two images each.

    NIH holds a copy of a Kermany image (patient 3) and the patient of the external set (patient 7), but no copy of it.
    """
    put_image(tmp_path / "kermany" / "train" / "NORMAL" / "a.png", 900, 224)
    put_image(tmp_path / "kermany" / "train" / "PNEUMONIA" / "b.png", 901, 224)
    put_image(tmp_path / "adult" / "NORMAL" / "x.png", 902, 224)
    (tmp_path / "adult" / "labels.csv").write_text("image,label,patient\nNORMAL/x.png,NORMAL,7\n")
    put_nih(tmp_path / "nih", [(2 * patient + i, patient) for patient in range(40) for i in range(2)])
    put_image(tmp_path / "nih" / "images" / "6.png", 900, 200)  # of patient 3: the copy
    for name, folder in (("kermany", "kermany"), ("nih-adult-pneumonia", "adult"), (NIH, "nih")):
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], path=tmp_path / folder))
    gone = replace(DATASETS["pneumoniamnist"], path=tmp_path / "nowhere")
    monkeypatch.setitem(DATASETS, "pneumoniamnist", gone)
    return tmp_path


def test_no_patient_of_a_target_or_its_external_set_is_learned(archive):
    part = build_corpus(["kermany"], [NIH], [NIH], 32)[0]
    kept = part.listing.groups[np.concatenate([part.train, part.validation, part.test])]
    assert set(kept) == {str(patient) for patient in range(40)} - {"3", "7"}
    assert len(kept) == 76
    assert part.copies["kermany"] == 1
    assert part.patients == {"kermany": 1, "kermany-3": 0, "nih-adult-pneumonia": 2}


def test_held_out_patients_are_nobody_elses(archive):
    part = build_corpus(["kermany"], [NIH], [NIH], 32)[0]
    sides = [set(part.listing.groups[rows]) for rows in (part.train, part.validation, part.test)]
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides))


def test_trials_know_no_test_image_of_any_data_set(archive):
    part = build_corpus(["kermany"], [NIH], [NIH], 32)[0]
    dataset = load_dataset(DATASETS[NIH])
    tests = set(dataset.listing.ids[dataset.parts.test])
    parts = (part, without_test_images(part))
    rows = [set(each.listing.ids[np.concatenate([each.train, each.validation])]) for each in parts]
    assert rows[0] & tests
    assert rows[1] == rows[0] - tests
    assert rows[1]


def test_guards_are_targets_relatives_and_external_sets(archive):
    assert guard_sets(["kermany"], [NIH]) == ["kermany", "kermany-3", "nih-adult-pneumonia"]


def test_an_external_set_in_the_corpus_is_no_guard(archive, monkeypatch):
    elsewhere = (External(NIH, {}),)
    monkeypatch.setitem(DATASETS, "kermany", replace(DATASETS["kermany"], external=elsewhere))
    assert guard_sets(["kermany"], [NIH]) == ["kermany", "kermany-3"]


@pytest.mark.parametrize("name", ["kermany", "pneumoniamnist"])
def test_the_target_and_its_relatives_cannot_be_in_the_corpus(name):
    with pytest.raises(DataUnavailable, match="cannot be in the corpus"):
        build_corpus(["kermany"], [name], [], 32)


def test_without_the_target_nothing_can_be_certified(monkeypatch, tmp_path):
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "nothing"))
    with pytest.raises(DataUnavailable, match="ham10000 is not on this machine, so that its copies cannot be found"):
        build_corpus(["dermamnist"], ["breast-ultrasound"], [], 32)
