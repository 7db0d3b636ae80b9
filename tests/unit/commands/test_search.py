"""The protocol's search: corrupted images, halves of the validation part, and a log that a later call resumes."""

import json
import threading

import numpy as np
import pytest

from core.data import DATASETS
from core.data.corruption import CORRUPTIONS, corrupt
from core.errors import BadRequest
from core.files import locked
from core.models import MODELS
from tests import PATIENCE
from trainer.cli import main
from trainer.commands import baselines
from trainer.commands import search as searching
from trainer.commands.baselines import Contender, contenders_of
from trainer.commands.search import Space, macro_auroc
from trainer.pretraining.starts import STARTS
from trainer.training.recipes import best_model, choose, recipes
from trainer.training.run_plan import settings_of
from trainer.training.strategies import STRATEGIES

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(60, 200, (3, 1, 64, 64)).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_spoilt_images_differ_are_repeatable_and_keep_their_shape(name, channels):
    images = np.repeat(IMAGES, channels, axis=1)
    first, second = corrupt(name, images, 0), corrupt(name, images, 0)
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, second)
    assert np.abs(first.astype(int) - images).mean() > 1


def test_no_candidate_trains_on_what_spoils():
    """Candidates change geometry and mix; brightness, contrast and noise are left to the corruptions."""
    from core.data.augmentation import AUGMENTATIONS, PRESETS

    for name in searching._VIEWS:
        assert all(AUGMENTATIONS[row].photometry is None for row in PRESETS[name])


def test_macro_auroc_leaves_out_what_too_few_show():
    labels = np.array([[1.0, 0], [0, 0], [1, 0], [0, 1], [1, np.nan]] * 5)
    logits = np.stack([labels[:, 0], RANDOM.normal(size=25)], axis=1)
    logits[:, 1] = np.nan_to_num(labels[:, 1])
    assert macro_auroc(logits, labels) == 1
    rare = labels.copy()
    rare[4:, 1] = 0  # one image shows the second finding
    assert macro_auroc(logits[:, ::-1], rare) < 1


def test_balanced_accuracy_is_the_mean_over_findings_at_their_own_cuts():
    truth = np.array([[1, 1], [1, np.nan], [0, 0], [0, 0]] * 5, float)
    p = np.array([[0.9, 0.3], [0.4, 0.9], [0.3, 0.1], [0.2, 0.1]] * 5)
    assert searching._balanced_accuracy(p, truth, np.array([0.5, 0.2])) == pytest.approx((0.75 + 1) / 2)
    assert searching._balanced_accuracy(p, truth, np.array([0.35, 0.5])) == pytest.approx((1 + 0.5) / 2)
    of_two, as_finding = searching._yes_no(np.stack([1 - p[:, 0], p[:, 0]], axis=1), truth[:, 0].astype(int))
    assert searching._balanced_accuracy(of_two, as_finding, np.array([0.5])) == 0.75


def test_a_search_writes_a_log_and_goes_on_with_it(runs, tmp_path, monkeypatch):
    space = Space(
        "tiny", "control-random-frozen", ("frozen-logistic",), (4,), (100,),
        lambda trial: {
            "strategy": "frozen-logistic", "augment": "none", "views": 0,
            "strength": trial.suggest_categorical("strength", [1.0, 10.0, 100.0]),
        },
    )  # fmt: skip
    monkeypatch.setattr(searching, "SPACES", {"tiny": space})
    monkeypatch.setattr(searching, "SETS", ("phantom",))
    log = tmp_path / "log.jsonl"
    argv = ["search", "--space", "tiny", "--log", str(log), "--trials"]
    assert main([*argv, "1"]) == 0
    assert main([*argv, "3"]) == 0
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["trial"] for row in rows] == [0, 1, 2]
    (cell,) = rows[0]["cells"]
    assert (cell["set"], cell["size"], cell["seed"]) == ("phantom", 4, 100)
    assert cell["score"] == pytest.approx((cell["clean"] + cell["spoilt"]) / 2, abs=1e-4)
    assert 0 <= cell["balanced_accuracy_prior_0.3"] <= 1
    assert sorted(row["options"]["strength"] for row in rows) == [1.0, 10.0, 100.0]  # no trial repeats another
    assert main([*argv, "4"]) == 2
    assert main(["search", "--space", "none"]) == 2
    assert DATASETS["phantom"]


def test_refused_settings_are_not_tried_again(runs, tmp_path, monkeypatch):
    tried = []

    def refuse_ten(development, cell, options, device):
        tried.append(options["strength"])
        if options["strength"] == 10.0:
            raise BadRequest("not this one")
        return {"score": 0.5}

    space = Space(
        "tiny", "control-random-frozen", ("frozen-logistic",), (4,), (100,),
        lambda trial: {
            "strategy": "frozen-logistic", "strength": trial.suggest_categorical("strength", [1.0, 10.0, 100.0])
        },
    )  # fmt: skip
    monkeypatch.setattr(searching, "SPACES", {"tiny": space})
    monkeypatch.setattr(searching, "SETS", ("phantom",))
    monkeypatch.setattr(searching, "score", refuse_ten)
    argv = ["search", "--space", "tiny", "--log", str(tmp_path / "log.jsonl"), "--trials"]
    assert main([*argv, "2"]) == 0
    assert main([*argv, "3"]) == 2  # the third is refused, and then none is left
    assert tried.count(10.0) <= 2  # once in each process


@pytest.mark.parametrize("argv", [["search", "--space", "frozen"], ["baselines", "--family", "frozen"]])
def test_a_second_writer_of_a_log_is_refused(tmp_path, capsys, argv):
    log = tmp_path / "log.jsonl"
    held, over = threading.Event(), threading.Event()

    def other():
        with locked(log):
            held.set()
            over.wait(PATIENCE)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(PATIENCE)
    assert main([*argv, "--log", str(log)]) == 2
    over.set()
    thread.join()
    assert "Another process is writing log.jsonl" in capsys.readouterr().err


def test_the_settings_of_each_size_are_those_of_the_best_trial_over_sets():
    places = [("a", 10), ("a", 10), ("b", 10), ("a", 50), ("b", 50)]

    def row(lr, *scores):
        cells = [{"set": s, "size": n, "score": v} for (s, n), v in zip(places, scores, strict=True)]
        return {"options": {"strategy": "frozen", "lr": lr}, "cells": cells}

    rows = [row(1, 0.9, 0.9, 0.5, 0.6, 0.6), row(2, 0.8, 0.8, 0.8, 0.5, 0.6)]
    best = {"10": {"score": 0.8, "settings": {"lr": 2}}, "50": {"score": 0.6, "settings": {"lr": 1}}}
    assert choose(rows, "encoder") == {("frozen", "encoder"): best}  # a set counts once, however many seeds
    other = {"options": rows[0]["options"] | {"model": "wide"}, "cells": rows[0]["cells"]}
    assert choose([*rows, other], "encoder") == {
        ("frozen", "encoder"): best,
        ("frozen", "wide"): {n: {"score": s, "settings": {"lr": 1}} for n, s in (("10", 0.7), ("50", 0.6))},
    }  # fmt: skip


def test_settings_follow_the_size_and_a_twin_takes_those_of_its_model(monkeypatch):
    sizes = {"10": {"score": 0.8, "settings": {"lr": 0.1}}, "200": {"score": 0.9, "settings": {"lr": 0.2}}}
    table = {"frozen": {"imagenet-efficientnet-lite0": sizes, "other": {"10": {"score": 0.84, "settings": {}}}}}
    monkeypatch.setattr("trainer.training.recipes.recipes", lambda: table)
    spec, strategy = MODELS["imagenet-efficientnet-lite0"], STRATEGIES["frozen"]
    assert [settings_of(spec, strategy, n).lr for n in (1, 10, 40, 50, 2000)] == [0.1, 0.1, 0.1, 0.2, 0.2]
    sizes["50"] = {"score": 0.9, "settings": {"lr": 0.3}}
    assert [settings_of(spec, strategy, n).lr for n in (100, 101)] == [0.3, 0.2]  # as far from 50 as from 200
    for twin in ("medical-efficientnet-lite0", "control-random-frozen"):
        assert settings_of(MODELS[twin], strategy, 10).lr == 0.1
    assert settings_of(MODELS["medical-efficientnet-lite0-stages"], strategy, 10) == strategy.settings
    for start in STARTS.values():  # family C takes the settings of family B
        assert MODELS[start.medical].settings_from == start.name
    assert all(row.settings_from == "" or row.settings_from in MODELS for row in MODELS.values())
    assert best_model("frozen") == "imagenet-efficientnet-lite0"  # by the mean over sizes


def test_every_stored_recipe_is_one_that_its_strategy_takes():
    for strategy, by_model in recipes().items():
        for model, by_size in by_model.items():
            assert not STRATEGIES[strategy].incompatibility(MODELS[model])
            for chosen in by_size.values():
                assert set(chosen["settings"]) <= set(STRATEGIES[strategy].takes)


def test_recipes_are_compared_with_baselines_on_development_images(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(baselines, "SETS", ("phantom",))
    monkeypatch.setattr(baselines, "SIZES", (4,))
    monkeypatch.setattr(baselines, "SEEDS", (110, 111))
    monkeypatch.setattr(
        baselines, "contenders_of",
        lambda name: (
            Contender("recipe", "control-random-frozen", "frozen-logistic", {"views": 0, "augment": "none"}),
            Contender("class means", "control-random-frozen", "protonet", {"augment": "none"}),
        ),
    )  # fmt: skip
    log = tmp_path / "baselines.jsonl"
    argv = ["baselines", "--family", "frozen", "--log", str(log)]
    assert main(argv) == 0
    first = capsys.readouterr().out
    assert "| 4 | class means | " in first
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(row["contender"], row["seed"]) for row in rows] == [
        ("recipe", 110), ("class means", 110), ("recipe", 111), ("class means", 111),
    ]  # fmt: skip
    monkeypatch.setattr(baselines, "score", lambda *arguments: pytest.fail("scored again"))
    assert main(argv) == 0
    assert capsys.readouterr().out == first
    assert main([*argv, "--summary"]) == 0
    assert capsys.readouterr().out == first
    assert main([*argv[:-1], str(tmp_path / "empty.jsonl"), "--summary"]) == 2
    assert "empty.jsonl has no rows yet" in capsys.readouterr().err


def test_every_contender_goes_with_its_strategy():
    for family in ("frozen", "frozen-stages", "frozen-dinov2", "finetune", "scratch"):
        for contender in contenders_of(family):
            strategy = STRATEGIES[contender.strategy]
            assert not strategy.incompatibility(MODELS[contender.model])
            assert set(contender.options) <= set(strategy.takes)
    with pytest.raises(BadRequest, match="one of frozen, frozen-stages"):
        contenders_of("all")
