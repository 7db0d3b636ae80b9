"""The benchmark of training speed computes its result from the clock alone; the machine's speed decides no test."""

import json
from dataclasses import replace
from itertools import accumulate, cycle

import numpy as np
import pytest
import torch

from benchmarks import training_speed
from core.models import MODELS
from trainer.training.settings import FitData
from trainer.training.strategies import STRATEGIES


@pytest.mark.parametrize(("seconds", "ratio", "code"), [((2.0, 2.1), 0.952, 0), ((1.0, 4.0), 0.25, 1)])
def test_the_ratio_is_that_of_the_speeds(monkeypatch, capsys, seconds, ratio, code):
    bare, product = seconds
    ticks = accumulate(cycle([0.0, bare, 0.0, product]))
    monkeypatch.setattr(training_speed, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(training_speed, "STEPS", 2)
    argv = ["--rounds", "2", "--batch-size", "4", "--device", "cpu"]
    assert training_speed.main([*argv, "--json"]) == code
    row = json.loads(capsys.readouterr().out)
    assert row["bare"] == pytest.approx(8 / bare, abs=0.1)
    assert row["product"] == pytest.approx(8 / product, abs=0.1)
    assert row["ratio"] == pytest.approx(ratio, abs=0.001)
    assert (row["model"], row["batch_size"], row["augment"]) == ("scratch-cnn", 4, "aggressive")
    assert training_speed.main(argv) == code
    assert f"ratio {row['ratio']}" in capsys.readouterr().out


def test_both_sides_do_the_same_steps():
    """From equal weights, without augmentation or chance, the loop and the bare steps give equal networks."""
    spec = MODELS["scratch-cnn"]
    settings = replace(STRATEGIES["scratch"].settings, augment="none", batch_size=4, epochs=2, min_steps=0, patience=0)
    rows = np.arange(8)
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 64, 64), np.uint8)
    data = FitData(images, rows % 2, rows, rows, 2, "", 8)
    cpu = torch.device("cpu")
    bare = training_speed.BareLoop(spec, data, settings, cpu)
    loop = training_speed.training_loop(spec, data, settings, cpu)
    order = loop._imbalance.draw_epoch(data.labels, np.random.default_rng(0)).positions  # the order of the loop
    bare.batches = [torch.cat(bare.batches)[order[start : start + 4]] for start in (0, 4)]
    bare.targets = [torch.cat(bare.targets)[order[start : start + 4]] for start in (0, 4)]
    bare.epoch()
    loop.train(None)
    first, second = bare.model.state_dict(), loop._model.state_dict()
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_models_that_are_not_trained_from_scratch_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        training_speed.main(["--model", "control-random-frozen"])
    assert "not trained from scratch" in capsys.readouterr().err
