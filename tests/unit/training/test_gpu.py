"""The GPU: what it computes is what the CPU computes, and a full memory halves the batch.

Tests marked `gpu` run where a CUDA device is found. The others take the same code path on the CPU.
"""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from core.models.classifier import Classifier, Head, average_pool, compute_in_halves, linear_layers, to_device
from core.models.onnx_engine import embed_eagerly
from core.types import ImageSpec
from trainer.progress import sent_to
from trainer.training.settings import FitContext, FitData
from trainer.training.strategies import STRATEGIES
from trainer.training.training_loop import TrainingLoop, images_on_device, predict_logits, train_network

CPU, GPU = torch.device("cpu"), torch.device("cuda")
IMAGE = ImageSpec(32)


class FullAbove(nn.Module):
    """Runs out of memory on batches of more images than fit, as a GPU does."""

    def __init__(self, fits):
        super().__init__()
        self.fits, self.sizes = fits, []

    def forward(self, images):
        if len(images) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(images))
        return images


def network(*before, seed=0):
    torch.manual_seed(seed)
    encoder = nn.Sequential(
        *before, nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(4),
        nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(),
    )  # fmt: skip
    return Classifier(encoder, Head(average_pool(), linear_layers(32, 2)))


def task(count, seed):
    """Images of noise, with a bright square in those of class 1."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = random.integers(0, 200, (count, 3, 32, 32), np.uint8)
    images[labels == 1, :, 8:16, 8:16] += 55
    rows = np.arange(count)
    return FitData(images, labels, rows, rows, 2, "squares", "", count)


def settings_for(steps):
    return replace(
        STRATEGIES["scratch"].settings, epochs=1, min_steps=steps, batch_size=32, lr=3e-3, augment="none", average=0.0
    )


def trained(model, device, steps=60):
    settings = settings_for(steps)
    groups = [{"params": list(model.parameters()), "lr": settings.lr}]
    context = FitContext(0, device, None)
    result = train_network(model, groups, task(64, 0), task(200, 1), IMAGE, settings, context, False)
    return model, result


def test_a_batch_that_does_not_fit_is_computed_in_halves(caplog):
    full, batch = FullAbove(3), torch.arange(10.0)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(compute_in_halves(full, batch), batch)
    assert full.sizes == [3, 2, 3, 2]
    assert "a batch of 10 is computed in two halves" in caplog.text


def test_a_single_input_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        compute_in_halves(FullAbove(0), torch.arange(4.0))


def test_embeddings_and_predictions_survive_a_full_memory():
    images = task(20, 0).images
    whole, tight = network(nn.Identity()), network(FullAbove(3))
    expected = predict_logits(whole, images, IMAGE, CPU)
    np.testing.assert_allclose(predict_logits(tight, images, IMAGE, CPU), expected, atol=1e-5)
    batch = torch.from_numpy(images).float() / 255
    np.testing.assert_allclose(embed_eagerly(tight, batch, CPU), embed_eagerly(whole, batch, CPU), atol=1e-5)


def test_training_goes_on_in_parts_with_gradients_averaged_over_them():
    messages = []
    with sent_to(lambda kind, facts: messages.append((kind, facts))):
        (whole, _), (tight, result) = trained(network(nn.Identity()), CPU, 3), trained(network(FullAbove(9)), CPU, 3)
    assert not result.failed
    assert max(tight.encoder[0].sizes) <= 9
    said = [facts for _, facts in messages if "memory is full" in str(facts)]
    assert len(said) >= 1
    assert "computed in 4 parts" in str(said[-1])
    for expected, parameter in zip(whole.parameters(), tight.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, atol=1e-4, rtol=1e-3)


def test_bfloat16_and_images_on_the_device_train_the_same_network():
    """What a GPU does by default, here on the CPU. Images in another order than their labels change logits by 0.7."""

    def logits_of(**switches):
        model, settings = network(), settings_for(60)
        groups = [{"params": list(model.parameters()), "lr": settings.lr}]
        loop = TrainingLoop(model, groups, task(64, 0), IMAGE, settings, 0, CPU, False, **switches)
        while not loop.is_over:
            loop.train(None)
        return predict_logits(model, task(200, 1).images, IMAGE, CPU)

    plain = logits_of()
    assert plain.std() > 0.3
    np.testing.assert_allclose(logits_of(holds_images=True), plain, atol=1e-4)
    np.testing.assert_allclose(logits_of(in_bfloat16=True, holds_images=True), plain, atol=0.1)
    assert not np.allclose(logits_of(in_bfloat16=True), plain, atol=1e-4)


def test_training_fails_where_not_even_one_image_fits():
    class Tight(FullAbove):
        def forward(self, images):
            return images if not self.training else super().forward(images)

    with pytest.raises(torch.OutOfMemoryError):
        trained(network(Tight(0)), CPU, 3)


@pytest.mark.gpu
def test_gpu_embeddings_are_those_of_the_cpu():
    model, batch = network(), torch.rand(40, 3, 32, 32)
    expected, found = embed_eagerly(model, batch, CPU), embed_eagerly(model, batch, GPU)
    assert np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max()


@pytest.mark.gpu
def test_a_network_learns_the_same_task_on_both_devices():
    accuracies = [trained(network(), device)[1].history[-1]["validation_accuracy"] for device in (CPU, GPU)]
    assert min(accuracies) > 0.9
    assert abs(accuracies[0] - accuracies[1]) < 0.05


@pytest.mark.gpu
def test_training_on_a_gpu_is_repeatable():
    (first, _), (second, _) = trained(network(), GPU), trained(network(), GPU)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


@pytest.mark.gpu
def test_the_images_of_a_subset_stay_on_the_gpu():
    images = task(8, 0).images
    np.testing.assert_array_equal(images_on_device(images, GPU).cpu().numpy(), images)


@pytest.mark.gpu
def test_a_full_gpu_halves_the_batch(caplog):
    model, batch = to_device(network().eval(), GPU), torch.rand(512, 3, 512, 512)
    expected = embed_eagerly(model, batch[:64], GPU)
    torch.cuda.empty_cache()
    room = torch.cuda.memory_allocated() + 3 * 2**30
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    try:
        with caplog.at_level(logging.WARNING):
            found = embed_eagerly(model, batch, GPU)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "computed in two halves" in caplog.text
    np.testing.assert_allclose(found[:64], expected, atol=2e-3)
