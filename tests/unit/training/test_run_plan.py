"""Settings that cannot work stop at once, name the remedy, and train nothing."""

from dataclasses import replace

import numpy as np
import pytest

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.listing import Listing
from core.data.specs import find_dataset
from core.errors import BadRequest
from core.models import MODELS
from core.runs import open_store
from trainer.cli import main
from trainer.training import run_cell
from trainer.training.recipes import recipes
from trainer.training.run_plan import plan_run, settings_for, settings_of
from trainer.training.settings import Cell
from trainer.training.strategies import STRATEGIES

RUN = ["run", "--dataset", "phantom", "--model", "scratch-cnn", "--strategy", "scratch"]


@pytest.fixture
def untrained(monkeypatch, runs):
    """Fails where a training is begun."""

    def begun(*arguments):
        raise AssertionError("a training was begun")

    monkeypatch.setattr(run_cell, "train", begun)
    return runs


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["--size", "4", "--strategy", "frozen"],
            "scratch-cnn does not support the strategy frozen. It supports scratch",
        ),
        (["--size", "4", "--strategy", "finetune-last"], "does not support the strategy finetune-last"),
        (
            ["--size", "4", "--batch-size", "9"],
            "--batch-size 9 is larger than the 8 labeled images of an epoch.",
        ),
        (["--size", "4", "--fold-ensemble", "1"], "scratch does not take --fold-ensemble"),
        (["--size", "4", "--mirror", "2"], "Expected --mirror to be a whole number of at least 0 and below 2"),
        (["--size", "4", "--lr", "-1"], "Expected --lr to be a number above 0, but got -1.0."),
        (["--size", "4", "--lr", "nan"], "Expected --lr to be a number above 0, but got nan."),
        (
            ["--size", "4", "--average", "1"],
            "Expected --average to be a number of at least 0 and below 1, but got 1.0.",
        ),
        (["--size", "4", "--label-smoothing", "2"], "at least 0 and below 1"),
        (["--size", "4", "--depth", "2"], "scratch does not take --depth; it takes --augment"),
        (["--size", "4", "--side", "16"], "Expected --side to be a whole number of at least 32, but got 16."),
        (["--size", "4", "--inner-lr", "0.1"], "scratch does not take --inner-lr"),
        (["--size", "4", "--augment", "none", "--imbalance", "to-majority"], "--augment none does not change images"),
        (["--size", "4", "--loss", "masked-bce"], "Choose --loss cross-entropy or focal or auc-margin."),
        (["--size", "4", "--settings", "/nowhere.json"], "cannot be read as a JSON file"),
    ],
)
def test_it_is_refused_with_what_to_change(untrained, capsys, argv, said):
    assert main([*RUN, *argv]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert open_store().runs == {}


def test_a_batch_that_comes_with_an_optimizer_is_no_request(runs):
    """128 images a step are PESG's recipe; of a smaller subset each step sees all."""
    phantom = load_dataset(DATASETS["phantom"])
    cell = Cell("phantom", "scratch-cnn", "scratch", 4, 0)
    assert plan_run(cell, phantom, {"loss": "auc-margin"}).settings.batch_size == 128
    assert plan_run(cell, phantom, {"imbalance": "oversample", "batch_size": 8}).settings.batch_size == 8
    with pytest.raises(BadRequest, match="larger than the 8"):
        plan_run(cell, phantom, {"loss": "auc-margin", "batch_size": 128})


def test_frozen_heads_see_one_view_of_all_training_images():
    phantom = load_dataset(DATASETS["phantom"])
    plans = [
        plan_run(Cell("phantom", "imagenet-efficientnet-lite0", "protonet", size, 0), phantom) for size in (4, None)
    ]
    assert [plan.settings.views for plan in plans] == [4, 0]
    assert [plan.setup.variant for plan in plans] == ["", ""]


def test_classes_that_are_missing_from_the_subset_are_named():
    phantom = load_dataset(DATASETS["phantom"])
    labels, train = phantom.listing.labels, phantom.parts.train
    healthy = replace(phantom, parts=replace(phantom.parts, train=train[labels[train] == 0]))
    with pytest.raises(BadRequest, match="no image of Opacity, because the training part has none"):
        plan_run(Cell("phantom", "scratch-cnn", "scratch", 4, 0), healthy)


def test_findings_that_the_subset_cannot_teach_are_named(monkeypatch):
    random = np.random.default_rng(0)
    labels = (random.random((300, 3)) < 0.4).astype(np.float32)
    labels[:, 1] = 0  # nobody has it
    labels[labels[:, 2] == 0, 2] = np.nan  # nobody is known not to have it
    labels[0] = 0
    images = random.integers(0, 256, (300, 24, 24), np.uint8)
    names = np.array([f"{index:03d}" for index in range(300)])
    listing = Listing(names, labels, names, np.full(300, ""), lambda index: images[index], "sparse")
    spec = replace(DATASETS["phantom-multilabel"], name="sparse", labels=("A", "B", "C"), load=lambda _: listing)
    monkeypatch.setitem(DATASETS, "sparse", spec)
    sparse, cell = load_dataset(spec), Cell("sparse", "scratch-cnn", "scratch", 5, 0)
    kept = sparse.parts.train[sparse.parts.train > 0]
    sparse = replace(sparse, parts=replace(sparse.parts, train=kept))
    with pytest.raises(BadRequest) as refused:
        plan_run(cell, sparse)
    said = str(refused.value)
    assert "B (no image shows it), C (no image is known to be without it)" in said
    assert said.endswith("select the others: --dataset sparse@findings=A.")
    found = load_dataset(find_dataset("sparse@findings=A"))
    assert plan_run(replace(cell, dataset=found.spec.name), found).setup.labels == ("A",)


@pytest.mark.parametrize(
    ("strategy", "model", "size"),
    [(strategy, model, size) for strategy, row in recipes().items() for model, sizes in row.items() for size in sizes],
)
def test_a_searched_recipe_is_no_variant_of_itself(strategy, model, size):
    per_class = int(size)
    defaults = settings_of(MODELS[model], STRATEGIES[strategy], per_class)
    labels = np.repeat([0, 1], per_class)
    assert settings_for(defaults, STRATEGIES[strategy], {}, labels, 2).difference_from(defaults) == ""
