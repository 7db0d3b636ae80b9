"""The ONNX engine gives the same embeddings as PyTorch's forward pass."""

import logging

import numpy as np
import pytest
import torch

from core.models import MODELS, onnx_engine
from core.models.onnx_engine import TOLERANCE, difference, embed_eagerly, embedder
from tests.random_weights import RUN, build, example
from trainer.training.embedding_cache import EmbeddingCache

CPU = torch.device("cpu")
NAME = "imagenet-efficientnet-lite0"


@pytest.fixture(autouse=True)
def no_graphs(caplog):
    """Begins and ends without built graphs, which hold networks."""
    caplog.set_level(logging.INFO, "lowshot.engine")
    onnx_engine._graph.cache_clear()
    yield
    onnx_engine._graph.cache_clear()


@pytest.mark.parametrize("name", [name for name in RUN if MODELS[name].image.dims == 2])
def test_embeddings_equal_pytorchs(name, weights, caplog, monkeypatch):
    """Networks with batch normalization are computed by ONNX Runtime, others by PyTorch."""
    sessions, original = [], onnx_engine._session
    monkeypatch.setattr(onnx_engine, "_session", lambda *given: sessions.append(1) or original(*given))
    model, images = build(name), example(name, 5)
    found = embedder(model, name, CPU)(images)
    wanted = embed_eagerly(model, images, CPU)
    assert (found.dtype, found.shape) == (np.float32, wanted.shape)
    assert wanted.std() > 0
    assert difference(found, wanted) < TOLERANCE
    assert bool(sessions) == any(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.encoder.modules())
    assert not [record for record in caplog.records if record.name == "lowshot.engine"]


def test_batches_of_any_size_give_the_same_embeddings():
    embed, images = embedder(build(NAME), "key", CPU), example(NAME, 7)
    whole = embed(images)
    assert np.allclose(whole, np.concatenate([embed(part) for part in images.split([1, 4, 2])]), atol=1e-5)


def test_a_graph_is_built_once_for_the_same_weights_and_anew_for_others():
    first, same, other = (build("control-random-frozen", 2, seed) for seed in (0, 0, 1))
    images = example(NAME)
    embeddings = [embedder(model, key, CPU)(images) for model, key in ((first, "a"), (same, "a"), (other, "b"))]
    assert onnx_engine._graph.cache_info().misses == 2
    assert np.array_equal(embeddings[0], embeddings[1])
    assert difference(embeddings[2], embeddings[0]) > 0.01


def test_volumes_are_left_to_pytorch():
    model, volumes = build("scratch-resnet18-3d"), example("scratch-resnet18-3d")
    assert np.array_equal(embedder(model, "key", CPU)(volumes), embed_eagerly(model, volumes, CPU))
    assert onnx_engine._graph.cache_info().misses == 0


def test_a_graph_that_differs_is_not_used(monkeypatch, caplog):
    monkeypatch.setattr(onnx_engine, "_session", lambda *_: lambda images: np.ones((len(images), 1280), np.float32))
    model, images = build(NAME), example(NAME)
    assert np.array_equal(embedder(model, "key", CPU)(images), embed_eagerly(model, images, CPU))
    assert "differ by" in caplog.text


def test_a_very_large_network_is_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(onnx_engine, "_LARGEST", 10_000_000)
    monkeypatch.setattr(onnx_engine, "_exported", lambda *_: pytest.fail("a graph was built"))
    model, images = build(NAME), example(NAME)
    assert np.array_equal(embedder(model, "key", CPU)(images), embed_eagerly(model, images, CPU))


@pytest.mark.parametrize("engine_first", [True, False])
def test_a_cache_may_hold_embeddings_of_both(engine_first, monkeypatch, tmp_path):
    """Rows computed with and without the engine have one key and agree."""
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 160, 160), dtype=np.uint8)
    rows = np.arange(6)

    def ask(by_engine, which):
        with pytest.MonkeyPatch.context() as patch:
            if not by_engine:
                patch.setattr(onnx_engine, "_graph", lambda _: None)
            cache = EmbeddingCache(build(NAME), MODELS[NAME].image, "set", "", 6, "aggressive", CPU)
            return cache.get(pixels[which], rows[which], 1)

    ask(engine_first, rows[:3])
    mixed = ask(not engine_first, rows)
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "other"))
    alone = ask(not engine_first, rows)
    assert not np.array_equal(mixed, alone)
    assert difference(mixed.reshape(12, -1), alone.reshape(12, -1)) < TOLERANCE
