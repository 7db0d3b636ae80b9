"""What an epoch contains where classes are rare, and how losses weigh them."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.errors import BadRequest
from core.runs import read_run
from tests.unit.training.test_run_cell import few_test_images
from trainer.training.class_balance import IMBALANCE, EpochOrder, Imbalance, imbalance_for
from trainer.training.heads import fit_logistic
from trainer.training.loss_functions import accuracy, as_targets, masked_bce
from trainer.training.losses import default_loss
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell, Settings

LABELS = np.repeat([0, 1, 2], [12, 5, 3])
FINDINGS = np.array([[1, 0, np.nan], [1, np.nan, 0], [0, 0, 1], [1, 0, 0]], np.float32)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("none", [12, 5, 3]), ("class-weights", [12, 5, 3]), ("oversample", [12, 12, 12]), ("undersample", [3, 3, 3]),
     ("to-majority", [12, 12, 12])],
)  # fmt: skip
def test_epochs_show_what_is_recorded(name, counts):
    row = IMBALANCE[name]
    epoch = row.draw_epoch(LABELS, np.random.default_rng(0))
    assert np.bincount(LABELS[epoch.positions]).tolist() == counts == row.class_counts(LABELS).tolist()
    shown = np.bincount(epoch.positions, minlength=len(LABELS))
    for label in range(3):
        times = shown[label == LABELS]
        assert times.max() - times.min() <= 1, "images of a class are shown equally often"


def test_every_row_is_covered_above():
    assert set(IMBALANCE) == {"none", "class-weights", "oversample", "undersample", "to-majority"}


def test_balanced_classes_are_shown_as_they_are_in_the_same_order():
    labels = np.arange(20) % 2
    for name in ("none", "oversample", "undersample", "class-weights"):
        positions = IMBALANCE[name].draw_epoch(labels, np.random.default_rng(3)).positions
        assert np.array_equal(positions, np.random.default_rng(3).permutation(20))


def test_only_repeats_are_augmented_on_the_way_to_the_majority():
    epoch = IMBALANCE["to-majority"].draw_epoch(LABELS, np.random.default_rng(0))
    assert np.bincount(epoch.positions[~epoch.repeats], minlength=20).tolist() == [1] * 20
    views = epoch.views(4, np.random.default_rng(1))
    assert (views[~epoch.repeats] == 0).all()
    assert (views[epoch.repeats] > 0).all()
    with pytest.raises(BadRequest, match="augmented views only"):
        imbalance_for("to-majority", LABELS, "none")


def test_batches_continue_into_the_next_epoch(monkeypatch):
    epoch = EpochOrder(np.arange(5), np.arange(5) > 3)
    monkeypatch.setattr(Imbalance, "draw_epoch", lambda *_: epoch)
    batches = IMBALANCE["none"].batches(LABELS, 4, np.random.default_rng(0))
    first, second, third = (next(batches) for _ in range(3))
    assert first.positions.tolist() == [0, 1, 2, 3]
    assert second.positions.tolist() == [4, 0, 1, 2]
    assert second.repeats.tolist() == [True, False, False, False]
    assert third.positions.tolist() == [3, 4, 0, 1]


def test_class_weights_equal_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    weights = IMBALANCE["class-weights"].weights(LABELS, 3)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert np.allclose(weights.numpy(), expected)
    assert IMBALANCE["none"].weights(LABELS, 3) is None
    positive = IMBALANCE["class-weights"].weights(FINDINGS, 3).numpy()
    assert np.allclose(positive, [1 / 3, 3, 2])


def test_findings_refuse_what_repeats_whole_images():
    assert imbalance_for("class-weights", FINDINGS, "none").uses_class_weights
    with pytest.raises(BadRequest, match="none or class-weights"):
        imbalance_for("oversample", FINDINGS, "none")


def test_logistic_regression_weighs_classes():
    random = np.random.default_rng(0)
    embeddings = (random.normal(size=(20, 1, 4)) + (LABELS == 0)[:, None, None]).astype(np.float32)
    settings = Settings(epochs=1, min_steps=1, batch_size=8, lr=0.0, weight_decay=0.0)
    weighed = Settings(**{**vars(settings), "imbalance": "class-weights"})
    plain, fair = (fit_logistic(embeddings, LABELS, 3, [0.01], one, 0)[0][-1].bias for one in (settings, weighed))
    assert fair[2] - fair[0] > plain[2] - plain[0]


def test_unknown_labels_change_no_loss_and_no_gradient():
    logits = torch.randn(4, 3, requires_grad=True)
    targets = as_targets(FINDINGS)
    loss = masked_bce(logits, targets)
    loss.backward()
    known = ~np.isnan(FINDINGS)
    expected = F.binary_cross_entropy_with_logits(logits.detach()[known], targets[known])
    assert torch.isclose(loss.detach(), expected)
    assert (logits.grad[~known] == 0).all()
    assert (logits.grad[known] != 0).all()
    nothing = masked_bce(logits, torch.full((4, 3), torch.nan))
    assert nothing.item() == 0
    assert accuracy(torch.tensor([[5.0, -5, 5]]), torch.tensor([[1, 0, torch.nan]])) == 1
    assert default_loss(FINDINGS) == "masked-bce"
    assert default_loss(LABELS) == "cross-entropy"


def test_sampled_counts_and_the_variant_are_recorded(runs, short_training, class_folder):
    from trainer.cli import main

    root = class_folder({"many": 40, "rare": 16})
    argv = ["run", "--folder", str(root), "--model", "scratch-cnn", "--strategy", "scratch", "--size", "full"]
    assert main([*argv, "--imbalance", "oversample", "--augment", "none"]) == 0
    meta = read_run(next(runs.glob("*/*")))
    assert meta.sampled["many"] == meta.sampled["rare"] > 20
    assert meta.variant == "augment=none, imbalance=oversample"
    assert json.loads((runs / meta.dataset / meta.run / "run.json").read_text())["config"]["imbalance"] == "oversample"


def test_options_are_checked_before_anything_is_trained():
    phantom = few_test_images(load_dataset(DATASETS["phantom"]))
    cell = Cell("phantom", "scratch-cnn", "scratch", 4, 0)
    usual = plan_run(cell, phantom).setup
    assert (
        plan_run(cell, phantom, {"augment": "aggressive", "preparation": "", "imbalance": "none"}).setup.run
        == usual.run
    )
    assert plan_run(cell, phantom, {"augment": "mild"}).setup.run != usual.run
    for options, message in (
        ({"augment": "flip"}, "no augmentation named"),
        ({"preparation": "clah"}, "Did you mean 'clahe'"),
        ({"imbalance": "over"}, "no way to handle imbalance named"),
    ):
        with pytest.raises(Exception, match=message):
            plan_run(cell, phantom, options)
