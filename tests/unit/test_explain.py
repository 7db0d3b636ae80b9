import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from core.explain import EXPLAINERS, Explanation
from core.explain.methods import explain
from core.explain.overlay import overlay
from core.models import MODELS
from core.models.classifier import Classifier, Head, average_pool
from tests.checkpoints import RUN, build, example


def tiny():
    """Two channels pooled and weighed: class 0 gets 2 a - b, class 1 the opposite."""
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, -1.0], [-2.0, 1.0]]))
    return Classifier(nn.Identity(), Head(average_pool(), layer)).eval()


def test_grad_cam_by_hand():
    features = torch.tensor([[[[1.0, 0.0], [0.0, 3.0]], [[4.0, 0.0], [2.0, 0.0]]]])  # (1, 2, 2, 2)
    # channel weights are the mean gradients, w / 4: class 0 gives relu(0.5 a - 0.25 b), class 1 the opposite
    maps = [
        EXPLAINERS["grad-cam"].attribute(tiny().tapped, features.clone(), torch.tensor([target]))[0]
        for target in (0, 1)
    ]
    assert torch.allclose(maps[0], torch.tensor([[0.0, 0.0], [0.0, 1.5]]))
    assert torch.allclose(maps[1], torch.tensor([[0.5, 0.0], [0.5, 0.0]]))


@pytest.mark.parametrize("name", RUN)
def test_every_model_gives_a_map_from_one_encoder_pass(name, weights):
    """An untrained head may find no positive evidence for any class, so several draws are looked at."""
    torch.manual_seed(0)
    maps, passes = [], []
    model = build(name, 2).eval().requires_grad_(False)
    model.encoder.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        features = model.encoder(example(name))
    for _ in range(4):
        for layer in model.head.layers.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        both = [explain(EXPLAINERS["grad-cam"], model.tapped, features, torch.tensor([t, t]), 96) for t in (0, 1)]
        maps += [one for found in both for one in found]
        assert not np.allclose(both[0][0].heat, both[1][0].heat) or both[0][0].degenerate
    assert len(passes) == 1
    assert all(one.heat.shape == (96,) * MODELS[name].image.dims and one.heat.min() >= 0 for one in maps)
    assert not all(one.degenerate for one in maps)


def test_a_flat_map_is_degenerate_and_not_painted():
    features = torch.zeros(1, 2, 4, 4)
    flat = explain(EXPLAINERS["grad-cam"], tiny().tapped, features, torch.tensor([0]), 32)[0]
    assert flat.degenerate
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8))
    assert np.array_equal(np.asarray(overlay(image, flat, 1.0)), np.asarray(image.convert("RGB")))


def test_a_heatmap_of_a_volume_is_not_painted_over_an_image():
    with pytest.raises(ValueError, match="one of a volume"):
        overlay(Image.new("L", (32, 32)), Explanation(np.ones((8, 8, 8), np.float32), 1.0, 1, False), 0.5)


def test_the_overlay_is_strongest_where_the_map_is():
    heat = np.zeros((32, 32), np.float32)
    heat[4:8, 20:24] = 2.0
    image = Image.new("L", (320, 160), 128)
    painted = np.asarray(overlay(image, Explanation(heat, 2.0, 1, False), 0.8)).astype(int)
    change = np.abs(painted - 128).sum(axis=2)
    assert painted.shape == (160, 320, 3)
    assert change[20:40, 200:240].mean() > 50
    assert change[100:, :100].max() == 0
    plain = np.asarray(overlay(image, Explanation(heat, 2.0, 1, False), 0.0))
    assert np.array_equal(plain, np.asarray(image.convert("RGB")))
