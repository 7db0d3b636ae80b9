"""MAML: the outer gradient of every order, and the adaptation to the labeled images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from core.models.classifier import average_pool
from tests.small_tasks import CPU, IMAGE, NAN, SETTINGS, fit_data, small_model, some_task
from trainer.meta_learning.maml import adapt, adapt_to, query_loss
from trainer.training.fit import fit_maml
from trainer.training.settings import FitContext
from trainer.training.training_loop import predict_logits


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
    fast = adapt(model, task.support, task.support_targets, task.columns,
                   SETTINGS, SETTINGS.inner_steps, outer=False)  # fmt: skip
    fast = {name: value.detach().requires_grad_() for name, value in fast.items()}
    loss = F.cross_entropy(functional_call(model, fast, (task.query,))[:, task.columns], task.query_targets)
    expected = dict(zip(fast, torch.autograd.grad(loss, list(fast.values())), strict=True))
    assert all(torch.allclose(first[name], expected[f"encoder.{name}"]) for name in first)
    assert not all(torch.allclose(first[name], second[name], rtol=1e-3) for name in first)


def test_anil_adapts_the_head_only():
    model, task = small_model().double(), some_task()
    fast = adapt(model, task.support, task.support_targets, task.columns,
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
            monkeypatch.setattr("trainer.meta_learning.maml._CHUNK", chunk)
            found.append(adapt_to(model, fit_data(labels), IMAGE, SETTINGS, CPU))
        assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])


def test_permuting_the_query_images_changes_no_prediction():
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


def test_an_adaptation_that_diverges_keeps_the_start():
    model = small_model()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    spec = type("Spec", (), {"image": IMAGE})
    fitted = fit_maml(model, spec, fit_data(np.arange(8) % 2), replace(SETTINGS, inner_lr=1e38), FitContext(0, CPU))
    assert "Lower --inner-lr" in fitted.failed
    assert all(torch.equal(start[name], value) for name, value in model.state_dict().items())
