from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from core.data import DATASETS
from core.data.audit import Copies
from core.data.dataset import load_dataset
from core.data.likeness import SIZE as SCAN_SIZE
from core.data.listing import UNLABELLED, Listing
from core.data.phantom import make_phantom
from core.errors import BadRequest, DataUnavailable
from core.models.lite0 import MEDICAL
from core.models.own_encoders import (
    JUDGE,
    find_own_encoder,
    judged_on,
    load_own_encoder,
    read_card,
    save_own_encoder,
)
from trainer.cli import build_parser, main
from trainer.corpus import CorpusPart, _of_people_judged, gather
from trainer.judge import clustered_difference, columns_of, macro_auroc
from trainer.pretrain import Recipe, _averaged, _supervised_loss, as_record, imagenet_encoder, pretrain
from trainer.pretraining import _recipe, _same_corpus, _serve_too


def write_images(root, seeds, label):
    (root / label).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        Image.fromarray(make_phantom(seed, 0).pixels).save(root / label / f"{seed}.png")


@pytest.fixture
def two_sets(tmp_path, monkeypatch):
    """A target and a corpus set that holds re-encoded copies of two of its images."""
    target, corpus = tmp_path / "target", tmp_path / "corpus"
    write_images(target / "train", range(12), "NORMAL")
    write_images(target / "train", range(12, 24), "PNEUMONIA")
    for label, start in (("benign", 100), ("malignant", 120), ("normal", 140)):
        write_images(corpus, range(start, start + 6), label)
    for seed in (3, 15):
        kind = "NORMAL" if seed < 12 else "PNEUMONIA"
        Image.open(target / "train" / kind / f"{seed}.png").resize((150, 150)).save(
            corpus / "benign" / f"copy{seed}.png"
        )
    for name, path in (("kermany", target), ("breast-ultrasound", corpus)):
        monkeypatch.setitem(DATASETS._rows, name, replace(DATASETS[name], path=path))
    gone = replace(DATASETS["pneumoniamnist"], path=tmp_path / "nowhere")
    monkeypatch.setitem(DATASETS._rows, "pneumoniamnist", gone)


def test_copies_of_the_target_are_removed_and_counted(two_sets):
    part = gather("kermany", ("breast-ultrasound",), (), 32)[0]
    assert part.removed["kermany"] == 2
    assert part.people["kermany"] == 0  # every image of this set is a group of its own
    kept = np.concatenate([part.train, part.validation, part.test])
    assert len(np.unique(kept)) == len(kept) == 18
    assert not any("copy" in name for name in part.listing.ids[part.train])


def test_without_the_target_nothing_can_be_certified(two_sets, monkeypatch, tmp_path):
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "nothing"))
    with pytest.raises(DataUnavailable, match="ham10000 is not on this machine, so that its copies cannot be found"):
        gather("dermamnist", ("breast-ultrasound",), (), 32)


@pytest.mark.parametrize("name", ["kermany", "pneumoniamnist"])
def test_the_target_and_its_relatives_cannot_be_in_the_corpus(name):
    with pytest.raises(DataUnavailable, match="cannot be in the corpus"):
        gather("kermany", (name,), (), 32)


def test_of_people_by_whom_the_target_judges_no_image_is_learnt():
    parts = load_dataset(DATASETS["phantom"]).parts
    listing = of_classes([0] * 7)
    listing = replace(listing, groups=np.array(["a", "a", "b", "b", "c", "c", "d"]))
    copies = Copies(np.array([0, 2, 4]), np.array([parts.test[0], parts.train[0], parts.validation[0]]), np.ones(3))
    found = _of_people_judged(listing, copies, "phantom")
    assert found.tolist() == [True, True, False, False, True, True, False]
    alone = replace(listing, groups=listing.ids)
    assert _of_people_judged(alone, copies, "phantom").tolist() == [True, False, True, False, True, False, False]


def test_people_whom_the_target_knows_are_counted_and_not_learnt(two_sets, monkeypatch):
    def known(listing, copies, guard):
        assert len(copies) == (2 if guard == "kermany" else 0)
        return np.array([guard == "kermany" and ("copy" in name or name.endswith("105.png")) for name in listing.ids])

    monkeypatch.setattr("trainer.corpus._of_people_judged", known)
    part = gather("kermany", ("breast-ultrasound",), (), 32)[0]
    without = [name for name in part.listing.ids[part.train] if name.endswith("105.png")]
    held = [name for name in part.listing.ids[[*part.validation, *part.test]] if name.endswith("105.png")]
    assert not without
    assert part.people["kermany"] == 1 - len(held)


def small_part():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (64, 1, 32, 32), dtype=np.uint8)
    labels = random.integers(0, 2, (64, 3)).astype(float)
    labels[:, 2] = np.nan
    ids = np.array([str(i) for i in range(64)])
    listing = Listing(ids, labels, ids, np.full(64, ""), lambda _: b"", "small")
    none = np.array([], int)
    spec = replace(DATASETS[JUDGE], labels=("a", "b", "unknown"))
    bank = type("Bank", (), {"images": images})()
    return CorpusPart(spec, listing, bank, np.arange(64), none, none, {}, {})


@pytest.mark.parametrize(("copies", "serves"), [(0, True), (3, False)])
def test_an_encoder_serves_another_target_where_nothing_had_to_be_removed(tmp_path, copies, serves):
    recipe, part = Recipe(sets=(JUDGE,), epochs=2, size=32), replace(small_part(), removed={"ham10000": copies})
    corpus = [{"set": JUDGE, "images": 64, "held_out": 0, "copies_removed": {"kermany": 0}}]
    card = {"seen": [JUDGE], "left_out": ["kermany"], "licence": "", "corpus": corpus, "recipe": as_record(recipe)}
    save_own_encoder(tmp_path / "without-kermany", {}, card)
    found = _same_corpus(tmp_path, recipe, [part])
    assert (found is not None) == serves
    assert _same_corpus(tmp_path, replace(recipe, lr=1.0), [replace(part, removed={})]) is None
    if serves:
        _serve_too(found, "ham10000", [part])
        after = read_card(found)
        assert after["left_out"] == ["dermamnist", "ham10000", "kermany"]
        assert after["corpus"][0]["copies_removed"] == {"ham10000": 0, "kermany": 0}


def test_for_nih_itself_an_encoder_learns_from_and_is_judged_on_other_sets(tmp_path, monkeypatch, capsys):
    target, judge = tmp_path / "target", tmp_path / "judge"
    (target / "images").mkdir(parents=True)
    rows = ["Image Index,Finding Labels,Patient ID"]
    for seed in range(6):
        Image.fromarray(make_phantom(seed, 0).pixels).save(target / "images" / f"{seed}.png")
        rows.append(f"{seed}.png,{'Mass' if seed % 2 else 'No Finding'},{seed}")
    (target / "Data_Entry_2017.csv").write_text("\n".join(rows))
    for number, label in enumerate(("NORMAL", "PNEUMONIA")):
        (judge / "train" / label).mkdir(parents=True)
        for seed in range(100):
            pixels = np.clip(make_phantom(1000 + seed, number).pixels[::3, ::3].astype(int) + 40 * number, 0, 255)
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(judge / "train" / label / f"person{seed + 200 * number}_{label}.jpeg")
    Image.open(target / "images" / "3.png").save(judge / "train" / "NORMAL" / "person900_copy.jpeg")
    for name, path in ((JUDGE, target), ("kermany", judge)):
        monkeypatch.setitem(DATASETS._rows, name, replace(DATASETS[name], path=path))
    for name in ("chestmnist", "pneumoniamnist"):
        monkeypatch.setitem(DATASETS._rows, name, replace(DATASETS[name], path=tmp_path / "nowhere"))
    monkeypatch.setattr("trainer.pretraining.TRANSFER_SETS", ())
    monkeypatch.setattr("trainer.judge.MIN_POSITIVES", 3)
    argv = ["pretrain", "--target", JUDGE, "--sets", "kermany", "--epochs", "0.5", "--out", str(tmp_path / "out")]
    assert main([*argv, "--device", "cpu"]) in (0, 1)
    said = capsys.readouterr().out
    (folder,) = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    card = read_card(folder)
    assert card["seen"] == ["kermany"]
    assert JUDGE in card["left_out"]
    assert card["corpus"][0]["copies_removed"][JUDGE] == 1
    assert "kermany_test" in said
    if folder.name.startswith("without"):
        waiting = folder.with_name(f".{folder.name}.unjudged")
        folder.rename(waiting)  # as if it had ended before
        monkeypatch.setattr("trainer.pretraining.train_by", None)  # is not called
        assert main([*argv, "--device", "cpu"]) == 0
        assert "trained already" in capsys.readouterr().out
        assert not waiting.exists()
        assert read_card(folder)["sha256"] == card["sha256"]
        dataset, found = judged_on(card)
        assert dataset == "kermany"
        assert found["findings"] == ["Pneumonia"]


def test_who_judges_an_encoder():
    parse = build_parser().parse_args
    assert _recipe(parse(["pretrain"])).sets == (JUDGE,)
    assert _recipe(parse(["pretrain", "--target", "chestmnist"])).sets == ("kermany", "knee-osteoarthritis")
    with pytest.raises(BadRequest, match="first set must be nih-chestxray14"):
        _recipe(parse(["pretrain", "--sets", "ham10000"]))
    card = {"seen": [JUDGE, "kermany"], "nih_test": {"images": 3}}
    assert judged_on(card) == (JUDGE, {"images": 3})
    assert judged_on({"seen": ["kermany"]}) is None
    columns, names = columns_of(replace(small_part(), spec=DATASETS["kermany"], listing=of_classes([0, 1, 1])))
    assert columns.tolist() == [[0], [1], [1]]
    assert names == [DATASETS["kermany"].labels[1]]
    columns, names = columns_of(replace(small_part(), spec=DATASETS["covid-radiography"], listing=of_classes([2, 0])))
    assert columns.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert len(names) == 4


def of_classes(labels):
    ids = np.array([str(one) for one in range(len(labels))])
    return Listing(ids, np.array(labels), ids, np.full(len(ids), ""), lambda _: b"", "classes")


def distance(first, second):
    first, second = first.state_dict(), second.state_dict()
    return sum(float((first[k].float() - second[k].float()).square().sum()) for k in first if "weight" in k)


def test_pretraining_moves_the_encoder_and_averaging_holds_it_back():
    recipe = Recipe(sets=(JUDGE,), epochs=2, size=32)
    moved, history = pretrain(recipe, [small_part()], torch.device("cpu"))
    start = imagenet_encoder()
    assert distance(moved, start) > 0
    assert np.isfinite([row["loss"] for row in history]).all()
    full = distance(moved, start)
    half = _averaged(start, moved, 0.5)
    assert distance(half, start) == pytest.approx(full / 4, rel=1e-3)


def test_the_difference_of_a_score_with_itself_is_nothing():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (200, 2))
    scores = random.random((200, 2)) + labels
    groups = np.arange(200) // 2
    assert clustered_difference(scores, scores, labels, groups, draws=50) == (0, 0, 0)
    value, low, high = clustered_difference(scores, random.random((200, 2)), labels, groups, draws=200)
    assert 0 < low < value < high
    assert macro_auroc(scores, labels) > 0.9


def test_the_shipped_encoder_is_a_medical_encoder():
    """It beats its ImageNet start on held-out NIH patients, has never seen Kermany, and says what was removed."""
    folder = find_own_encoder(MEDICAL, "kermany")
    card = read_card(folder)
    _, low, _ = card["nih_test"]["difference"]
    assert low > 0
    assert not {"kermany", "pneumoniamnist"} & set(card["seen"])
    assert all("kermany" in row["copies_removed"] for row in card["corpus"])
    assert card["licence"]
    state = load_own_encoder(MEDICAL, "kermany")
    assert all(torch.isfinite(value).all() for value in state.values())
    recipes = (folder.parent / "recipes.jsonl").read_text().splitlines()
    assert len(recipes) >= 2


@pytest.mark.data
def test_held_out_nih_patients_are_in_no_training_image():
    from core.data.specs import is_present
    from tests.conftest import need

    need(is_present(DATASETS[JUDGE]), f"{JUDGE} is not under LOWSHOT_DATA")
    part = gather("", (JUDGE,), (), SCAN_SIZE)[0]  # at which the images are decoded anyhow
    patients = part.listing.groups
    held = set(patients[part.validation]) | set(patients[part.test])
    assert not held & set(patients[part.train])
    assert not set(patients[part.validation]) & set(patients[part.test])
    assert len(part.test) > 2000


def test_an_image_without_a_label_has_no_part_in_the_supervised_loss():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels = np.array([0, UNLABELLED, 2, UNLABELLED])
    known = _supervised_loss(logits[[0, 2]], labels[[0, 2]], "multiclass")
    assert float(_supervised_loss(logits, labels, "multiclass")) == pytest.approx(float(known))
    assert float(_supervised_loss(logits, np.full(4, UNLABELLED), "multiclass")) == 0
