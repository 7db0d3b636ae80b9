"""Meta-learning: gradients, tasks that keep apart what must be, sources that are allowed, and that it helps."""

import ctypes
import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from core.errors import BadRequest
from core.models import MODELS
from core.models.classifier import Classifier, Head, average_pool, linear_layers
from core.types import ImageSpec
from trainer.cells import strategies_of
from trainer.config import Context, FitData
from trainer.course import predict_logits
from trainer.episodes import Draw, Pool, Task, Tasks
from trainer.few_shot import fit_maml
from trainer.heads import logits_of
from trainer.losses import NoNumberError
from trainer.maml import adapt_to, adapted, query_loss
from trainer.meta import learn_from
from trainer.protonet import fit_prototypes
from trainer.protonet import query_loss as prototype_loss
from trainer.strategies import STRATEGIES
from trainer.unfinished import Unfinished

CPU = torch.device("cpu")
IMAGE = ImageSpec(6)
SETTINGS = replace(
    STRATEGIES["maml"].settings, episodes=8, tasks=2, shots=2, queries=3, inner_lr=0.3, inner_steps=2, adapt_steps=3
)
NAN = float("nan")


def small_model(classes=2, width=4, seed=0):
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.GroupNorm(2, width), nn.Softplus())
    return Classifier(encoder, Head(average_pool(), linear_layers(width, classes)))


def some_task(findings=False, seed=0, size=5):
    random = torch.Generator().manual_seed(seed)
    images = [torch.randn(size, 3, 6, 6, generator=random).double() for _ in range(2)]
    if findings:
        targets = [torch.randint(0, 2, (size, 2), generator=random).double() for _ in range(2)]
        targets[0][0, 0] = NAN
        return Task(images[0], targets[0], images[1], targets[1], None)
    targets = [torch.arange(size) % 2 for _ in range(2)]
    return Task(images[0], targets[0], images[1], targets[1], torch.tensor([1, 0]))


def gradient_of(model, task, settings):
    model.zero_grad()
    query_loss(model, task, settings).backward()
    return {name: value.grad.clone() for name, value in model.encoder.named_parameters()}


@pytest.mark.parametrize("findings", [False, True])
@pytest.mark.parametrize("order", ["second", "anil"])
def test_the_outer_gradient_is_that_of_finite_differences(order, findings):
    model, task = small_model().double(), some_task(findings)
    settings = replace(SETTINGS, order=order)
    found = gradient_of(model, task, settings)
    for name, value in model.encoder.named_parameters():
        for place in np.random.default_rng(0).choice(value.numel(), min(3, value.numel()), replace=False):
            flat, step, losses = value.data.view(-1), 1e-5, []
            for sign in (1, -1):
                flat[place] += sign * step
                losses.append(query_loss(model, task, settings).item())
                flat[place] -= sign * step
            expected = (losses[0] - losses[1]) / (2 * step)
            assert found[name].view(-1)[place].item() == pytest.approx(expected, abs=1e-7, rel=1e-5)


def test_first_order_takes_the_gradient_where_adaptation_ends():
    model, task = small_model().double(), some_task()
    first, second = (gradient_of(model, task, replace(SETTINGS, order=order)) for order in ("first", "second"))
    fast = adapted(model, task.support, task.support_targets, task.columns,
                   SETTINGS, SETTINGS.inner_steps, outer=False)  # fmt: skip
    fast = {name: value.detach().requires_grad_() for name, value in fast.items()}
    loss = F.cross_entropy(functional_call(model, fast, (task.query,))[:, task.columns], task.query_targets)
    expected = dict(zip(fast, torch.autograd.grad(loss, list(fast.values())), strict=True))
    assert all(torch.allclose(first[name], expected[f"encoder.{name}"]) for name in first)
    assert not all(torch.allclose(first[name], second[name], rtol=1e-3) for name in first)


def test_anil_adapts_the_head_only():
    model, task = small_model().double(), some_task()
    fast = adapted(model, task.support, task.support_targets, task.columns,
                   replace(SETTINGS, order="anil"), 2, outer=False)  # fmt: skip
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, fast[name])}
    assert moved == {"tapped.head.layers.0.weight", "tapped.head.layers.0.bias"}


@pytest.mark.parametrize("order", ["second", "first", "anil"])
def test_the_head_begins_at_zero_and_what_all_images_share_does_not_matter(order):
    """A level that every embedding has would make steps of this size overshoot."""
    model, task, found = small_model().double(), some_task(), []
    settings = replace(SETTINGS, order=order, inner_lr=1.0, inner_steps=5)
    for level, head in ((0.0, 0.0), (50.0, 9.0)):
        with torch.no_grad():
            model.head.layers[0].weight.add_(head)
        model.head.pool = nn.Sequential(average_pool(), Raised(level))
        found.append(query_loss(model, task, settings).item())
    assert found[0] == pytest.approx(found[1], abs=1e-9)
    assert query_loss(model, task, replace(settings, inner_steps=0)).item() == pytest.approx(np.log(2))


class Raised(nn.Module):
    def __init__(self, level):
        super().__init__()
        self.level = level

    def forward(self, embeddings):
        return embeddings + self.level


def test_adaptation_to_many_images_is_that_to_all_at_once(monkeypatch):
    for labels in (np.arange(10) % 2, np.array([[0, 1], [1, NAN]] * 5)):
        model = small_model()
        found = []
        for chunk in (64, 3):
            monkeypatch.setattr("trainer.maml._CHUNK", chunk)
            found.append(adapt_to(model, fit_data(labels), IMAGE, SETTINGS, CPU))
        assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])


def fit_data(labels, groups=None, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 3, 6, 6), np.uint8)
    rows = np.arange(len(labels))
    return FitData(images, np.asarray(labels), rows if groups is None else groups, rows, 2, "", len(rows))


def test_permuting_the_images_asked_about_changes_no_prediction():
    model, data = small_model(), fit_data(np.arange(12) % 2)
    weights = adapt_to(model, data, IMAGE, SETTINGS, CPU)
    model.load_state_dict({**model.state_dict(), **weights})
    asked = np.random.default_rng(5).integers(0, 256, (30, 3, 6, 6), np.uint8)
    order = np.random.default_rng(6).permutation(30)
    together = predict_logits(model, asked, IMAGE, CPU)
    assert np.allclose(predict_logits(model, asked[order], IMAGE, CPU), together[order], atol=1e-6)
    alone = np.concatenate([predict_logits(model, asked[i : i + 1], IMAGE, CPU) for i in range(30)])
    assert np.allclose(alone, together, atol=1e-6)
    assert np.ptp(together, axis=0).min() > 1e-4


@pytest.mark.parametrize("name", [spec.name for spec in MODELS.values() if "scratch" in spec.strategies])
def test_meta_learning_goes_with_networks_without_batch_normalisation_alone(name):
    network = MODELS[name].build(2, "phantom", 0)
    normalised = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    assert MODELS[name].batch_normalised == normalised
    for strategy in ("maml", "protonet-meta"):
        assert ("it has batch normalisation" in STRATEGIES[strategy].why_not(MODELS[name])) == normalised
        assert (strategy in strategies_of(MODELS[name])) != normalised


def pool(labels, groups=None, rows=None, name="other"):
    """Images whose brightness is their row, so that a task tells what it was made of."""
    count = len(labels)
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 3, 6, 6))
    everything = np.arange(count)
    return Pool(
        name, images, np.asarray(labels), everything if groups is None else groups, everything if rows is None else rows
    )


def rows_of(images):
    return torch.round((images[:, 0, 0, 0] * 0.5 + 0.5) * 255).long().numpy()


def test_support_and_query_share_no_patient_and_labels_are_true():
    labels, groups = np.arange(90) % 3, np.arange(90) // 5
    usable = np.arange(5, 80)
    tasks = Tasks([pool(labels, groups, usable)], Draw(2, False, 3, 4), IMAGE, CPU)
    random, columns, classes = np.random.default_rng(0), set(), set()
    for _ in range(100):
        task = tasks.next(random)
        support, query = rows_of(task.support), rows_of(task.query)
        assert not set(groups[support]) & set(groups[query])
        assert set(support) | set(query) <= set(usable)
        assert np.bincount(task.support_targets).tolist() == [3, 3]
        assert set(np.bincount(task.query_targets)) <= {1, 2, 3, 4}
        of = {int(t): set(labels[support[task.support_targets.numpy() == t]]) for t in (0, 1)}
        assert [len(found) for found in of.values()] == [1, 1]
        assert of[0] != of[1]
        for t in (0, 1):
            assert set(labels[query[task.query_targets.numpy() == t]]) == of[t]
        columns.add(tuple(task.columns.tolist()))
        classes.add(frozenset(of[0] | of[1]))
    assert columns == {(0, 1), (1, 0)}
    assert len(classes) == 3


def test_tasks_of_findings_leave_the_rest_unknown():
    random = np.random.default_rng(0)
    labels = (random.random((200, 3)) < 0.3).astype(float)
    labels[random.random(labels.shape) < 0.1] = NAN
    groups = np.arange(200) // 2
    tasks = Tasks([pool(labels, groups)], Draw(2, True, 3, 3), IMAGE, CPU)
    wide = Tasks([pool(labels[:, :1], groups)], Draw(4, True, 3, 3), IMAGE, CPU)
    for _ in range(40):
        task = tasks.next(random)
        support, query = rows_of(task.support), rows_of(task.query)
        assert task.columns is None
        assert not set(groups[support]) & set(groups[query])
        match = [
            [np.array_equal(labels[support, f], column, equal_nan=True) for f in range(3)]
            for column in task.support_targets.numpy().T
        ]
        assert all(any(row) for row in match)
        assert ((task.support_targets > 0.5).sum(0) >= 3).all()
        assert ((task.support_targets == 0).sum(0) >= 3).all()
        known = ~wide.next(random).support_targets.isnan()
        assert known.any(dim=0).sum() == 1


def test_a_finding_is_a_task_of_two_classes():
    labels = np.array([[0, 1], [1, NAN], [0, 0], [1, 1]] * 10)
    tasks = Tasks([pool(labels)], Draw(2, False, 2, 2), IMAGE, CPU)
    random = np.random.default_rng(0)
    for _ in range(20):
        task = tasks.next(random)
        rows, side = rows_of(task.support), task.support_targets.numpy()
        assert any(set(labels[rows[side == 0], f]) == {1} and set(labels[rows[side == 1], f]) == {0} for f in (0, 1))
    with pytest.raises(BadRequest, match="No task can be drawn from other"):
        Tasks([pool(labels)], Draw(3, False, 2, 2), IMAGE, CPU)


def test_too_few_patients_are_refused():
    with pytest.raises(BadRequest, match="more than 5 patients"):
        Tasks([pool(np.arange(20) % 2, np.arange(20) // 4)], Draw(2, False, 5, 5), IMAGE, CPU)
    shared = Tasks([pool(np.arange(60) % 6, np.arange(60) // 6)], Draw(6, False, 9, 1), IMAGE, CPU)
    with pytest.raises(BadRequest, match="Lower --shots"):
        shared.next(np.random.default_rng(0))


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
def test_what_was_learnt_from_other_tasks_helps_with_a_new_one(strategy, options):
    train, test = Places(list(range(6))), Places([6, 8])
    settings = replace(
        STRATEGIES[strategy].settings, episodes=160, tasks=4, shots=1, queries=5, outer_lr=0.01, inner_lr=0.3,
        inner_steps=2, **options,
    )  # fmt: skip
    row = STRATEGIES[strategy]
    rows, draw = np.arange(len(train.labels)), Draw(2, False, 1, 5)
    tasks = Tasks([Pool("places", train.images, train.labels, rows, rows)], draw, IMAGE, CPU)
    model = spatial_model()

    def loss_on_new_tasks():
        new = np.arange(len(test.labels))
        asked = Tasks([Pool("new", test.images, test.labels, new, new)], draw, IMAGE, CPU)
        random = np.random.default_rng(3)
        return np.mean([row.query_loss(model, asked.next(random), settings).item() for _ in range(10)])

    before = loss_on_new_tasks()
    history = learn_from(model, tasks, row.query_loss, settings, 0, CPU)
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
    tasks = Tasks([pool(labels)], Draw(2, False, 2, 2), IMAGE, CPU)
    model = small_model()
    alive, held = [], []

    def watch(done, total):
        if done in (50, 250):
            gc.collect()
            alive.append(sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects()))
            held.append(held_bytes())

    learn_from(model, tasks, query_loss, replace(SETTINGS, episodes=250, tasks=2), 0, CPU, watch)
    assert alive[1] == alive[0]
    assert held[1] - held[0] < 8e6


def test_meta_learning_goes_on_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path))
    tasks = Tasks([pool(np.arange(60) % 3)], Draw(2, False, 2, 2), IMAGE, CPU)

    def learn(name, stop_at=0):
        def stop(done, total):
            if done == stop_at:
                raise KeyboardInterrupt

        model = small_model()
        history = learn_from(model, tasks, query_loss, SETTINGS, 0, CPU, stop, Unfinished(name, CPU))
        return model.state_dict(), history

    whole, history = learn("whole")
    with pytest.raises(KeyboardInterrupt):
        learn("broken", stop_at=4)
    resumed, other = learn("broken")
    assert history == other
    assert len(history) == 4
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_diverging_stops_with_what_to_change_and_keeps_the_last_good_start():
    tasks = Tasks([pool(np.arange(60) % 3)], Draw(2, False, 2, 2), IMAGE, CPU)
    with pytest.raises(NoNumberError, match=r"at step 1, .* Lower --inner-lr"):
        learn_from(small_model(), tasks, query_loss, replace(SETTINGS, inner_lr=1e38), 0, CPU)
    model, calls = small_model(), []

    def breaks(network, task, settings):
        calls.append({name: value.detach().clone() for name, value in network.state_dict().items()})
        return query_loss(network, task, settings) * (torch.nan if len(calls) > 4 else 1)

    with pytest.raises(NoNumberError, match="at step 3"):
        learn_from(model, tasks, breaks, SETTINGS, 0, CPU)  # two tasks a step
    assert all(torch.equal(value, calls[2][name]) for name, value in model.state_dict().items())


def test_a_start_that_diverges_when_it_is_gone_on_with_is_what_it_was_when_it_was_left(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path))
    monkeypatch.setattr("trainer.unfinished._SHARE", float("inf"))
    tasks = Tasks([pool(np.arange(60) % 3)], Draw(2, False, 2, 2), IMAGE, CPU)
    left = small_model()

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_from(left, tasks, query_loss, SETTINGS, 0, CPU, stop, Unfinished("left", CPU))
    model = small_model()
    with pytest.raises(NoNumberError, match="at step 3"):
        learn_from(model, tasks, lambda *asked: query_loss(*asked) * torch.nan, SETTINGS, 0, CPU, None,
                   Unfinished("left", CPU))  # fmt: skip
    assert all(torch.equal(value, left.state_dict()[name]) for name, value in model.state_dict().items())


def test_an_adaptation_that_diverges_keeps_the_start():
    model = small_model()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    spec = type("Spec", (), {"image": IMAGE})
    fitted = fit_maml(model, spec, fit_data(np.arange(8) % 2), replace(SETTINGS, inner_lr=1e38), Context(0, CPU))
    assert "Lower --inner-lr" in fitted.failed
    assert all(torch.equal(start[name], value) for name, value in model.state_dict().items())


def test_prototypes_are_those_of_an_independent_implementation():
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    embeddings = (random.normal(size=(60, 2, 7)) + labels[:, None, None]).astype(np.float32)
    layers = fit_prototypes(embeddings, labels, 3)
    reference = NearestCentroid().fit(embeddings.reshape(-1, 7), np.repeat(labels, 2))
    asked = random.normal(size=(50, 7)).astype(np.float32) + 1
    assert np.array_equal(logits_of(layers, asked).argmax(1), reference.predict(asked))
    distances = ((asked[:, None] - reference.centroids_[None]) ** 2).sum(2)
    gaps = logits_of(layers, asked)[:, 1:] - logits_of(layers, asked)[:, :1]
    ratio = gaps / (distances[:, :1] - distances[:, 1:])
    assert np.allclose(ratio, ratio[0, 0], rtol=1e-2)


def test_prototypes_of_findings_and_of_what_is_missing():
    embeddings = np.array([[[0.0, 0.0]], [[2.0, 0.0]], [[0.0, 4.0]], [[2.0, 4.0]]], np.float32)
    labels = np.array([[0, 1, NAN], [1, 1, NAN], [0, 1, NAN], [1, 1, NAN]])
    layers = fit_prototypes(embeddings, labels, 3)
    logits = logits_of(layers, np.array([[1.0, 9.0], [2.0, 0.0]], np.float32))
    assert logits[0, 0] == pytest.approx(0, abs=1e-6)
    assert logits[1, 0] > 0
    assert logits[:, 1].tolist() == pytest.approx([np.log(4.5 / 0.5)] * 2, rel=1e-5)
    assert logits[:, 2].tolist() == [0, 0]
    one_each = fit_prototypes(embeddings[:2], np.array([0, 1]), 3)  # two classes of one image, one of none
    assert torch.isfinite(torch.cat([p.flatten() for p in one_each.parameters()])).all()


def test_the_episodic_loss_is_that_of_distances_to_means():
    model = small_model(classes=3).double()
    task = some_task(size=6)
    support, query = model.embed(task.support).detach(), model.embed(task.query).detach()
    means = torch.stack([support[task.support_targets == c].mean(0) for c in (0, 1)])
    expected = F.cross_entropy(-(torch.cdist(query, means) ** 2), task.query_targets)
    assert prototype_loss(model, task, SETTINGS).item() == pytest.approx(expected.item())
    task = some_task(findings=True, size=6)
    support, query = model.embed(task.support).detach(), model.embed(task.query).detach()
    expected = []
    for support_labels, query_labels in zip(task.support_targets.T, task.query_targets.T, strict=True):
        near, far = (((query - support[support_labels == side].mean(0)) ** 2).sum(1) for side in (1, 0))
        expected.append(F.binary_cross_entropy_with_logits(far - near, query_labels))
    assert prototype_loss(model, task, SETTINGS).item() == pytest.approx(torch.stack(expected).mean().item())
