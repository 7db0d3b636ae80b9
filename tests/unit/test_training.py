"""Learning really happens, and only from what it may see."""

import inspect
import json

import numpy as np
import pytest
import torch

from core.checkpoints import open_store, read_predictions, read_run
from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.phantom import phantom_at
from core.errors import BadRequest
from core.models import MODELS
from core.predictor import Predictor
from trainer.config import Cell, FitData
from trainer.folds import inner_folds
from trainer.heads import fit_logistic, fit_mlp, logits_of
from trainer.strategies import STRATEGIES
from trainer.sweep import pairs_that_go, prepare, run_cell

CPU = torch.device("cpu")
PAIRS, _ = pairs_that_go([name for name in MODELS if name != "scratch-densenet121"], STRATEGIES)


@pytest.fixture(scope="module")
def phantom():
    return load_dataset(DATASETS["phantom"])


def train(dataset, model, strategy, size, seed=0, store=None, keep="all"):
    bank = dataset.bank(MODELS[model].image.size).images
    prepared = prepare(Cell(dataset.spec.name, model, strategy, size, seed), dataset, bank)
    return run_cell(prepared, dataset, bank, keep, CPU, store)


@pytest.mark.parametrize(("model", "strategy"), PAIRS)
def test_every_strategy_writes_a_run_that_answers(phantom, runs, model, strategy, monkeypatch):
    quick = STRATEGIES[strategy].settings.__class__(2, 2, 16, 1e-3, 1e-2, patience=1, views=1)
    monkeypatch.setattr("trainer.sweep.settings_of", lambda *_: quick)
    phantom = few_test_images(phantom)
    folder = train(phantom, model, strategy, 6, store=runs)
    meta, test = read_run(folder), read_predictions(folder)
    assert meta.metrics.keys() == meta.metrics_at_half.keys()
    assert np.isfinite(test.logits).all()
    assert len(read_predictions(folder, "validation").labels) in (12, 12 // 5 + 1, 12 // 5, 2)
    images = list(test.ids[:3])
    from core.data.images import decode, encode_png

    pixels = [decode(encode_png(phantom_at(int(name[-9:-4])).pixels)) for name in images]
    answers = Predictor(folder, phantom.spec)(pixels, "grad-cam")
    from core.metrics.calibration import probabilities_of

    stored = probabilities_of(test.logits[:3], meta.temperature)
    assert np.allclose([a.probabilities for a in answers], stored, atol=2e-3)


def few_test_images(dataset, n=8):
    from dataclasses import replace

    return replace(dataset, parts=replace(dataset.parts, test=dataset.parts.test[:n]))


def test_a_frozen_imagenet_encoder_learns_the_phantom(phantom, runs):
    meta = read_run(train(phantom, "imagenet-efficientnet-lite0", "frozen", 50, store=runs, keep="none"))
    assert meta.metrics["auroc"] > 0.85
    assert not meta.has_weights


def test_shuffled_labels_teach_nothing(phantom):
    """If this scores well, something other than the labels of the subset leaks into training."""
    embeddings = np.random.default_rng(0).normal(size=(60, 1, 20)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 2, 60)
    settings = STRATEGIES["frozen"].settings
    right = []
    for learnt, held in inner_folds(labels, np.arange(60), 5, 0):
        layers = fit_mlp(embeddings[learnt], labels[learnt], 2, settings, 0)
        right.extend(logits_of(layers, embeddings[held, 0]).argmax(1) == labels[held])
    assert 0.25 < np.mean(right) < 0.75


def test_the_same_cell_gives_the_same_numbers(phantom, tmp_path):
    small = few_test_images(phantom, 40)
    first, second = (train(small, "scratch-cnn", "scratch", 4, store=tmp_path / name) for name in "ab")
    assert read_run(first).run == read_run(second).run
    assert np.array_equal(read_predictions(first).logits, read_predictions(second).logits)


def test_heads_fold_the_standardisation_away():
    random = np.random.default_rng(0)
    labels = np.arange(80) % 2
    embeddings = (random.normal(size=(80, 1, 10)) * 5 + 40 + 8 * labels[:, None, None]).astype(np.float32)
    for layers in (
        fit_mlp(embeddings, labels, 2, STRATEGIES["frozen"].settings, 0),
        fit_logistic(embeddings, labels, 2, 1.0),
    ):
        assert (logits_of(layers, embeddings[:, 0]).argmax(1) == labels).mean() > 0.95


def test_logistic_head_equals_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 60)
    embeddings = (random.normal(size=(60, 1, 5)) + labels[:, None, None]).astype(np.float32)
    flat = (embeddings[:, 0] - embeddings[:, 0].mean(0)) / (embeddings[:, 0].std(0) + 1e-3)
    expected = LogisticRegression(C=0.1, max_iter=2000).fit(flat, labels).predict_proba(flat)[:, 1]
    logits = logits_of(fit_logistic(embeddings, labels, 2, 0.1), embeddings[:, 0])
    assert np.allclose(1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), expected, atol=1e-4)


def test_folds_judge_every_image_once_and_keep_groups_together():
    labels, groups = np.repeat([0, 1], 20), np.arange(40) // 2
    folds = inner_folds(labels, groups, 5, 0)
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(40))
    assert all(not set(groups[learnt]) & set(groups[held]) for learnt, held in folds)
    with pytest.raises(BadRequest, match="two images"):
        inner_folds(np.array([0, 1, 1]), np.arange(3), 5, 0)


def test_fitting_functions_cannot_receive_a_test_set():
    """They take a model, its facts, `FitData`, settings and a context; none of these holds a data set."""
    for strategy in STRATEGIES.values():
        given = [p.annotation for p in inspect.signature(strategy.fit).parameters.values()]
        assert given == ["Classifier", "ModelSpec", "FitData", "Settings", "Context"]
    assert set(FitData.__dataclass_fields__) == {
        "images", "labels", "groups", "rows", "classes", "fingerprint", "population",
    }  # fmt: skip


def test_the_fit_reads_no_test_image(phantom, runs, monkeypatch):
    """Test pixels are poisoned until the fit is over; the fitted weights must not notice."""
    spec = MODELS["scratch-cnn"]
    bank = np.array(phantom.bank(spec.image.size).images)
    poisoned = bank.copy()
    poisoned[phantom.parts.test] = 255
    quick = STRATEGIES["scratch"].settings.__class__(1, 2, 8, 1e-3, 0.0, patience=1)
    states = []
    for images in (bank, poisoned):
        monkeypatch.setattr("trainer.sweep.settings_of", lambda *_: quick)
        prepared = prepare(Cell("phantom", "scratch-cnn", "scratch", 4, 0), phantom, images)
        run_cell(prepared, phantom, images, "none", CPU, runs / str(len(states)))
        states.append(prepared.model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_pairs_that_do_not_go_are_told(phantom):
    fits, skipped = pairs_that_go(["scratch-cnn", "control-random-frozen"], ["scratch", "frozen"])
    assert fits == [("scratch-cnn", "scratch"), ("control-random-frozen", "frozen")]
    assert len(skipped) == 2
    with pytest.raises(BadRequest, match="does not go with"):
        prepare(Cell("phantom", "scratch-cnn", "frozen", 4, 0), phantom, np.zeros((1, 1, 8, 8)))


def test_all_families_get_the_same_subset(phantom):
    hashes = set()
    for model, strategy in (("scratch-cnn", "scratch"), ("imagenet-efficientnet-lite0", "frozen")):
        bank = phantom.bank(MODELS[model].image.size).images
        hashes.add(prepare(Cell("phantom", model, strategy, 10, 3), phantom, bank).meta.subset_hash)
    assert len(hashes) == 1


def test_an_own_folder_with_three_classes_goes_through(class_folder, runs, capsys):
    from trainer.cli import main

    root = class_folder({"a": 25, "b": 25, "c": 25})
    code = main(["curve", "--folder", str(root), "--models", "imagenet-efficientnet-lite0,scratch-cnn",
                 "--strategies", "frozen", "--sizes", "5,10", "--seeds", "0", "--json"])  # fmt: skip
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [row["train_size"] for row in rows] == [5, 10]
    assert {"accuracy", "auroc", "ece"} <= rows[0]["metrics"].keys()
    assert len(open_store(runs).runs) == 2
