"""Which data sets may supply meta-learning tasks, and whole runs of the strategies that use them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.listing import Listing
from core.data.specs import find_dataset, list_images
from core.errors import BadRequest, DataUnavailable, UnknownName
from core.paths import cache_folder
from core.runs import open_store, read_predictions, read_run
from core.runs.selection import default_runs
from trainer.cli import main
from trainer.meta_learning.task_sources import sources_for
from trainer.training.run_cell import run_cell
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell
from trainer.training.strategies import STRATEGIES

CPU = torch.device("cpu")
QUICK = {"episodes": 4, "tasks": 2, "shots": 1, "queries": 2, "sources": "rings+tones"}


@pytest.fixture(autouse=True)
def _no_real_data(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "no-data"))


@pytest.fixture
def target(class_folder):
    """A binary set of one's own."""
    from core.data.datasets.custom import custom_dataset

    return load_dataset(custom_dataset(class_folder({"ill": 30, "well": 30})))


@pytest.fixture
def spots(monkeypatch):
    """A set of three findings, two images a patient, some labels unknown."""

    def load(_):
        random = np.random.default_rng(0)
        labels = (random.random((1000, 3)) < 0.35).astype(np.float32)
        labels[random.random(labels.shape) < 0.1] = np.nan
        images = random.integers(0, 256, (1000, 24, 24), np.uint8)
        names = np.array([f"{index:04d}" for index in range(1000)])
        groups = np.array([f"p{index // 2}" for index in range(1000)])
        return Listing(names, labels, groups, np.full(1000, ""), lambda index: images[index], "spots")

    spec = replace(DATASETS["phantom-multilabel"], name="spots", labels=("A", "B", "C"), load=load)
    monkeypatch.setitem(DATASETS, "spots", spec)


@pytest.fixture
def findings(spots):
    return load_dataset(find_dataset("spots@findings=B"))


def cell(dataset, strategy="maml", size=3, model="scratch-cnn"):
    return Cell(dataset.spec.name, model, strategy, size, 0)


def test_all_unrelated_sets_that_are_here_serve(target, other_sets):
    found = sources_for(target, cell(target), "")
    assert [source.spec.name for source in found] == ["rings", "tones"]
    assert [len(source.rows) for source in found] == [90, 60]
    assert [source.spec.name for source in sources_for(target, cell(target), "tones")] == ["tones"]


def test_relatives_count_as_the_target(target, other_sets, monkeypatch):
    monkeypatch.setitem(DATASETS, "tones", replace(DATASETS["tones"], derived_from="rings"))
    rings = load_dataset(DATASETS["rings"])
    with pytest.raises(BadRequest, match="tones is rings or has the same images"):
        sources_for(rings, cell(rings), "tones")
    with pytest.raises(BadRequest, match="rings is rings"):
        sources_for(rings, cell(rings), "rings")
    with pytest.raises(BadRequest, match="no data set on this machine suits rings"):
        sources_for(rings, cell(rings), "")


def test_a_lone_set_is_refused_with_the_reason(target, spots):
    with pytest.raises(BadRequest, match=r"no data set on this machine suits .* \(2 classes\)"):
        plan_run(cell(target), target)
    whole = load_dataset(find_dataset("spots"))
    with pytest.raises(BadRequest, match="leave some findings for it: --dataset spots@findings=A"):
        plan_run(cell(whole), whole)


@pytest.mark.parametrize(
    ("named", "error", "said"),
    [
        ("nothing", UnknownName, "no data set named"),
        ("kermany", DataUnavailable, "not on this machine"),
        ("phantom-3d", BadRequest, "one holds images and the other volumes"),
        ("blood-cells", BadRequest, "copies of about 365 originals"),
    ],
)
def test_sets_that_cannot_serve_are_refused(target, other_sets, named, error, said):
    with pytest.raises(error, match=said):
        sources_for(target, cell(target), named)


def test_sets_without_several_findings_do_not_serve_a_task_of_findings(findings, other_sets):
    with pytest.raises(BadRequest, match="has several findings per image, which rings does not have"):
        sources_for(findings, cell(findings), "rings")


def test_copies_of_target_images_are_left_out(target, other_sets):
    for number in range(5):
        shutil.copy(target.spec.path / "ill" / f"{number}.png", DATASETS["rings"].path / "a" / f"p0-copy{number}.png")
    (source,) = sources_for(target, cell(target), "rings")
    assert source.removed == 5
    assert not any("copy" in source.listing.ids[row] for row in source.rows)
    prepared = plan_run(cell(target), target, {**QUICK, "sources": "rings"})
    assert "5 images there that are copies" in prepared.setup.notes[-1]


def test_other_findings_come_from_other_patients(findings):
    for size in (3, 40, 150):
        asked = cell(findings, size=size)
        (source,) = sources_for(findings, asked, "")
        assert source.labels.shape == (len(findings.listing), 2)
        whole = list_images(find_dataset("spots")).labels
        assert np.array_equal(source.labels, whole[:, [0, 2]], equal_nan=True)  # all but the one that is the task
        groups = findings.parts.groups
        seen = np.concatenate([findings.subset(size, 0).indices, findings.parts.validation, findings.parts.test])
        assert not set(groups[source.rows]) & set(groups[seen])
        assert len(source.rows)
    first, second = (sources_for(findings, cell(findings, size=size), "")[0].hash for size in (3, 5))
    assert first == second  # so that one start serves both sizes
    with pytest.raises(BadRequest, match="leaves no patients"):
        sources_for(findings, cell(findings, size=None), "")


def few_tested(dataset, n=30):
    test = dataset.parts.test
    return replace(dataset, parts=replace(dataset.parts, test=test[:: max(1, len(test) // n)]))


@pytest.mark.parametrize("order", ["second", "first", "anil"])
def test_a_start_is_learned_once_and_named_by_what_determines_it(
    target, other_sets, runs, tmp_path, monkeypatch, order
):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    options = {**QUICK, "order": order}
    names = set()
    for size in (3, 1):
        prepared = plan_run(cell(target, size=size), target, options)
        names.add(run_cell(prepared, target, "all", CPU)[0].name)
        assert len(list((cache_folder() / "starts").iterdir())) == 1
    other = plan_run(cell(target), target, {**options, "inner_lr": 0.2})
    run_cell(other, target, "none", CPU)
    assert len(list((cache_folder() / "starts").iterdir())) == 2
    for path in (cache_folder() / "starts").iterdir():
        path.write_bytes(path.read_bytes()[:40])  # damaged, and learned again
    again, _ = run_cell(plan_run(cell(target), target, options), target, "none", CPU, tmp_path / "again")
    assert again.name in names
    stored = open_store(runs).folder_of(again.name)
    assert np.array_equal(read_predictions(again).logits, read_predictions(stored).logits)


@pytest.mark.parametrize("strategy", ["maml", "protonet-meta"])
def test_no_image_of_the_target_is_seen_before_its_subset(target, other_sets, tmp_path, monkeypatch, strategy):
    """The start is the same whatever the target's images and labels are, as long as its sources are."""
    prepared = plan_run(cell(target, strategy), target, QUICK)
    spoilt = 255 - np.array(target.bank(64).images)
    states = []
    for index, images in enumerate((target.bank(64).images, spoilt)):
        monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / f"cache{index}"))
        monkeypatch.setattr("trainer.training.run_plan.RunPlan.images", lambda *_, images=images: images)
        run_cell(prepared, target, "none", CPU, tmp_path / f"store{index}")
        (path,) = (tmp_path / f"cache{index}" / "starts").iterdir()
        states.append(path.read_bytes())
    assert states[0] == states[1]


def test_meta_learned_runs_are_stored_named_and_not_served_as_from_scratch(target, other_sets, runs):
    target = few_tested(target)
    for strategy in ("maml", "protonet-meta"):
        folder, _ = run_cell(plan_run(cell(target, strategy), target, QUICK), target, "all", CPU)
        meta = read_run(folder)
        assert set(meta.config["meta_learnt_from"]) == {"rings", "tones"}
        assert meta.trained == "all"
        assert "rings, tones" in meta.notes[-1]
        assert "cross-validation" in meta.selection
    assert len(default_runs(open_store(), target.spec.name)) == 1  # there is nothing else yet
    folder, _ = run_cell(plan_run(cell(target, "scratch"), target, {"epochs": 1, "min_steps": 1}), target, "all", CPU)
    usual = replace(read_run(folder), variant="")
    (folder / "run.json").write_text(json.dumps({**json.loads((folder / "run.json").read_text()), "variant": ""}))
    assert default_runs(open_store(), target.spec.name)["scratch"][1].strategy == usual.strategy == "scratch"


def test_findings_are_meta_learned_by_bce(findings, runs):
    findings = few_tested(findings, 40)
    quick = {name: value for name, value in QUICK.items() if name != "sources"}
    prepared = plan_run(cell(findings, size=4), findings, quick)
    folder, _ = run_cell(prepared, findings, "all", CPU)
    meta = read_run(folder)
    assert meta.labels == ("B",)
    assert "other findings of other patients" in meta.notes[-1]
    assert read_predictions(folder).logits.shape == (len(findings.parts.test), 1)


@pytest.mark.parametrize(
    ("strategy", "model", "options"),
    [
        ("frozen", "control-random-frozen", {}),
        ("protonet", "control-random-frozen", {}),
        ("frozen-logistic", "control-random-frozen", {}),
        ("plain-loop", "control-random-frozen", {}),
        ("scratch", "scratch-cnn", {"epochs": 2, "min_steps": 0}),
        ("finetune", "imagenet-efficientnet-lite0", {"patience": 3, "epochs": 1, "min_steps": 0}),
        ("maml", "scratch-cnn", QUICK),
        ("protonet-meta", "scratch-cnn", QUICK),
    ],
)
def test_one_image_a_class_will_do_where_nothing_is_held_out(target, other_sets, runs, strategy, model, options):
    few = few_tested(target, 6)
    prepared = plan_run(cell(few, strategy, 1, model), few, options)
    folder, _ = run_cell(prepared, few, "all", CPU)
    meta = read_run(folder)
    assert (meta.threshold, meta.temperature, meta.images) == (0.5, 1.0, 2)
    assert "nothing held out" in meta.selection
    assert len(read_predictions(folder, "validation").labels) == 0
    assert open_store().problems == {}
    assert len(default_runs(open_store(), few.spec.name)) == (model != "control-random-frozen")


def test_what_meta_learning_cannot_do_is_refused_at_once(target, other_sets):
    with pytest.raises(BadRequest, match="Expected --order to be one of second, first, anil"):
        plan_run(cell(target), target, {**QUICK, "order": "third"})
    why = "scratch-densenet121 does not support the strategy maml: it has batch normalization"
    with pytest.raises(BadRequest, match=why):
        plan_run(cell(target, model="scratch-densenet121"), target, QUICK)
    with pytest.raises(BadRequest, match="maml does not take --epochs"):
        plan_run(cell(target), target, {**QUICK, "epochs": 3})
    assert STRATEGIES["maml"].settings.episodes >= 200


def test_meta_learning_has_flags(target, other_sets, runs, capsys):
    argv = ["run", "--folder", str(target.spec.path), "--model", "scratch-cnn", "--strategy", "maml", "--size", "2"]
    flags = [["--episodes", "2"], ["--tasks", "1"], ["--shots", "1"], ["--queries", "1"], ["--inner-lr", "0.02"],
             ["--inner-steps", "1"], ["--adapt-steps", "2"], ["--outer-lr", "0.002"], ["--order", "first"],
             ["--sources", "tones"]]  # fmt: skip
    assert main([*argv, *(word for flag in flags for word in flag), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["variant"] == (
        "episodes=2, tasks=1, shots=1, queries=1, inner_lr=0.02, inner_steps=1, adapt_steps=2, outer_lr=0.002, "
        "order=first, sources=tones"
    )
    assert main([*argv, "--sources", "rings,tones"]) == 2


def test_findings_of_a_set_can_be_chosen():
    spec = find_dataset("phantom-multilabel@findings=Nodule+Opacity")
    assert (spec.name, spec.labels) == ("phantom-multilabel@findings=Opacity+Nodule", ("Opacity", "Nodule"))
    assert find_dataset("phantom-multilabel@findings=Nodule+Opacity+Effusion") is DATASETS["phantom-multilabel"]
    assert find_dataset("chexpert@findings=Edema,uncertain=ones").name == "chexpert@uncertain=ones,findings=Edema"
    with pytest.raises(UnknownName, match="has no finding 'Mass'"):
        find_dataset("phantom-multilabel@findings=Mass")
    with pytest.raises(UnknownName, match="has no option"):
        find_dataset("phantom@findings=Mass")
