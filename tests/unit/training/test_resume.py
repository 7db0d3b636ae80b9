"""A killed training resumes to the same result; a diverged one is kept apart with its last good epoch."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.specs import is_present
from core.inference.predictor import Predictor
from core.models import MODELS
from core.paths import cache_folder
from core.runs import open_store, read_predictions, read_run, read_weights
from tests import PATIENCE
from tests.conftest import need
from trainer.cli import main
from trainer.training import resume
from trainer.training.resume import StateFile
from trainer.training.run_cell import fit_data
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell, FitContext
from trainer.training.training_loop import train_network

CPU = torch.device("cpu")
SPEC = MODELS["scratch-cnn"]
RUN = ["run", "--dataset", "phantom", "--model", "scratch-cnn", "--strategy", "scratch", "--size", "6"]


@pytest.fixture(scope="module")
def phantom():
    return load_dataset(DATASETS["phantom"])


@pytest.fixture(scope="module")
def some(phantom):
    prepared = plan_run(Cell("phantom", "scratch-cnn", "scratch", 12, 0), phantom)
    return prepared, fit_data(prepared, phantom, phantom.bank(SPEC.image.size).images)


class KilledError(Exception):
    pass


def train(some, name, stop_at=None, **options):
    prepared, data = some
    settings = replace(prepared.settings, **{"epochs": 6, "min_steps": 0, "batch_size": 8, "patience": 0, **options})
    model = SPEC.build(2, "phantom", 0)
    model.tapped.head.layers.append(torch.nn.Dropout(0.3))
    parameters = [{"params": list(model.parameters()), "lr": settings.lr}]

    def stop(done, total):
        if done == stop_at:
            raise KilledError

    trained = train_network(
        model, parameters, data.part(np.arange(20)), data.part(np.arange(20, 24)), SPEC.image, settings,
        FitContext(0, CPU, stop, StateFile(name, CPU)), frozen_statistics=False,
    )  # fmt: skip
    return trained, model.state_dict()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"average": 0.9, "augment": "mixup", "optimizer": "sgd", "schedule": "constant"},
        {"loss": "auc-margin", "optimizer": "pesg", "schedule": "step", "lr": 0.1},
        {"optimizer": "adam", "schedule": "cosine", "imbalance": "to-majority", "patience": 5},
    ],
    ids=["usual", "averaged", "pesg", "patient"],
)
@pytest.mark.parametrize("stop_at", [1, 4, 6, 9])
def test_an_interrupted_training_resumes_to_the_same_result(some, tmp_path, monkeypatch, options, stop_at):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path))
    whole, weights = train(some, "whole", **options)
    with pytest.raises(KilledError):
        train(some, "broken", stop_at, **options)
    torch.manual_seed(99)  # what else the process drew since must not matter
    resumed, other = train(some, "broken", **options)
    assert StateFile("broken", CPU).path.exists()
    assert [{**row, "seconds": 0} for row in whole.history] == [{**row, "seconds": 0} for row in resumed.history]
    assert np.array_equal(whole.logits, resumed.logits)
    assert all(torch.equal(weights[name], other[name]) for name in weights)


def test_finished_steps_are_not_repeated(some, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path))
    monkeypatch.setattr("trainer.training.resume._SHARE", math.inf)  # every epoch is written, however slow the disk is
    with pytest.raises(KilledError):
        train(some, "broken", stop_at=9)  # two steps an epoch: killed in the fifth
    with pytest.raises(KilledError):
        train(some, "broken", stop_at=9)
    assert len(torch.load(StateFile("broken", CPU).path, weights_only=True)["training"]["history"]) == 5
    resumed, _ = train(some, "broken", stop_at=8)  # step 8 was over, and does not come again
    assert len(resumed.history) == 7


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02cposix\nsystem\n."])
def test_an_unreadable_state_file_is_ignored(some, tmp_path, monkeypatch, content):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path))
    whole, _ = train(some, "whole")
    path = StateFile("hurt", CPU).path
    path.write_bytes(content)
    again, _ = train(some, "hurt")
    assert np.array_equal(whole.logits, again.logits)


@pytest.mark.parametrize(
    ("place", "name", "value"), [(torch, "__version__", "1.0"), (resume, "code_hash", lambda: "later")]
)
def test_a_state_of_another_environment_is_ignored(some, tmp_path, monkeypatch, place, name, value):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path))
    StateFile("there", torch.device("cpu")).write({"value": 1})
    assert StateFile("there", CPU).read() == {"value": 1}
    monkeypatch.setattr(place, name, value)
    assert StateFile("there", CPU).read() is None


def test_a_killed_run_resumes_from_its_last_epoch(runs, tmp_path, capsys):
    argv = [*RUN, "--epochs", "60", "--min-steps", "0", "--patience", "0"]
    process = subprocess.Popen([sys.executable, "-m", "trainer", *argv], env=os.environ.copy(), stderr=subprocess.PIPE)
    folder, mine, until = cache_folder() / "unfinished", "scratch-cnn-scratch-n6-*.pt", time.monotonic() + PATIENCE
    while not list(folder.glob(mine)) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    left = list(folder.glob(mine))  # others train beside this one
    assert len(left) == 1
    assert open_store(runs).runs == {}
    assert main(argv) == 0
    assert not left[0].exists()
    resumed = next(iter(open_store(runs).runs))
    os.environ["LOWSHOT_RUNS"] = str(tmp_path / "other")
    assert main(argv) == 0
    whole = tmp_path / "other" / "phantom" / resumed.name
    for part in ("test", "validation"):
        assert np.array_equal(read_predictions(whole, part).logits, read_predictions(resumed, part).logits)
    first, second = read_weights(whole), read_weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert capsys.readouterr().out.count("scratch-cnn scratch") == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--model", "imagenet-efficientnet-lite0", "--strategy", "frozen", "--size", "4", "--lr", "1e30"], "the head"),
        # of a single step, whose own loss is a number
        ([*RUN[3:], "--epochs", "1", "--min-steps", "1", "--lr", "1e38", "--clip", "1e38"], "in epoch 1"),
        ([*RUN[3:-1], "1", "--patience", "0", "--epochs", "1", "--min-steps", "1", "--lr", "1e38", "--clip", "1e38"],
         "a weight was no longer a number in epoch 1"),
        pytest.param(
            ["--model", "scratch-groupnorm-cnn", "--strategy", "maml", "--size", "4", "--episodes", "4", "--inner-lr",
             "1e38", "--sources", "breast-ultrasound"], "meta-learning diverged at step 1", marks=pytest.mark.data,
        ),
    ],
    ids=["head", "last step", "nothing held out", "start"],
)  # fmt: skip
def test_every_training_that_diverges_is_stored_as_failed(runs, capsys, argv, said):
    if "maml" in argv:
        need(is_present(DATASETS["breast-ultrasound"]), "breast-ultrasound is not under LOWSHOT_DATA")
    options = [] if "maml" in argv else ["--optimizer", "sgd"]
    assert main(["run", "--dataset", "phantom", *argv, *options]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Lower " in error
    store = open_store(runs)
    assert store.runs == {}
    ((folder, meta),) = store.failed.items()
    assert said in meta.failed
    assert all(torch.isfinite(value).all() for value in read_weights(folder).values())
    assert 0 <= read_run(folder).metrics["auroc"] <= 1


def test_a_diverged_run_is_kept_apart_and_named(runs, capsys):
    argv = [*RUN, "--epochs", "3", "--min-steps", "0", "--lr", "1e25", "--optimizer", "sgd", "--clip", "1e30"]
    assert main(argv) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "no longer a number in epoch" in said.err
    assert "Lower the learning rate" in said.err
    store = open_store(runs)
    assert store.runs == {}
    folder, meta = next(iter(store.failed.items()))
    assert "its training failed" in store.problems[f"phantom/{meta.run}"]
    assert all(torch.isfinite(value).all() for value in read_weights(folder).values())
    assert len(Predictor(folder).meta.failed) > 20
    before = (folder / "run.json").read_bytes()
    assert main(argv) == 1  # answered from the store
    assert (folder / "run.json").read_bytes() == before
    assert main(["evaluate", "--run", meta.run]) == 2
    assert "failed" in capsys.readouterr().err
    curve = ["curve", "--dataset", "phantom", "--models", "scratch-cnn", "--strategies", "scratch", "--sizes", "6"]
    assert main([*curve, *argv[9:], "--seeds", "0"]) == 2
    assert main(["results", "--dataset", "phantom"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert f"left out: phantom/{meta.run}: its training failed" in said.err
    assert read_run(folder).metrics["auroc"] >= 0
