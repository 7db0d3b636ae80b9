"""Every setting reaches training and changes the result, and caches keep settings apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.augmentation import augmenter, canonical_name
from core.data.dataset import load_dataset
from core.data.datasets.custom import custom_dataset
from core.errors import BadRequest
from core.inference.predictor import Predictor
from core.metrics.bootstrap import resample_weights
from core.models import MODELS
from core.runs import open_store, read_predictions, read_run, read_weights
from core.runs.selection import candidates, default_runs
from tests.unit.training.test_run_cell import CPU
from trainer.reporting.document_tables import headline_table
from trainer.training.class_balance import IMBALANCE
from trainer.training.heads import fit_mlp
from trainer.training.run_cell import fit_data, run_cell
from trainer.training.run_plan import plan_run, settings_for
from trainer.training.settings import Cell, FitContext, Settings
from trainer.training.strategies import STRATEGIES
from trainer.training.training_loop import train_network

LITE0 = "imagenet-efficientnet-lite0"
QUICK = Settings(epochs=2, min_steps=6, batch_size=8, lr=1e-2, weight_decay=0.0, patience=0, views=2)


@pytest.fixture(scope="module")
def oblong(tmp_path_factory):
    """An own set of bright and dark pictures twice as wide as high, in unequal numbers."""
    root = tmp_path_factory.mktemp("own") / "oblong"
    random = np.random.default_rng(0)
    for label, count, level in (("bright", 45, 150), ("dark", 18, 60)):
        (root / label).mkdir(parents=True)
        for index in range(count):
            pixels = np.clip(random.normal(level, 30, (40, 80)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index}.png")
    return load_dataset(custom_dataset(root))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("trainer.training.run_plan.settings_of", lambda *_: QUICK)


def run(dataset, store, options=None, model="scratch-cnn", strategy="scratch", keep="all", size=None):
    prepared = plan_run(Cell(dataset.spec.name, model, strategy, size, 0), dataset, options or {})
    return run_cell(prepared, dataset, keep, CPU, store)[0]


def test_class_weights_and_repeats_change_heads_and_networks():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [30, 8])
    embeddings = (random.normal(size=(38, 3, 6)) + labels[:, None, None]).astype(np.float32)
    start = MODELS[LITE0].build(2, "phantom", 0).head.layers
    start[0] = torch.nn.Linear(6, 512)
    fitted = {
        name: fit_mlp(start, embeddings, labels, replace(QUICK, imbalance=name), 0)[1].weight for name in IMBALANCE
    }
    for name in set(IMBALANCE) - {"none"}:
        assert not torch.allclose(fitted[name], fitted["none"]), name
    assert not torch.allclose(fitted["to-majority"], fitted["oversample"])


def test_networks_see_class_weights_and_plain_originals(oblong, quick):
    spec = MODELS["scratch-cnn"]
    prepared = plan_run(Cell(oblong.spec.name, "scratch-cnn", "scratch", None, 0), oblong)
    data = fit_data(prepared, oblong, oblong.bank(spec.image.size).images)
    found = {}
    for name in ("none", "class-weights", "to-majority", "oversample"):
        model = spec.build(2, "", 0)
        train_network(
            model, [{"params": list(model.parameters()), "lr": 1e-3}], data, data, spec.image,
            replace(QUICK, imbalance=name, augment="noise"), FitContext(0, CPU), frozen_statistics=True,
        )  # fmt: skip
        found[name] = model.head.layers[0].weight.detach().clone()
    assert len({tuple(weight.flatten().tolist()) for weight in found.values()}) == 4


def test_only_repeats_are_changed_on_the_way_to_the_majority(oblong, quick, monkeypatch):
    """A network that records what it is shown: every original comes as it is, every repeat changed."""
    from trainer.training.training_loop import TrainingLoop

    spec = MODELS["scratch-cnn"]
    prepared = plan_run(Cell(oblong.spec.name, "scratch-cnn", "scratch", None, 0), oblong)
    data = fit_data(prepared, oblong, oblong.bank(spec.image.size).images)
    settings = replace(QUICK, imbalance="to-majority", augment="brightness")
    model = spec.build(2, "", 0)
    course = TrainingLoop(
        model, [{"params": list(model.parameters()), "lr": 1e-3}], data, spec.image, settings, 0, CPU, True
    )
    at, repeats = np.arange(6), np.array([False, True] * 3)
    shown, _ = course._batch(at, repeats)
    plain, _ = course._batch(at, np.zeros(6, bool))
    same = (shown == plain).flatten(1).all(dim=1).numpy()
    assert same.tolist() == [True, False] * 3


def test_what_is_recorded_is_what_was_learned(oblong, runs, quick):
    meta = read_run(run(oblong, runs, {"imbalance": "oversample"}))
    everything = oblong.listing.labels[oblong.parts.train]
    commonest = max((everything == c).sum() for c in (0, 1))
    assert meta.sampled == {"bright": commonest, "dark": commonest}
    whole = read_run(run(oblong, runs, model=LITE0, strategy="frozen"))
    assert whole.sampled == {"bright": (everything == 0).sum(), "dark": (everything == 1).sum()}


def test_fine_tuning_records_the_settings_of_its_start(oblong, runs):
    options = {"augment": "horizontal-flip", "preparation": "clahe", "imbalance": "class-weights", "epochs": 1}
    config = plan_run(Cell(oblong.spec.name, LITE0, "finetune", 5, 0), oblong, options).setup.config
    before = {name: config["starts_from"][name] for name in ("augment", "preparation", "imbalance")}
    assert before == {"augment": "horizontal-flip", "preparation": "clahe", "imbalance": "class-weights"}


def test_embeddings_of_different_preparations_are_kept_apart(oblong, runs, quick):
    plain = read_predictions(run(oblong, runs, model=LITE0, strategy="frozen", size=6))
    changed = read_predictions(run(oblong, runs, {"preparation": "clahe"}, LITE0, "frozen", size=6))
    again = read_predictions(run(oblong, runs / "again", model=LITE0, strategy="frozen", size=6))
    assert not np.allclose(plain.logits, changed.logits)
    assert np.allclose(plain.logits, again.logits)


@pytest.mark.parametrize(("model", "strategy"), [("scratch-cnn", "scratch"), (LITE0, "frozen")])
def test_oblong_images_are_prepared_for_prediction_as_for_training(oblong, runs, quick, model, strategy):
    folder = run(oblong, runs, {"preparation": "keep-aspect+brightness-contrast"}, model, strategy, size=6)
    meta, test = read_run(folder), read_predictions(folder)
    images = [Image.open(oblong.spec.path / name) for name in test.ids[:4]]
    answers = Predictor(folder)(images, "grad-cam")
    from core.metrics.calibration import probabilities_of

    expected = probabilities_of(test.logits[:4], meta.temperature)
    assert np.allclose(np.stack([one.probabilities for one in answers]), expected, atol=2e-3)
    height, width = answers[0].explanation.heat.shape
    assert width == meta.size
    assert height == meta.size // 2


def test_a_variant_never_stands_for_the_comparison_proper(oblong, runs, quick):
    proper, variant = run(oblong, runs, size=6), run(oblong, runs, {"augment": "none"}, size=None)
    assert read_run(variant).per_class > read_run(proper).per_class
    store = open_store(runs)
    name = oblong.spec.name
    assert [folder for folder, _ in candidates(store, name, "scratch")] == [proper, variant]
    assert default_runs(store, name)["scratch"][0] == proper
    run(oblong, runs, {"augment": "none"}, size=6)
    assert headline_table(open_store(runs), name, [6]).count("`scratch-cnn`") == 1
    assert "the 1 stored runs" in headline_table(open_store(runs), name, [6])


def test_a_loss_without_smoothing_overrides_a_recipe_that_smooths():
    strategy, labels = STRATEGIES["frozen"], np.array([0, 1])
    recipe = replace(strategy.settings, label_smoothing=0.1)
    assert settings_for(recipe, strategy, {"loss": "focal"}, labels, 2).label_smoothing == 0
    assert settings_for(recipe, strategy, {"loss": "cross-entropy"}, labels, 2).label_smoothing == 0.1
    with pytest.raises(BadRequest, match="does not take smoothed labels"):
        settings_for(recipe, strategy, {"loss": "focal", "label_smoothing": 0.1}, labels, 2)


def test_augmentations_have_one_name_whatever_their_order():
    assert (
        canonical_name("noise+horizontal-flip")
        == canonical_name("horizontal-flip+none+noise")
        == "horizontal-flip+noise"
    )
    assert canonical_name("none+none") == canonical_name("none") == "none"
    assert canonical_name("aggressive") == "aggressive"
    assert augmenter("none+none").rows == ()
    assert [row.name for row in augmenter("noise+zoom").rows] == ["zoom", "noise"]


def test_everything_is_everything_where_labels_are_unknown():
    from core.data import DATASETS

    data = load_dataset(DATASETS["phantom-multilabel"])
    whole = data.subset(None, 0)
    assert np.array_equal(whole.indices, data.parts.train)
    assert set(data.subset(50, 0).indices) < set(whole.indices)


def test_findings_are_drawn_within_those_that_have_any_and_those_that_have_none():
    labels = np.zeros((60, 2))
    labels[:10, 0] = 1
    drawn = resample_weights(labels, np.arange(60), draws=50)
    assert (drawn[:, :10].sum(axis=1) == 10).all()


def test_weights_of_a_run_are_those_that_were_measured(oblong, runs, quick):
    folder = run(oblong, runs, size=6)
    assert all(torch.isfinite(value).all() for value in read_weights(folder).values())
