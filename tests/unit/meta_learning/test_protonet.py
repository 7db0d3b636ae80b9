"""Prototypical networks: prototypes against an independent implementation, and the episodic loss."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch.nn import functional as F

from tests.small_tasks import NAN, SETTINGS, small_model, some_task
from trainer.meta_learning.protonet import fit_prototypes
from trainer.meta_learning.protonet import query_loss as prototype_loss
from trainer.training.heads import logits_of


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
