"""Pretraining of the medical encoder: training, resumption, probes, the acceptance test and cards."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.listing import UNLABELED, Listing
from core.errors import BadRequest, UnknownName, WeightsUnavailable
from core.models import MODELS, dinov2
from core.models.medical_encoders import (
    ProbeResult,
    find_medical_encoder,
    load_pretrained,
    probe_results_of,
    read_card,
    save_own_encoder,
    variant_of_run,
    weights_of,
)
from core.models.table import LITE0, LITE0_MEDICAL
from tests.publisher_folders import put_image, put_nih
from trainer.cli import main, parse
from trainer.commands.pretrain import EVALUATED, _evaluated_sets, _recipe
from trainer.pretraining.activations import PLAIN, activations
from trainer.pretraining.corpus import CorpusPart
from trainer.pretraining.encoder_training import Recipe, average_weights, chosen_rows, prepare_training_sets, pretrain
from trainer.pretraining.linear_probe import (
    clustered_difference,
    columns_of,
    cross_fitted_scores,
    few_shot_auroc,
    macro_auroc,
    probe_results,
)
from trainer.pretraining.starts import STARTS
from trainer.pretraining.trials import PROXIES, run_trial

NIH = "nih-chestxray14"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("trainer.pretraining.encoder_training._BATCH", 16)
    few = partial(clustered_difference, draws=100)
    monkeypatch.setattr("trainer.pretraining.linear_probe.clustered_difference", few)


def part_of(name, labels, groups=None, seed=0):
    """A corpus part of random images; those of class 1 are bright."""
    random, labels = np.random.default_rng(seed), np.asarray(labels)
    images = random.integers(0, 128, (len(labels), 1, 160, 160), dtype=np.uint8)
    if labels.ndim == 1:
        images[labels == 1] += 100
    ids = np.array([str(i) for i in range(len(labels))])
    groups = ids if groups is None else np.asarray(groups)
    listing = Listing(ids, labels, groups, np.full(len(ids), ""), lambda _: b"", f"{name} {seed}")
    bank = type("Bank", (), {"images": images})()
    every, none = np.arange(len(labels)), np.array([], int)
    number = np.unique(groups, return_inverse=True)[1]
    return CorpusPart(DATASETS[name], listing, bank, number, every, none, none, {}, {})


def two_parts(images=16):
    findings = np.random.default_rng(0).integers(0, 2, (images, 14)).astype(float)
    findings[:, 2] = np.nan
    classes = np.arange(images) % 3
    classes[:8] = UNLABELED
    return [part_of(NIH, findings), part_of("isic2017-dermoscopy", classes, seed=1)]


def small(**named):
    return Recipe(LITE0, {NIH: 64, "isic2017-dermoscopy": 64}, cut=4, views=1, epochs=2, **named)


def distance(first, second):
    first, second = first.state_dict(), second.state_dict()
    return sum(float((first[k].float() - second[k].float()).square().sum()) for k in first if "weight" in k)


def test_pretraining_moves_the_tail_and_averaging_holds_it_back():
    trunk, start = STARTS[LITE0].build(4)
    recipe = small()
    trained, history = pretrain(recipe, prepare_training_sets(recipe, two_parts(), trunk, start, CPU), start, CPU)
    assert np.isfinite([row["loss"] for row in history]).all()
    full = distance(trained, start)
    assert full > 0
    assert distance(average_weights(start, trained, 0.5), start) == pytest.approx(full / 4, rel=1e-3)
    statistics = [key for key in start.state_dict() if "running" in key]
    assert all(torch.equal(start.state_dict()[key], trained.state_dict()[key]) for key in statistics)


def test_a_killed_pretraining_goes_on_to_the_same_end(monkeypatch):
    trunk, start = STARTS[LITE0].build(4)
    recipe = small()
    training_sets = prepare_training_sets(recipe, two_parts(), trunk, start, CPU)
    whole, _ = pretrain(recipe, training_sets, start, CPU)
    monkeypatch.setattr("trainer.pretraining.encoder_training._CHECKPOINT_STEPS", 1)
    steps = torch.optim.AdamW.step
    done = []

    def killed(self, *arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return steps(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, training_sets, start, CPU)
    monkeypatch.setattr(torch.optim.AdamW, "step", steps)
    resumed, history = pretrain(recipe, training_sets, start, CPU)
    assert history[-1]["step"] == 3
    assert distance(resumed, whole) == pytest.approx(0, abs=1e-8)


def test_a_corpus_that_fills_no_batch_is_refused():
    with pytest.raises(BadRequest, match="has 4 images; pretraining needs at least"):
        pretrain(small(), [SimpleNamespace(rows=np.arange(2))] * 2, None, CPU)


def test_the_distance_to_the_start_is_what_distillation_makes_small():
    trunk, start = STARTS[LITE0].build(4)
    ends = []
    for weight in (0.0, 30.0):
        recipe = small(distill=weight, lr=1e-3)
        _, history = pretrain(recipe, prepare_training_sets(recipe, two_parts(), trunk, start, CPU), start, CPU)
        ends.append(history[-1]["distance"])
    assert ends[1] < ends[0]


@pytest.mark.parametrize("cut", STARTS[LITE0].cuts)
def test_trunk_and_tail_are_the_network_that_is_read(cut):
    """Both reads of a cut start equal the embeddings of the models of family B."""
    images = torch.rand(2, 3, 160, 160)
    trunk, tail = STARTS[LITE0].build(cut)
    with torch.inference_mode():
        features, pooled = trunk(images)
        outputs = [*tail(features), pooled]
        for read, suffix in (("last", ""), ("stages", "-stages")):
            model = MODELS[LITE0 + suffix].build(2, "", 0).eval()
            wanted = model.head.pool(model.encoder(images)) if not suffix else model.encoder(images).mean((2, 3))
            found = torch.cat([outputs[place] for place in tail.reads[read]], dim=1)
            assert torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("cut", STARTS[dinov2.SPEC.name].cuts)
def test_trunk_and_tail_are_the_transformer_that_is_read(cut):
    images = torch.rand(2, 3, 224, 224)
    trunk, tail = STARTS[dinov2.SPEC.name].build(cut)
    model = MODELS[dinov2.SPEC.name].build(2, "", 0).eval()
    with torch.inference_mode():
        (found,) = tail(trunk(images)[0])
        assert torch.allclose(found, model.embed(images), atol=1e-4)
    assert set(tail.encoder_state()) <= set(model.encoder.state_dict())
    assert {key.split(".")[2] for key in tail.encoder_state()} == {str(block) for block in range(cut + 1, 8)}


def test_a_transformer_is_trained_on_half_of_its_tokens():
    _, tail = STARTS[dinov2.SPEC.name].build(6)
    tokens, seen = torch.randn(2, 257, 384), []
    tail.blocks["7"].register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    tail(tokens)
    with torch.inference_mode():
        tail(tokens)
    assert seen == [129, 257]


def test_what_is_saved_is_read_by_the_medical_model(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_ENCODERS", str(tmp_path))
    _, tail = STARTS[LITE0].build(3)
    with torch.no_grad():
        tail.conv_head.weight.mul_(2)
    card = {"version": 2, "seen": [NIH], "left_out": ["kermany"], "licence": ""}
    save_own_encoder(tmp_path / LITE0_MEDICAL / "new", tail.encoder_state(), card)
    model, start = (MODELS[name].build(2, "kermany", 0).encoder.state_dict() for name in (LITE0_MEDICAL, LITE0))
    assert torch.allclose(model["network.conv_head.weight"], 2 * start["network.conv_head.weight"], atol=1e-3)
    assert torch.equal(model["network.conv_stem.weight"], start["network.conv_stem.weight"])
    save_own_encoder(tmp_path / LITE0_MEDICAL / "new", {"network.nothing": torch.zeros(1)}, card)
    with pytest.raises(WeightsUnavailable, match="belong to another network: this one has no network"):
        load_pretrained(MODELS[LITE0].build(2, "", 0).encoder, tmp_path / LITE0_MEDICAL / "new")


def test_a_run_takes_the_encoder_audited_against_its_set_and_a_stored_run_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_ENCODERS", str(tmp_path))
    wide = {"seen": ["malaria"], "left_out": ["kermany", "ham10000"], "licence": ""}
    save_own_encoder(tmp_path / "m" / "wide", {"weight": torch.zeros(2)}, wide)
    save_own_encoder(tmp_path / "m" / "narrow", {"weight": torch.ones(2)}, {**wide, "left_out": ["nih-chestxray14"]})
    assert find_medical_encoder("m", "kermany").name == "wide"
    assert find_medical_encoder("m", "nih-chestxray14").name == "narrow"
    with pytest.raises(WeightsUnavailable, match="pretrain --targets malaria"):
        find_medical_encoder("m", "malaria")  # both have seen it
    stored = {"ref": "m/narrow", "sha256": read_card(tmp_path / "m" / "narrow")["sha256"]}
    assert find_medical_encoder("m", variant_of_run(stored)).name == "narrow"
    with pytest.raises(WeightsUnavailable, match="of this run is not on this machine"):
        variant_of_run({"ref": "m/narrow", "sha256": "0"})


def test_activations_are_computed_once_and_resumed(monkeypatch):
    start, part = STARTS[LITE0], two_parts(64)[0]
    trunk, _ = start.build(4)
    rows = np.arange(40)
    monkeypatch.setattr("trainer.pretraining.activations._BLOCK", 32)
    seen = []

    def counting(images):
        seen.append(len(images))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return trunk(images)

    with pytest.raises(KeyboardInterrupt):
        activations(start, 4, counting, part, rows, 1, CPU)
    found = activations(start, 4, counting, part, rows, 1, CPU)
    assert seen == [32, 8, 8]  # the first block is not computed again
    whole = activations(start, 4, trunk, part, np.arange(41), 1, CPU)
    assert np.array_equal(found.features, whole.features[:40])  # a view is the same whatever stands beside it
    plain = activations(start, 4, trunk, part, rows, PLAIN, CPU)
    assert not np.array_equal(plain.features, found.features)


def test_which_recipe_and_evaluated_sets_are_taken():
    recipe = _recipe(parse(["pretrain", "--targets", "kermany", "--sets", NIH, "--epochs", "7"]))
    assert (recipe.sets, recipe.epochs, recipe.start) == ({NIH: 8000}, 7, LITE0)
    assert NIH not in _recipe(parse(["pretrain", "--targets", "chestmnist"])).sets
    assert _evaluated_sets([NIH, "kermany", "isic2017-dermoscopy"]) == (NIH, "isic2017-dermoscopy")
    assert _evaluated_sets(["kermany", "malaria"]) == ("kermany",)
    with pytest.raises(BadRequest, match="Expected --sets to name one of"):
        _evaluated_sets(["malaria"])
    with pytest.raises(BadRequest, match="Expected --cut to be one of 3, 2, 4"):
        _recipe(parse(["pretrain", "--cut", "9"]))
    with pytest.raises(BadRequest, match="Expected --average above 0"):
        _recipe(parse(["pretrain", "--average", "0"]))
    with pytest.raises(UnknownName, match="Did you mean 'kermany'"):
        _recipe(parse(["pretrain", "--targets", "kermani"]))


def test_what_is_probed_of_each_kind_of_labels():
    columns, names = columns_of(part_of("kermany", [0, 1, 1]))
    assert columns.tolist() == [[0], [1], [1]]
    assert names == ["Pneumonia"]
    columns, names = columns_of(part_of("covid-radiography", [2, 0]))
    assert columns.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert len(names) == 4


def test_the_difference_of_a_score_with_itself_is_nothing():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (200, 2))
    scores = random.random((200, 2)) + labels
    groups = np.arange(200) // 2
    assert clustered_difference(scores, scores, labels, groups, draws=50) == (0, 0, 0)
    value, low, high = clustered_difference(scores, random.random((200, 2)), labels, groups, draws=200)
    assert 0 < low < value < high
    assert macro_auroc(scores, labels) > 0.9


def test_probes_tell_what_is_in_embeddings_from_what_is_not():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 300)
    groups = np.arange(300) // 2
    useless = random.normal(size=(300, 8))
    useful = useless.copy()
    useful[:, 0] += 2 * labels
    part = replace(part_of("kermany", labels, groups), validation=np.arange(100), test=np.arange(100, 300))
    (better,) = probe_results(part, {"last": useful}, {"last": useless})
    (same,) = probe_results(part, {"last": useless}, {"last": useless})
    assert better.passed
    assert better.encoder > 0.85 > better.start
    assert not same.passed
    assert same.difference == (0, 0, 0)
    assert few_shot_auroc(useful, labels, groups, 20) > 0.8
    assert few_shot_auroc(useless, labels, groups, 20) < 0.6
    assert few_shot_auroc(useful, np.stack([labels, np.full(300, np.nan)], axis=1), groups, 20) > 0.8


def test_a_probe_never_scores_a_patient_it_was_fitted_on():
    """Labels that only a patient's identity tells: a probe that had seen the patient would know them."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 3)
    features = np.repeat(random.normal(size=(100, 200)), 3, axis=0)
    labels = np.repeat(random.integers(0, 2, 100), 3)[:, None]
    scores, columns = cross_fitted_scores(features, labels, groups, 100.0)
    assert columns.tolist() == [0]
    assert macro_auroc(scores, labels) < 0.65


@pytest.fixture
def small_corpus(tmp_path, monkeypatch):
    """NIH as the target; Kermany, whose two classes differ plainly, as the corpus for evaluation."""
    put_nih(tmp_path / "nih", [(seed, seed) for seed in range(6)])
    for tint, label in enumerate(("NORMAL", "PNEUMONIA")):
        for seed in range(60):
            name = f"person{seed + 200 * tint}_{label}.png"
            put_image(tmp_path / "kermany" / "train" / label / name, 1000 + seed, tint=tint)
    for name, folder in ((NIH, "nih"), ("kermany", "kermany")):
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], path=tmp_path / folder))
    for name in ("chestmnist", "pneumoniamnist", "nih-adult-pneumonia"):
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], path=tmp_path / "nowhere"))
    monkeypatch.setattr("trainer.pretraining.linear_probe.MIN_POSITIVES", 3)
    argv = ["pretrain", "--targets", NIH, "--sets", "kermany", "--epochs", "1", "--views", "1", "--cut", "4"]
    return [*argv, "--out", str(tmp_path / "out"), "--device", "cpu"], tmp_path / "out" / LITE0_MEDICAL


def test_the_command_keeps_or_refuses_logs_and_repeats(small_corpus, monkeypatch, capsys):
    argv, out = small_corpus
    code = main(argv)
    logged = [json.loads(line) for line in (out / "recipes.jsonl").read_text().splitlines()]
    (record,) = logged
    assert record["passed"] == (code == 0)
    assert {row["read"] for row in record["probes"]} == {"last", "stages"}
    assert {row["dataset"] for row in record["probes"]} == {"kermany"}
    assert record["passed"] == all(row["difference"][1] > 0 for row in record["probes"])
    (folder,) = [path for path in out.iterdir() if path.is_dir()]
    assert folder.name == (
        "strict-without-nih-chestxray14" if code == 0 else ".strict-without-nih-chestxray14-seed0.refused"
    )
    card = read_card(folder)
    assert card["seen"] == ["kermany"]
    assert NIH in card["left_out"]
    assert NIH in card["excluded_patients_of"]


def test_an_encoder_that_waits_for_its_acceptance_test_is_not_trained_again(small_corpus, monkeypatch, capsys):
    argv, out = small_corpus

    def stop(*_):
        raise KeyboardInterrupt

    probed = "trainer.commands.pretrain.probe_results"
    with monkeypatch.context() as patched:
        patched.setattr(probed, stop)
        assert main(argv) == 130
    row = ProbeResult("kermany", "last", 0.9, 0.8, (0.1, 0.05, 0.2), images=9, patients=9)
    monkeypatch.setattr(probed, lambda *_: [row])
    monkeypatch.setattr("trainer.commands.pretrain.train_by", None)  # is not called
    assert main(argv) == 0
    assert "already trained" in capsys.readouterr().err
    folder = out / "strict-without-nih-chestxray14"
    assert probe_results_of(read_card(folder)) == [row]
    assert not list(out.glob(".*waiting"))


def test_another_seed_is_a_replicate_in_the_card(small_corpus, monkeypatch):
    argv, out = small_corpus
    outcomes = iter([(0.1, 0.05, 0.2), (0.1, -0.05, 0.2)])
    monkeypatch.setattr(
        "trainer.commands.pretrain.probe_results",
        lambda *_: [ProbeResult("kermany", "last", 0.9, 0.8, next(outcomes), 9, 9)],
    )
    assert main(argv) == 0
    folder = out / "strict-without-nih-chestxray14"
    weights = weights_of(folder)
    assert main([*argv, "--seed", "1"]) == 1
    (replicate,) = read_card(folder)["replicates"]
    assert (replicate["seed"], replicate["passed"]) == (1, False)
    assert all(torch.equal(value, weights[key]) for key, value in weights_of(folder).items())
    assert [path.name for path in out.iterdir() if path.is_dir()] == [folder.name]


def test_the_recipe_takes_the_same_images_for_every_seed():
    part = part_of("kermany", np.zeros(50, int))
    first, second = (chosen_rows(Recipe(LITE0, {"kermany": 20}, seed=seed), part) for seed in (0, 1))
    assert len(first) == 20
    assert np.array_equal(first, second)


def test_a_trial_is_evaluated_on_proxies_and_trains_on_none(monkeypatch):
    monkeypatch.setattr("trainer.pretraining.trials._SIZES", (5,))
    monkeypatch.setattr("trainer.pretraining.trials._SEEDS", 1)
    findings = np.random.default_rng(0).integers(0, 2, (150, 14)).astype(float)
    first = replace(part_of(NIH, findings), train=np.arange(64), validation=np.arange(64, 150))
    proxy = part_of("malaria", np.arange(64) % 2)
    recipe = Recipe(LITE0, {NIH: 64}, cut=4, views=1, epochs=1)
    records = list(run_trial(recipe, [first, proxy], CPU))
    assert [record["recipe"]["average"] for record in records] == [1.0, 0.5, 0.25]
    assert "malaria" not in records[0]["recipe"]["sets"]  # nothing is learned from what stands for a target
    tasks = {key.partition(", ")[0] for key in records[0]["gains"]}
    assert tasks == {"malaria", f"{NIH} (findings left out)", f"{NIH} (findings learnt)"}
    assert set(PROXIES).isdisjoint(name for choice in EVALUATED for name in choice)


def test_the_command_tries_a_recipe_without_any_test_image(small_corpus, monkeypatch):
    argv, out = small_corpus
    monkeypatch.setattr("trainer.commands.pretrain.PROXIES", ())
    seen = []
    monkeypatch.setattr("trainer.commands.pretrain.run_trial", lambda recipe, parts, device: seen.extend(parts) or [{}])
    assert main([*argv, "--trial"]) == 0
    (part,) = seen
    rows = np.concatenate([part.train, part.validation])
    assert len(rows)
    assert not np.isin(rows, load_dataset(DATASETS["kermany"]).parts.test).any()
    assert json.loads((out / "recipes.jsonl").read_text())["kind"] == "trial"
