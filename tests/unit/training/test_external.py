"""External test sets: which may serve, what a run stores about them, and what is refused with its remedy."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.datasets.custom import custom_dataset
from core.data.datasets.phantom import make_phantom
from core.data.external_sets import load_external
from core.data.listing import UNLABELED
from core.data.specs import External, is_present
from core.errors import BadRequest, DataUnavailable, LeakFound, UnknownName
from core.metrics import measure
from core.runs import Run, open_store, read_predictions, read_run, shared_classes
from core.runs.predictions import external_names
from tests.conftest import need
from trainer.cli import main, parse
from trainer.training.external import _exposure_of_own_encoder, with_external

CLASSES = ("clear", "opacity")
ENCODER = {"seen": [], "left_out": [], "licence": "", "sha256": ""}


def make_folder(root, count, seed, names=CLASSES):
    """A folder of class folders with phantoms of its own seeds."""
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.fromarray(make_phantom(seed + index, label % 2, 64).pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """One's own images, 40 per class."""
    return load_dataset(custom_dataset(make_folder(tmp_path_factory.mktemp("own") / "here", 40, 50_000)))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Images of other patients, 15 per class."""
    return make_folder(tmp_path_factory.mktemp("other") / "elsewhere", 15, 60_000, ("CLEAR", "Opacity"))


def asked(*names, classes=None):
    return [str(name) for name in names], classes or {}


def test_classes_are_matched_by_name_and_all_images_are_the_test_part(own, elsewhere):
    found = load_external(External("", path=elsewhere), own)
    assert found.labels == CLASSES
    assert len(found.dataset.parts.test) == 30
    assert np.bincount(found.dataset.listing.labels).tolist() == [15, 15]
    assert not len(found.dataset.parts.train)
    assert found.dataset.fingerprint != own.fingerprint


def test_a_mapping_names_classes_and_leaves_out_the_rest(own, tmp_path):
    folder = make_folder(tmp_path / "three", 8, 70_000, ("ill", "odd", "well"))
    found = load_external(External("", {"well": "clear", "ill": "opacity"}, path=folder), own)
    assert found.labels == CLASSES
    names = [name.split("/")[0] for name in found.dataset.listing.ids]
    expected = [{"ill": 1, "well": 0, "odd": UNLABELED}[name] for name in names]
    assert found.dataset.listing.labels.tolist() == expected
    assert "odd" not in {names[row] for row in found.dataset.parts.test}


@pytest.mark.parametrize(
    ("names", "classes", "error", "words"),
    [
        (("red", "green"), {}, BadRequest, r"shares no class with own-here.*--external-classes THERE=HERE"),
        (("clear", "green"), {}, BadRequest, r"shares only the class 'clear'.*needs 2 or more"),
        (
            ("red", "green"),
            {"red": "blue"},
            UnknownName,
            r"red=blue, but own-here-\w+ has no class 'blue'",
        ),
        (("red", "green"), {"pink": "clear"}, UnknownName, r"pink=clear, but own-\w+-\w+ has no class 'pink'.*Correct"),
    ],
)
def test_classes_that_do_not_fit_are_refused_with_the_remedy(own, tmp_path, names, classes, error, words):
    folder = make_folder(tmp_path / "misfit", 4, 71_000, names)
    with pytest.raises(error, match=words):
        load_external(External("", classes, path=folder), own)


def test_copies_of_any_part_are_refused(own, elsewhere, tmp_path):
    for part in ("train", "validation", "test"):
        folder = make_folder(tmp_path / part, 6, 72_000)
        name = str(own.listing.ids[getattr(own.parts, part)[0]])
        Image.open(own.spec.path / name).resize((60, 60)).save(folder / "clear" / "copy.png")
        words = rf"1 images of own-{part}-\w+ are copies.*1 of {part}\w* images\): clear/copy\.png\. Take them out"
        with pytest.raises(LeakFound, match=words):
            load_external(External("", path=folder), own)
    with pytest.raises(LeakFound, match=r"both are made from the images of own-here"):
        load_external(External("", path=own.spec.path), own)


def test_tables_that_name_the_same_patients_are_refused(tmp_path):
    def table(folder, seed, first):
        make_folder(folder, 30, seed)
        rows = [
            {"path": f"{name}/{index}.png", "label": name, "patient": f"p{first + 30 * label + index}"}
            for label, name in enumerate(CLASSES)
            for index in range(30)
        ]
        pd.DataFrame(rows).to_csv(folder / "images.csv", index=False)
        return folder / "images.csv"

    here = load_dataset(custom_dataset(table(tmp_path / "here", 80_000, 0)))
    apart = load_external(External("", path=table(tmp_path / "apart", 81_000, 100)), here)
    assert len(apart.dataset.parts.test) == 60
    with pytest.raises(LeakFound, match=r"\d+ patients of own-images-\w+ are in own-images-\w+ too: p\d+"):
        load_external(External("", path=table(tmp_path / "shared", 82_000, 50)), here)


def test_sets_of_another_kind_or_that_are_not_there_are_refused(own, tmp_path):
    with pytest.raises(BadRequest, match=r"phantom-3d \(\w+, 3D\) cannot be an external test set"):
        load_external(External("phantom-3d"), own)
    with pytest.raises(BadRequest, match="expected the same kind of images and labels"):
        load_external(External("phantom-multilabel"), own)
    with pytest.raises(LeakFound, match="made from the images of kermany"):
        load_external(External("kermany-3"), replace(own, spec=DATASETS["pneumoniamnist"]))
    with pytest.raises(DataUnavailable, match="There is nothing at"):
        load_external(External("", path=tmp_path / "gone"), own)


def test_flags(own, elsewhere, capsys):
    argv = ["curve", "--external", "a", "--external", "b", "--external-classes", "x=Normal, y = Pneumonia"]
    parsed = parse(argv)
    assert parsed.external == ["a", "b"]
    assert parsed.external_classes == {"x": "Normal", "y": "Pneumonia"}
    for bad in ("x", "x=", "x=a,x=b"):
        with pytest.raises(SystemExit):
            parse(["curve", "--external-classes", bad])
    assert "mapped twice" in capsys.readouterr().err
    with pytest.raises(BadRequest, match="2 are given"):
        with_external(own, *asked(elsewhere, elsewhere, classes={"CLEAR": "clear"}))
    with pytest.raises(UnknownName, match="nowhere"):
        with_external(own, *asked("nowhere"))


def test_a_registered_set_that_may_not_serve_is_recorded_not_raised(own, elsewhere, capsys):
    served = replace(own, spec=replace(own.spec, external=(External("phantom-3d", {"a": "clear"}),)))
    found = with_external(served, *asked(elsewhere))
    assert [external.labels for external in found.external] == [CLASSES]
    assert "expected the same kind" in found.refused["phantom-3d"][1]
    assert "external test set phantom-3d: refused" in capsys.readouterr().err
    with pytest.raises(BadRequest):
        with_external(served, *asked("phantom-3d"))


def test_an_encoder_that_saw_the_set_or_its_patients_is_refused(own, elsewhere):
    outside = load_external(External("", path=elsewhere), own)
    adults = replace(outside, name="nih-adult-pneumonia")
    adults = replace(adults, dataset=replace(adults.dataset, spec=DATASETS["nih-adult-pneumonia"]))
    for seen in ("nih-adult-pneumonia", "nih-chestxray14"):
        refused = _exposure_of_own_encoder({**ENCODER, "seen": [seen]}, adults).refused
        assert f"learned from {seen}, and the patients of nih-adult-pneumonia were not left out" in refused
        assert "pretrain one without them" in refused
    without = {**ENCODER, "seen": ["nih-chestxray14"], "excluded_patients_of": ["nih-adult-pneumonia"]}
    standing = _exposure_of_own_encoder(without, adults)
    assert standing.same_archive
    assert not standing.refused
    itself = {**without, "seen": ["nih-chestxray14", "nih-adult-pneumonia"]}
    assert _exposure_of_own_encoder(itself, adults).refused


def test_an_encoder_that_saw_copies_of_own_images_is_refused(own, tmp_path, monkeypatch):
    corpus = make_folder(tmp_path / "corpus", 6, 74_000, ("Parasitized", "Uninfected"))
    monkeypatch.setitem(DATASETS, "malaria", replace(DATASETS["malaria"], path=corpus))
    folder = make_folder(tmp_path / "outside", 6, 73_000)
    clean = load_external(External("", path=folder), own)
    card = {**ENCODER, "seen": ["malaria"]}
    assert not _exposure_of_own_encoder(card, clean).refused
    Image.open(corpus / "Uninfected" / "2.png").save(folder / "clear" / "seen.png")
    refused = _exposure_of_own_encoder(card, load_external(External("", path=folder), own)).refused
    assert "learned from malaria, which holds copies of 1 of these images. Take them out" in refused
    monkeypatch.setitem(DATASETS, "malaria", replace(DATASETS["malaria"], path=tmp_path / "gone"))
    assert "Nobody has compared" in _exposure_of_own_encoder(card, clean).note


@pytest.fixture
def evaluated(own, elsewhere, runs):
    """A stored run of one's own images, evaluated on an external set."""
    argv = ["curve", "--folder", str(own.spec.path), "--models", "imagenet-efficientnet-lite0", "--strategies",
            "frozen", "--sizes", "5", "--seeds", "0"]  # fmt: skip
    assert main([*argv, "--external", str(elsewhere)]) == 0
    return argv, Run(*next(iter(open_store().runs.items())))


def test_a_run_stores_what_it_predicts_elsewhere_at_its_own_operating_point(evaluated, elsewhere, capsys):
    _, (folder, meta) = evaluated
    (name,) = external_names(folder)
    record = meta.external[name]
    there = read_predictions(folder, "external", name)
    assert there.part == "external"
    assert (record.images, record.labels, len(there.ids)) == (30, CLASSES, 30)
    assert there.logits.astype(np.float16).astype(float).tolist() == there.logits.tolist()
    scores, kept = shared_classes(meta, there, record.labels)
    assert kept.all()
    assert scores.threshold == meta.threshold
    assert record.metrics == {key: round(value, 6) for key, value in measure(scores).items()}
    assert record.own_metrics == pytest.approx(meta.metrics, abs=1e-6)
    capsys.readouterr()
    assert main(["results", "--dataset", meta.dataset, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["external"] == {name: record.metrics}
    assert row["external_own"] == {name: record.own_metrics}
    assert main(["results", "--dataset", meta.dataset]) == 0
    assert f"external test, {name}: AUROC" in capsys.readouterr().out


def test_a_stored_run_is_evaluated_on_another_set_later(evaluated, elsewhere, tmp_path, capsys):
    argv, (folder, before) = evaluated
    other = make_folder(tmp_path / "later", 10, 75_000)
    assert main([*argv, "--external", str(other)]) == 0
    after = read_run(folder)
    assert set(after.external) > set(before.external)
    assert after.made == before.made
    assert after.metrics == before.metrics
    assert sorted(external_names(folder)) == sorted(after.external)
    (folder / "weights.safetensors").unlink()  # a run that keeps no weights is trained again
    record = json.loads((folder / "run.json").read_text())
    del record["hashes"]["weights.safetensors"]
    (folder / "run.json").write_text(json.dumps(record))
    third = make_folder(tmp_path / "third", 10, 76_000)
    assert main([*argv, "--external", str(third)]) == 0
    assert len(read_run(folder).external) == 3
    assert read_run(folder).external.items() >= after.external.items()


def test_damaged_records_are_named(evaluated):
    _, (folder, _) = evaluated
    record = json.loads((folder / "run.json").read_text())
    for value in ([], {"x": 3}, {"x": {"title": 3}}, {"x": {"title": "", "metrics": {"auroc": "high"}}}):
        (folder / "run.json").write_text(json.dumps({**record, "external": value}))
        store = open_store()
        assert not store.runs
        assert "external has the invalid value" in next(iter(store.problems.values()))
    del record["external"]
    (folder / "run.json").write_text(json.dumps(record))
    assert read_run(folder).external == {}


@pytest.mark.data
@pytest.mark.parametrize(("name", "images", "labels"), [("kermany", 1000, 2), ("ham10000", 2125, 3)])
def test_the_real_external_sets_share_no_image_with_the_sets_that_they_serve(name, images, labels):
    spec = DATASETS[name]
    for needed in (spec, DATASETS[spec.external[0].dataset]):
        need(is_present(needed), f"{needed.name} is not under LOWSHOT_DATA")
    found = with_external(load_dataset(spec), [], {})
    assert not found.refused
    (external,) = found.external
    assert len(external.dataset.parts.test) == images
    assert len(external.labels) == labels
