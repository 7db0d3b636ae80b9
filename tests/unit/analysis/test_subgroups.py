"""Ages and sexes from publishers' tables, stored with the runs, and metrics by subgroup from stored predictions."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from core.analysis.subgroups import (
    AGE,
    FILE,
    LEAST,
    SEX,
    SUSPICIOUS,
    by_subgroup,
    characteristics,
    members,
    save_demographics,
    stored_demographics,
)
from core.cards.answers import answers_of
from core.cards.subject import Subject, limits
from core.data import DATASETS
from core.data.demographics import Demographics, read_demographics
from core.data.specs import DemographicsTable, find_dataset
from core.errors import CorruptRun, DataUnavailable
from core.metrics.calibration import probabilities_of
from core.paths import PROJECT
from core.runs import Run, open_store, read_predictions
from core.runs.sidecar import read_sidecar, save_sidecar
from tests.conftest import need
from tests.synthetic_runs import STRONG, make_run
from trainer.cli import main

SHIPPED = PROJECT / "checkpoints" / "ham10000"
TABLE = """lesion_id,image_id,dx,age,sex
L1,a,nv,80.0,male
L1,b,nv,0,Female
L2,c,mel,,unknown
L3,d,mel,411,F
L4,e,mel,058Y,M
"""


def row_at(folder, **other):
    columns = {"files": ("other.csv", "people.csv"), "image": "image_id", "age": "age", "sex": "sex"}
    return replace(DATASETS["ham10000"], path=folder, demographics=DemographicsTable(**columns), **other)


def test_tables_are_read_and_slips_are_unknown(tmp_path):
    (tmp_path / "people.csv").write_text(TABLE)
    ids = np.array(["images/b.jpg", "images/a.jpg", "c.png", "d", "e", "nobody.png"])
    found = read_demographics(row_at(tmp_path), ids)
    np.testing.assert_array_equal(found.age, [0, 80, math.nan, math.nan, 58, math.nan])
    assert found.sex.tolist() == ["female", "male", "", "female", "male", ""]
    with pytest.raises(DataUnavailable, match="gives neither"):
        read_demographics(replace(row_at(tmp_path), demographics=None), ids)
    with pytest.raises(DataUnavailable, match="not on this machine"):
        read_demographics(row_at(tmp_path / "gone"), ids)
    (tmp_path / "people.csv").write_text("image_id,age\na,3\n")
    with pytest.raises(DataUnavailable, match="lacks the column 'sex'"):
        read_demographics(row_at(tmp_path), ids)


def test_age_and_sex_are_facts_of_a_row():
    named = {name for name, row in DATASETS.items() if row.demographics}
    assert named == {"ham10000", "isic2017-dermoscopy", "nih-adult-pneumonia", "nih-chestxray14"}
    assert find_dataset("nih-chestxray14@findings=Mass").demographics == DATASETS["nih-chestxray14"].demographics


@pytest.mark.data
def test_the_real_tables_are_read():
    from core.data.specs import is_present, list_images

    for name in ("ham10000", "nih-chestxray14"):
        need(is_present(DATASETS[name]), f"{name} is not under LOWSHOT_DATA")
        found = read_demographics(DATASETS[name], list_images(DATASETS[name]).ids)
        assert (found.sex != "").mean() > 0.99
        assert np.nanmin(found.age) >= 0
        assert np.isnan(found.age).mean() < 0.01


def test_groups_are_disjoint_and_leave_out_who_is_unknown():
    people = Demographics(np.array([0, 39, 40, 59.0, 60, 79, 80, 95, math.nan]), np.array(["female", "male", ""] * 3))
    found = {(by, name): member for by, name, member in members(people)}
    assert list(found) == [
        (SEX, "female"), (SEX, "male"), (AGE, "under 40"), (AGE, "40 to 59"), (AGE, "60 to 79"), (AGE, "80 and over"),
    ]  # fmt: skip
    for by, unknown in ((SEX, people.sex == ""), (AGE, np.isnan(people.age))):
        covered = np.sum([member for (of, _), member in found.items() if of == by], axis=0)
        np.testing.assert_array_equal(covered, ~unknown)


def test_what_is_kept_comes_back_and_damage_is_named(tmp_path):
    ids, people = np.array(["b", "a"]), Demographics(np.array([50, math.nan]), np.array(["female", ""]))
    assert stored_demographics(tmp_path, ids) is None
    save_demographics(tmp_path, ids, people, {"licence": "CC BY-NC 4.0"})
    found = stored_demographics(tmp_path, np.array(["a", "b", "new"]))
    np.testing.assert_array_equal(found.age, [math.nan, 50, math.nan])
    assert found.sex.tolist() == ["", "female", ""]
    assert characteristics(tmp_path).startswith("Test images: female 1, male 0, under 40 0, 40 to 59 1,")
    save_sidecar(tmp_path, FILE, {"ids": ["a"], "age": []})
    with pytest.raises(CorruptRun, match=FILE):
        stored_demographics(tmp_path, ids)
    assert characteristics(tmp_path) == ""


@pytest.fixture(scope="module")
def skin():
    """Two shipped runs on skin lesions of one series and size."""
    metas = open_store(PROJECT / "checkpoints").runs.items()
    wanted = ("imagenet-efficientnet-lite0", 100)
    found = [Run(f, m) for f, m in metas if m.dataset == "ham10000" and (m.model, m.train_size) == wanted]
    return sorted(found, key=lambda run: run[1].seed)[:2]


def test_figures_of_a_group_are_scikit_learns_on_its_images(skin):
    found = {one.name: one for one in by_subgroup(skin, draws=60)}
    parts = []
    for folder, meta in skin:
        stored = read_predictions(folder)
        women = stored_demographics(SHIPPED, stored.ids).sex == "female"
        parts.append((stored.labels[women], probabilities_of(stored.logits, meta.temperature, False)[women], stored))
    women = found["female"]
    assert women.images == len(parts[0][0])
    assert women.classes == tuple(np.bincount(parts[0][0], minlength=7))
    suspicious = [skin[0][1].labels.index(name) for name in ("akiec", "bcc", "mel")]
    by_hand = {
        "auroc": [roc_auc_score(y, p, multi_class="ovr", labels=range(7)) for y, p, _ in parts],
        "balanced_accuracy": [balanced_accuracy_score(y, p.argmax(axis=1)) for y, p, _ in parts],
        "accuracy": [accuracy_score(y, p.argmax(axis=1)) for y, p, _ in parts],
        SUSPICIOUS: [roc_auc_score(np.isin(y, suspicious), p[:, suspicious].sum(axis=1)) for y, p, _ in parts],
    }
    for name, values in by_hand.items():
        one = women.figures[name]
        assert one.value == pytest.approx(np.mean(values), abs=1e-6)
        assert one.low < one.value < one.high
        assert women.differences[name].value == pytest.approx(one.value - found["male"].figures[name].value)
    assert (women.against, found["male"].against) == ("male", "")
    assert "auroc" not in found["under 40"].figures, "no akiec and no bcc are among them"
    assert set(found["under 40"].figures) == {"accuracy", SUSPICIOUS}
    assert not any(one.too_few for one in found.values())


def test_small_groups_are_marked_and_equal_groups_do_not_differ(tmp_path, monkeypatch):
    make_run(tmp_path, STRONG, 10, 0, 2.0, dataset="kermany", tests=600)
    run = Run(*next(iter(open_store(tmp_path).runs.items())))
    assert by_subgroup([run]) == []
    ids = read_predictions(run[0]).ids
    sex = np.where(np.arange(len(ids)) // 4 % 2, "female", "male")
    age = np.where(np.arange(len(ids)) < LEAST - 10, 20.0, 50.0)
    save_demographics(tmp_path / "kermany", ids, Demographics(age, sex), {})
    found = {one.name: one for one in by_subgroup([run], draws=300)}
    assert found["under 40"].too_few.startswith(f"fewer than {LEAST}")
    assert not found["under 40"].figures
    assert found["60 to 79"].images == 0
    assert not found["40 to 59"].differences, "there is nothing to compare it with"
    assert set(found["female"].figures) == {"auroc", "balanced_accuracy", "sensitivity", "specificity"}
    smaller = next(one for one in (found["female"], found["male"]) if one.against)
    assert all(one.low < 0 < one.high for one in smaller.differences.values())


def test_the_card_and_the_checklists_take_the_groups_up(skin):
    folder, meta = skin[0]
    groups = by_subgroup([skin[0]], draws=40)
    one = Subject(meta, {}, 2003, 5, "", folder, groups)
    assert "by device, skin type or ethnicity" in " ".join(limits(one))
    answers = answers_of(one)
    assert "sex female (888 images): AUROC 0." in answers["performance"]
    assert answers["people"].startswith("Test images: female 888, male 1,104")
    assert "No measures were taken" in answers["fairness"]
    assert "image check" in answers["poor input"]
    none = answers_of(replace(one, folder=None, subgroups=()))
    assert "sex female" not in none["performance"]
    assert [none["people"], none["fairness"], none["poor input"]] == [""] * 3


def test_what_ships_is_of_the_test_images_and_names_its_license():
    content = read_sidecar(SHIPPED, FILE)
    assert content["licence"] == DATASETS["ham10000"].licence
    runs = [(f, m) for f, m in open_store(PROJECT / "checkpoints").runs.items() if m.dataset == "ham10000"]
    assert {content["split_hash"]} == {meta.split_hash for _, meta in runs}
    assert content["ids"] == read_predictions(runs[0][0]).ids.tolist()


def test_the_command_wants_runs_of_these_images(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path))
    assert main(["subgroups", "--dataset", "phantom"]) == 2
    assert "No stored run of phantom" in capsys.readouterr().err
    for path in (PROJECT / "checkpoints" / "phantom").glob("scratch-cnn-64-scratch-n10-s0-*"):
        shutil.copytree(path, tmp_path / "phantom" / path.name)
    assert main(["subgroups", "--dataset", "phantom"]) == 2
    assert "gives neither" in capsys.readouterr().err
