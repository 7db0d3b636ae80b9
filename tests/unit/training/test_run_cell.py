"""Training really learns, and only from the data that it may see."""

import copy
import inspect
import json
from dataclasses import replace
from functools import partial
from itertools import product
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from PIL import Image

from core.analysis.comparison import conformal
from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.datasets.phantom import phantom_at
from core.data.images import decode
from core.errors import BadRequest
from core.inference.predictor import Predictor
from core.metrics.calibration import probabilities_of
from core.models import MODELS
from core.models.classifier import Classifier, mlp_layers
from core.models.specs import ModelSpec
from core.runs import Run, open_store, read_history, read_predictions, read_run, read_weights, stored_parts
from tests.random_weights import RUN
from trainer.training.folds import NOTHING_HELD_OUT, validation_folds
from trainer.training.heads import fit_logistic, fit_mlp, logits_of, run_in_parallel
from trainer.training.layer_freezing import merge_low_rank, parameter_groups
from trainer.training.run_cell import fit_data, predict_with_stored_weights, run_cell
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell, FitContext, FitData, Settings
from trainer.training.strategies import STRATEGIES
from trainer.training.sweep import compatible_pairs
from trainer.training.training_loop import train_network

CPU = torch.device("cpu")
SLOW = {"scratch-densenet121", "scratch-resnet18"}
TRAINED = [name for name in RUN if MODELS[name].image.dims == 2 and name not in SLOW]
OURS = ("random", "package", "own", "joined")
PAIRS = [  # others' encoders differ from ours before the tap; what a strategy does behind it is the same for all
    (model, strategy)
    for model, strategy in product(TRAINED, STRATEGIES)
    if not STRATEGIES[strategy].incompatibility(MODELS[model])
    and (MODELS[model].weights.kind in OURS or (model, strategy) == ("imagenet-dino-vits16", "finetune")
         or strategy == "frozen")
]  # fmt: skip


@pytest.fixture(scope="module")
def phantom():
    return load_dataset(DATASETS["phantom"])


def train(dataset, model, strategy, size, seed=0, store=None, keep="all", **options):
    sources = {"sources": "tones"} if STRATEGIES[strategy].query_loss else {}
    prepared = plan_run(Cell(dataset.spec.name, model, strategy, size, seed), dataset, sources | options)
    return run_cell(prepared, dataset, keep, CPU, store)[0]


@pytest.mark.parametrize(("model", "strategy"), PAIRS)
def test_every_strategy_writes_a_run_that_predicts(
    few_phantoms, runs, weights, other_sets, model, strategy, monkeypatch
):
    steps = 1 if "vits" in model else 2  # a transformer takes seconds a step
    quick = Settings(
        epochs=steps, min_steps=steps, batch_size=16, lr=1e-3, weight_decay=1e-2, patience=1, views=1, folds=2,
        episodes=2, tasks=1, shots=1, queries=1, inner_lr=0.01, inner_steps=1, adapt_steps=1, outer_lr=1e-3,
        order="second",
    )  # fmt: skip
    monkeypatch.setattr("trainer.training.run_plan.settings_of", lambda *_: quick)
    folder = train(few_phantoms, model, strategy, 4, store=runs)
    meta, test = read_run(folder), read_predictions(folder)
    assert meta.metrics.keys() == meta.metrics_at_half.keys()
    assert np.isfinite(test.logits).all()
    assert len(read_predictions(folder, "validation").labels) == 8
    images = [Image.fromarray(phantom_at(int(name[-9:-4])).pixels) for name in test.ids[:3]]
    answers = Predictor(folder)(images, "grad-cam")
    stored = probabilities_of(test.logits[:3], meta.temperature)
    assert np.allclose([a.probabilities for a in answers], stored, atol=2e-3)


def few_test_images(dataset, n=8):
    return replace(dataset, parts=replace(dataset.parts, test=dataset.parts.test[:n]))


def test_a_frozen_encoder_learns_the_phantom_and_its_map_lies_on_the_planted_place(phantom, runs):
    folder = train(phantom, "imagenet-efficientnet-lite0", "frozen", 50, store=runs)
    assert read_run(folder).metrics["auroc"] > 0.75
    predictor = Predictor(folder)
    sick = [phantom_at(index) for index in range(3001, 3061, 2)]
    images = [Image.fromarray(one.pixels) for one in sick]
    trained = heat_on_evidence(predictor(images, "grad-cam"), sick)
    predictor._model = MODELS["control-random-frozen"].build(2, "phantom", 1).eval().requires_grad_(False)
    untrained = heat_on_evidence(predictor(images, "grad-cam"), sick)
    assert trained > 1.8
    assert untrained < 1.2


def heat_on_evidence(predictions, phantoms):
    """Mean heat in the planted region over mean heat in the image; 1 is chance."""
    found = []
    for prediction, one in zip(predictions, phantoms, strict=True):
        heat = Image.fromarray(prediction.explanation.heat).resize(one.evidence.shape, Image.Resampling.BILINEAR)
        heat = np.asarray(heat)
        found.append(heat[one.evidence].mean() / max(heat.mean(), 1e-12))
    return np.mean(found)


def with_labels(dataset, change):
    """The data set with other labels."""
    labels = dataset.listing.labels.copy()
    change(labels)
    return replace(dataset, listing=replace(dataset.listing, labels=labels))


def test_shuffled_training_labels_give_chance_performance(phantom, runs):
    """If this scored well, something other than the labels of the subset would be leaking into training."""

    def shuffle(labels):
        rows = phantom.parts.train
        labels[rows] = np.random.default_rng(0).permutation(labels[rows])

    shuffled = with_labels(phantom, shuffle)
    scores = [
        read_run(train(shuffled, "imagenet-efficientnet-lite0", "frozen", 25, seed, runs)).metrics["auroc"]
        for seed in (0, 1, 2)
    ]
    assert 0.3 < np.mean(scores) < 0.7


def test_the_same_cell_gives_the_same_numbers(phantom, tmp_path):
    small = few_test_images(phantom, 40)
    quick = {"epochs": 3, "min_steps": 6}
    first, second = (train(small, "scratch-cnn", "scratch", 4, store=tmp_path / name, **quick) for name in "ab")
    assert read_run(first).run == read_run(second).run
    assert np.array_equal(read_predictions(first).logits, read_predictions(second).logits)


@pytest.mark.parametrize(
    ("model", "strategy", "options"),
    [
        ("scratch-cnn", "scratch", {"epochs": 2, "min_steps": 2}),
        ("control-random-frozen", "frozen-logistic", {"views": 0}),
        ("control-random-frozen", "frozen", {"views": 0, "epochs": 2, "min_steps": 2}),
    ],
)
def test_one_fold_holds_nothing_out(phantom, runs, model, strategy, options):
    meta = read_run(train(few_test_images(phantom), model, strategy, 4, store=runs, folds=1, **options))
    assert meta.selection.startswith(NOTHING_HELD_OUT)
    assert (meta.threshold, meta.temperature) == (0.5, 1.0)


def test_a_network_from_scratch_trains_and_predicts_at_another_size(phantom, runs):
    asked = {"side": 40, "epochs": 1, "min_steps": 1}
    prepared = plan_run(Cell("phantom", "scratch-cnn", "scratch", 5, 0), phantom, asked)
    folder, _ = run_cell(prepared, phantom, "all", CPU, runs)
    meta = read_run(folder)
    assert (meta.size, meta.variant) == (40, "epochs=1, min_steps=1, side=40")
    stored = read_predictions(folder).logits[0]
    answer = Predictor(folder)([decode(phantom.listing.read(int(phantom.parts.test[0])))])[0]
    assert np.allclose(answer.probabilities, probabilities_of(stored[None], meta.temperature, False)[0], atol=1e-3)


@pytest.mark.parametrize(
    ("model", "strategy"), [("scratch-cnn", "scratch"), ("control-random-frozen", "frozen-logistic")]
)
def test_a_set_without_calibration_images_is_trained_on(few_phantoms, runs, model, strategy):
    dataset = copy.copy(few_phantoms)
    vars(dataset)["calibration"] = np.array([], int)
    options = {"epochs": 1, "min_steps": 1} if strategy == "scratch" else {"augment": "none", "views": 0}
    folder = train(dataset, model, strategy, 4, store=runs, **options)
    assert stored_parts(folder) == ("validation", "test")
    with pytest.raises(BadRequest, match="calibration patients of every class"):
        conformal(Run(folder, read_run(folder)), 0.9)


def test_conformal_sets_are_calibrated_on_images_that_serve_nothing_else(phantom, runs):
    folder = train(phantom, "scratch-cnn", "scratch", 5, store=runs, epochs=3, min_steps=6)
    meta = read_run(folder)
    stored = read_predictions(folder, "calibration")
    trained_on = phantom.listing.ids[phantom.subset(5, 0).indices]
    assert sorted(stored.ids) == sorted(phantom.listing.ids[phantom.calibration])
    halves = (phantom.development, phantom.calibration)
    assert sorted(np.concatenate(halves)) == sorted(phantom.parts.validation)
    assert abs(len(halves[0]) - len(halves[1])) <= 2
    assert not {*phantom.parts.groups[halves[0]]} & {*phantom.parts.groups[halves[1]]}
    assert not {*stored.ids} & {*trained_on, *read_predictions(folder).ids}
    fitted, _ = conformal(Run(folder, meta), 0.9)
    assert fitted.kind == "split"
    assert sum(fitted.patients) == len(stored.ids)


@pytest.mark.parametrize("scaling", ["unit", "standard"])
def test_heads_take_raw_embeddings(scaling):
    random = np.random.default_rng(0)
    labels = np.arange(80) % 2
    direction = np.where(np.arange(10) % 2, 8, -8) * labels[:, None, None]
    embeddings = (random.normal(size=(80, 1, 10)) * 5 + 40 + direction).astype(np.float32)
    for layers in (
        fit_mlp(mlp_layers(10, 2), embeddings, labels, replace(STRATEGIES["frozen"].settings, scaling=scaling), 0),
        fit_logistic(embeddings, labels, 2, [1.0], replace(STRATEGIES["frozen-logistic"].settings, scaling=scaling), 0)[
            0
        ],
    ):
        assert (logits_of(layers, embeddings[:, 0]).argmax(1) == labels).mean() > 0.95


def test_fits_side_by_side_equal_fits_one_after_another():
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    embeddings = random.normal(size=(40, 3, 12)).astype(np.float32)
    start, settings = mlp_layers(12, 2), STRATEGIES["frozen"].settings
    fits = [partial(fit_mlp, start, embeddings, labels, settings, seed) for seed in range(6)]
    threads = torch.get_num_threads()
    for together, alone in zip(run_in_parallel(fits), [fit() for fit in fits], strict=True):
        assert torch.allclose(together[1].weight, alone[1].weight, atol=1e-5)
    assert torch.get_num_threads() == threads
    assert not torch.allclose(start[0].weight, together[1].weight)


def test_settings_left_at_their_defaults_do_not_name_a_run():
    stated = STRATEGIES["frozen"].settings.non_defaults()
    assert stated == {"epochs": 10, "min_steps": 30, "batch_size": 64, "lr": 1e-3, "weight_decay": 1e-2, "views": 4}


def test_the_average_of_the_weights_is_what_is_kept(phantom):
    spec = MODELS["scratch-cnn"]
    prepared = plan_run(Cell("phantom", "scratch-cnn", "scratch", 5, 0), phantom)
    data = fit_data(prepared, phantom, phantom.bank(spec.image.size).images)
    settings = replace(prepared.settings, epochs=12, min_steps=12, augment="none")
    kept = {}
    for average in (0.0, 0.999):
        model = spec.build(2, "phantom", 0)
        before = model.head.layers[0].weight.detach().clone()
        parameters = [{"params": list(model.parameters()), "lr": settings.lr}]
        train_network(
            model, parameters, data, data, spec.image, replace(settings, average=average),
            FitContext(0, CPU), frozen_statistics=True,
        )  # fmt: skip
        kept[average] = (model.head.layers[0].weight - before).abs().mean().item()
    assert 0 < kept[0.999] < kept[0.0]


@pytest.mark.parametrize("scaling", ["unit", "standard"])
def test_logistic_head_equals_scikit_learn(scaling):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import normalize

    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 60)
    embeddings = (random.normal(size=(60, 1, 5)) + labels[:, None, None]).astype(np.float32)
    centered = embeddings[:, 0] - embeddings[:, 0].mean(0)
    flat = normalize(centered) if scaling == "unit" else centered / (embeddings[:, 0].std(0) + 1e-3)
    settings = replace(STRATEGIES["frozen-logistic"].settings, scaling=scaling)
    path = fit_logistic(embeddings, labels, 2, [0.1, 10.0], settings, 0)
    for head, strength in zip(path, [0.1, 10.0], strict=True):
        expected = LogisticRegression(C=strength, max_iter=2000, tol=1e-8).fit(flat, labels).predict_proba(flat)[:, 1]
        logits = logits_of(head, embeddings[:, 0])
        assert np.allclose(1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), expected, atol=2e-3)


@pytest.mark.parametrize("imbalance", ["none", "class-weights"])
def test_logistic_head_of_findings_equals_scikit_learn_finding_by_finding(imbalance):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import normalize

    random = np.random.default_rng(0)
    embeddings = random.normal(size=(80, 1, 6)).astype(np.float32)
    labels = (embeddings[:, 0, :3] + random.normal(size=(80, 3)) > 0.8).astype(float)
    labels[random.random((80, 3)) < 0.2] = np.nan
    labels[:, 2] = np.where(np.isnan(labels[:, 2]), np.nan, 0)  # nobody shows the third
    settings = replace(STRATEGIES["frozen-logistic"].settings, imbalance=imbalance)
    (head,) = fit_logistic(embeddings, labels, 3, [3.0], settings, 0)
    logits = logits_of(head, embeddings[:, 0])
    flat = normalize(embeddings[:, 0] - embeddings[:, 0].mean(0))
    for finding in (0, 1):
        known = ~np.isnan(labels[:, finding])
        weight = "balanced" if imbalance == "class-weights" else None
        model = LogisticRegression(C=3.0, tol=1e-8, max_iter=2000, class_weight=weight)
        model.fit(flat[known], labels[known, finding])
        assert np.allclose(logits[:, finding], model.decision_function(flat), atol=5e-3)
    assert np.ptp(logits[:, 2]) < 1e-3
    assert logits[0, 2] < -2


def test_blocks_of_an_embedding_are_scaled_one_by_one():
    """A block a thousand times as large as the other weighs no more."""
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    telling = random.normal(size=(60, 1, 4)) + 3 * labels[:, None, None]
    noise = 1000 * random.normal(size=(60, 1, 4))
    embeddings = np.concatenate([telling, noise], axis=2).astype(np.float32)
    settings = STRATEGIES["frozen-logistic"].settings
    right = {}
    for blocks in ((8,), (4, 4)):
        (head,) = fit_logistic(embeddings[:40], labels[:40], 2, [1.0], settings, 0, blocks)
        right[blocks] = (logits_of(head, embeddings[40:, 0]).argmax(1) == labels[40:]).mean()
    assert right[4, 4] > 0.8 > right[(8,)]


@pytest.mark.parametrize("ensemble", [0, 1])
def test_a_stored_head_comes_back_whatever_it_is_made_of(few_phantoms, runs, ensemble):
    """Normalization, penalty path, fold ensemble and mirror images: the app answers as the run was measured."""
    options = {"fold_ensemble": ensemble, "mirror": 1, "views": 1}
    spec = MODELS["control-random-frozen"]
    prepared = plan_run(Cell("phantom", spec.name, "frozen-logistic", 5, 0), few_phantoms, options)
    folder, _ = run_cell(prepared, few_phantoms, "all", CPU, runs)
    meta, test = read_run(folder), read_predictions(folder)
    images = [Image.fromarray(phantom_at(int(name[-9:-4])).pixels) for name in test.ids[:3]]
    answers = Predictor(folder)(images)
    stored = probabilities_of(test.logits[:3], meta.temperature)
    assert np.allclose([a.probabilities for a in answers], stored, atol=2e-3)
    again = predict_with_stored_weights(folder, meta, few_phantoms, CPU, None).logits
    assert np.allclose(again, test.logits, atol=2e-2)
    assert any(name.startswith("tapped.head.layers.0.heads.") for name in read_weights(folder)) == bool(ensemble)


@pytest.mark.parametrize("tune", ["norm", "bias", "lora"])
def test_fine_tuning_changes_only_what_it_is_to_change(few_phantoms, runs, tune):
    spec = MODELS["imagenet-efficientnet-lite0"]
    options = {"tune": tune, "epochs": 1, "min_steps": 1, "lr": 0.01}
    prepared = plan_run(Cell("phantom", spec.name, "finetune", 5, 0), few_phantoms, options)
    if tune == "lora":
        with pytest.raises(BadRequest, match="no parameters that --tune lora could train"):
            run_cell(prepared, few_phantoms, "all", CPU, runs)
        return
    state = read_weights(run_cell(prepared, few_phantoms, "all", CPU, runs)[0])
    start = spec.build(2, "phantom", 0).state_dict()
    changed = {name for name in start if "encoder" in name and not torch.equal(start[name].half(), state[name].half())}
    assert changed
    assert all("bn" in name and name.endswith(("weight", "bias")) for name in changed)


def test_low_rank_updates_become_part_of_the_kernels():
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.LayerNorm(5), torch.nn.Linear(5, 4))
    names, images = set(encoder.state_dict()), torch.randn(3, 6)
    before = encoder(images)
    (group,) = parameter_groups(encoder, replace(STRATEGIES["finetune"].settings, tune="lora", rank=2))
    assert torch.allclose(encoder(images), before)  # an update begins at zero
    assert sum(parameter.numel() for parameter in group["params"]) == 2 * (6 + 5) + 2 * (5 + 4)
    with torch.no_grad():
        group["params"][0].normal_()
    tuned = encoder(images)
    assert not torch.allclose(tuned, before)
    merge_low_rank(encoder)
    assert set(encoder.state_dict()) == names
    assert torch.allclose(encoder(images), tuned)


def test_every_network_learns_from_all_labels_and_peaks(few_phantoms, runs):
    """Folds predict one another; the final network sees every image, and its rate rises to its peak."""
    prepared = plan_run(Cell("phantom", "scratch-cnn", "scratch", 6, 0), few_phantoms, {"epochs": 5, "min_steps": 10})
    folder, _ = run_cell(prepared, few_phantoms, "all", CPU, runs)
    rows = read_history(folder)
    assert {row["fold"] for row in rows} == {0, 1, 2}
    for fold in (0, 1, 2):
        rates = [row["lr"] for row in rows if row["fold"] == fold]
        assert max(rates) == pytest.approx(prepared.settings.lr, rel=0.05)
    final = [row for row in rows if row["fold"] == 0]
    assert final[-1]["step"] == 10
    assert all(row["validation_loss"] is None for row in final)
    assert final[-1]["guess_loss"] == pytest.approx(np.log(2))
    assert final[-1]["fit_loss"] > 0
    meta = read_run(folder)
    assert sum(meta.sampled.values()) == meta.images == 12
    assert sorted(read_predictions(folder, "validation").ids) == sorted(few_phantoms.listing.ids[prepared.rows])


def test_patience_stops_folds_after_the_peak_and_sets_the_final_length(few_phantoms, runs):
    options = {"epochs": 40, "min_steps": 0, "patience": 2, "lr": 0.01, "augment": "none"}
    prepared = plan_run(Cell("phantom", "scratch-cnn", "scratch", 6, 0), few_phantoms, options)
    rows = read_history(run_cell(prepared, few_phantoms, "all", CPU, runs)[0])
    last = {fold: [row["epoch"] for row in rows if row["fold"] == fold][-1] for fold in (0, 1, 2)}
    assert min(last[1], last[2]) >= 40 * 0.2
    best = []
    for fold in (1, 2):
        of_fold = [row for row in rows if row["fold"] == fold and row["epoch"] >= 8]
        best.append(min(of_fold, key=lambda row: row["validation_loss"])["epoch"])
    assert last[0] == round(np.median(best))


def test_the_plain_loop_beats_chance_and_takes_no_setting(phantom, runs):
    folder = train(phantom, "imagenet-efficientnet-lite0", "plain-loop", 25, store=runs)
    assert read_run(folder).metrics["auroc"] > 0.6
    with pytest.raises(BadRequest, match="does not take --lr"):
        plan_run(Cell("phantom", "imagenet-efficientnet-lite0", "plain-loop", 4, 0), phantom, {"lr": 0.1})


def test_the_plain_loop_sees_all_training_images_as_they_are(few_phantoms, runs):
    meta = read_run(train(few_phantoms, "control-random-frozen", "plain-loop", None, store=runs))
    assert (meta.train_size, meta.config["views"]) == (None, 0)


def test_folds_hold_out_every_image_once_and_keep_groups_together():
    labels, groups = np.repeat([0, 1], 20), np.arange(40) // 2
    folds = validation_folds(labels, groups, 5, 0)
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(40))
    assert all(not set(groups[trained_on]) & set(groups[held]) for trained_on, held in folds)
    assert validation_folds(np.array([0, 1, 1]), np.arange(3), 5, 0) == []  # nothing can be held out


def test_fitting_functions_cannot_receive_a_test_set():
    """They take a model, its facts, `FitData`, settings and a context; none holds a data set, only its name."""
    for strategy in STRATEGIES.values():
        function = resolve_name(strategy.fit.path)
        given = [p.annotation for p in inspect.signature(function, eval_str=True).parameters.values()]
        assert given == [Classifier, ModelSpec, FitData, Settings, FitContext]
    assert set(FitData.__dataclass_fields__) == {
        "images", "labels", "groups", "rows", "classes", "dataset", "fingerprint", "population",
    }  # fmt: skip


@pytest.mark.parametrize(("model", "strategy"), [("scratch-cnn", "scratch"), ("imagenet-efficientnet-lite0", "frozen")])
def test_test_pixels_and_labels_change_no_weight_and_no_threshold(
    phantom, runs, monkeypatch, tmp_path, model, strategy
):
    phantom = few_test_images(phantom, 20)
    quick = Settings(epochs=2, min_steps=2, batch_size=8, lr=1e-3, weight_decay=0.0, patience=1, views=1)
    monkeypatch.setattr("trainer.training.run_plan.settings_of", lambda *_: quick)
    clean = np.array(phantom.bank(MODELS[model].image.size).images)
    spoilt = clean.copy()
    spoilt[phantom.parts.test] = 255

    def turn(labels):
        labels[phantom.parts.test] = 1 - labels[phantom.parts.test]

    found = []
    for index, (dataset, images) in enumerate(((phantom, clean), (with_labels(phantom, turn), spoilt))):
        monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / str(index)))
        prepared = plan_run(Cell("phantom", model, strategy, 4, 0), dataset)
        monkeypatch.setattr("trainer.training.run_plan.RunPlan.images", lambda *_, images=images: images)
        folder, _ = run_cell(prepared, dataset, "all", CPU, runs / str(index))
        found.append((read_weights(folder), read_run(folder)))
    (weights, meta), (other_weights, other_meta) = found
    assert all(torch.equal(weights[key], other_weights[key]) for key in weights)
    assert (meta.threshold, meta.temperature) == (other_meta.threshold, other_meta.temperature)
    assert meta.metrics != other_meta.metrics


def test_models_and_strategies_without_a_compatible_pair_are_printed(phantom, capsys):
    fits = compatible_pairs(["scratch-cnn", "control-random-frozen"], ["scratch", "frozen"])
    assert fits == [("scratch-cnn", "scratch"), ("control-random-frozen", "frozen")]
    assert not capsys.readouterr().err
    assert compatible_pairs(["scratch-cnn", "control-random-frozen"], ["finetune", "scratch"]) == fits[:1]
    assert capsys.readouterr().err.splitlines() == [
        "skipped: control-random-frozen supports none of these strategies",
        "skipped: finetune supports none of these models",
    ]
    assert compatible_pairs(None, ["scratch"])
    assert not capsys.readouterr().err
    with pytest.raises(BadRequest, match="does not support the strategy"):
        plan_run(Cell("phantom", "scratch-cnn", "frozen", 4, 0), phantom)


def test_all_families_get_the_same_subset(phantom):
    hashes = set()
    for model, strategy in (("scratch-cnn", "scratch"), ("imagenet-efficientnet-lite0", "frozen")):
        hashes.add(plan_run(Cell("phantom", model, strategy, 10, 3), phantom).setup.subset_hash)
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
