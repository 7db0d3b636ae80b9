"""Meta-learning: which networks it takes, that it helps, resumes after a kill, and stops when it diverges."""

import ctypes
import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from core.models import MODELS
from core.models.classifier import Classifier, Head, linear_layers
from tests.small_tasks import CPU, IMAGE, SETTINGS, pool, small_model
from trainer.meta_learning.episodes import Pool, Tasks, TaskSpec
from trainer.meta_learning.maml import query_loss
from trainer.meta_learning.outer_loop import run_outer_loop
from trainer.training.loss_functions import NonFiniteError
from trainer.training.resume import StateFile
from trainer.training.strategies import STRATEGIES, strategies_of


@pytest.mark.parametrize("name", [spec.name for spec in MODELS.values() if "scratch" in spec.strategies])
def test_meta_learning_goes_with_networks_without_batch_normalization_alone(name):
    network = MODELS[name].build(2, "phantom", 0)
    normalized = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    assert MODELS[name].uses_batch_norm == normalized
    for strategy in ("maml", "protonet-meta"):
        assert ("it has batch normalization" in STRATEGIES[strategy].incompatibility(MODELS[name])) == normalized
        assert (strategy in strategies_of(MODELS[name])) != normalized


class Places:
    """Pictures with a bright spot; the class is where it is, and each task asks about two of nine places."""

    def __init__(self, places, each=12):
        random = np.random.default_rng(len(places))
        self.labels = np.repeat(np.arange(len(places)), each)
        images = random.integers(0, 90, (len(self.labels), 1, 6, 6), np.uint8)
        for row, label in enumerate(self.labels):
            y, x = divmod(places[label], 3)
            images[row, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] += 150
        self.images = np.repeat(images, 3, axis=1)


def spatial_model(seed=0):
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return Classifier(encoder, Head(nn.Flatten(), linear_layers(72, 2)))


@pytest.mark.parametrize(
    ("strategy", "options"),
    [("maml", {"order": "second"}), ("maml", {"order": "first"}), ("maml", {"order": "anil"}), ("protonet-meta", {})],
)
def test_meta_learning_helps_with_a_new_task(strategy, options):
    train, test = Places(list(range(6))), Places([6, 8])
    settings = replace(
        STRATEGIES[strategy].settings, episodes=160, tasks=4, shots=1, queries=5, outer_lr=0.01, inner_lr=0.3,
        inner_steps=2, **options,
    )  # fmt: skip
    row = STRATEGIES[strategy]
    rows, draw = np.arange(len(train.labels)), TaskSpec(2, False, 1, 5)
    tasks = Tasks([Pool("places", train.images, train.labels, rows, rows)], draw, IMAGE, CPU)
    model = spatial_model()

    def loss_on_new_tasks():
        new = np.arange(len(test.labels))
        asked = Tasks([Pool("new", test.images, test.labels, new, new)], draw, IMAGE, CPU)
        random = np.random.default_rng(3)
        return np.mean([row.query_loss(model, asked.next(random), settings).item() for _ in range(10)])

    before = loss_on_new_tasks()
    history = run_outer_loop(model, tasks, row.query_loss, settings, 0, CPU)
    assert len(history) == 40
    assert loss_on_new_tasks() < 0.7 * before


MALLINFO2 = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)  # fmt: skip


def held_bytes():
    """What the process has allocated and not given back: resident pages would count gaps that other tests left."""

    class Counts(ctypes.Structure):  # glibc's struct mallinfo2
        _fields_ = [(name, ctypes.c_size_t) for name in MALLINFO2]

    count = ctypes.CDLL(None).mallinfo2
    count.restype = Counts
    found = count()
    return found.uordblks + found.hblkhd


def test_memory_stays_flat_over_episodes():
    labels = np.arange(60) % 3
    tasks = Tasks([pool(labels)], TaskSpec(2, False, 2, 2), IMAGE, CPU)
    model = small_model()
    alive, held = [], []

    def watch(done, total):
        if done in (50, 250):
            gc.collect()
            alive.append(sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects()))
            held.append(held_bytes())

    run_outer_loop(model, tasks, query_loss, replace(SETTINGS, episodes=250, tasks=2), 0, CPU, watch)
    assert alive[1] == alive[0]
    assert held[1] - held[0] < 8e6


def test_meta_learning_goes_on_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path))
    tasks = Tasks([pool(np.arange(60) % 3)], TaskSpec(2, False, 2, 2), IMAGE, CPU)

    def learn(name, stop_at=0):
        def stop(done, total):
            if done == stop_at:
                raise KeyboardInterrupt

        model = small_model()
        history = run_outer_loop(model, tasks, query_loss, SETTINGS, 0, CPU, stop, StateFile(name, CPU))
        return model.state_dict(), history

    whole, history = learn("whole")
    with pytest.raises(KeyboardInterrupt):
        learn("broken", stop_at=4)
    resumed, other = learn("broken")
    assert history == other
    assert len(history) == 4
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_diverging_stops_with_what_to_change_and_keeps_the_last_good_start():
    tasks = Tasks([pool(np.arange(60) % 3)], TaskSpec(2, False, 2, 2), IMAGE, CPU)
    with pytest.raises(NonFiniteError, match=r"at step 1, .* Lower --inner-lr"):
        run_outer_loop(small_model(), tasks, query_loss, replace(SETTINGS, inner_lr=1e38), 0, CPU)
    model, calls = small_model(), []

    def breaks(network, task, settings):
        calls.append({name: value.detach().clone() for name, value in network.state_dict().items()})
        return query_loss(network, task, settings) * (torch.nan if len(calls) > 4 else 1)

    with pytest.raises(NonFiniteError, match="at step 3"):
        run_outer_loop(model, tasks, breaks, SETTINGS, 0, CPU)  # two tasks a step
    assert all(torch.equal(value, calls[2][name]) for name, value in model.state_dict().items())


def test_a_start_that_diverges_when_it_is_gone_on_with_is_what_it_was_when_it_was_left(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path))
    monkeypatch.setattr("trainer.training.resume._SHARE", float("inf"))
    tasks = Tasks([pool(np.arange(60) % 3)], TaskSpec(2, False, 2, 2), IMAGE, CPU)
    left = small_model()

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_outer_loop(left, tasks, query_loss, SETTINGS, 0, CPU, stop, StateFile("left", CPU))
    model = small_model()
    with pytest.raises(NonFiniteError, match="at step 3"):
        run_outer_loop(model, tasks, lambda *asked: query_loss(*asked) * torch.nan, SETTINGS, 0, CPU, None,
                   StateFile("left", CPU))  # fmt: skip
    assert all(torch.equal(value, left.state_dict()[name]) for name, value in model.state_dict().items())
