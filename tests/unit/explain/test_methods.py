"""Heatmaps, against hand-computed values and captum."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from core.explain import EXPLAINERS, ExplainerInput, Explanation, explain
from core.explain.inputs import activations, by_places, mean_image, window_of
from core.explain.overlay import overlay
from core.models.classifier import Classifier, Head, average_pool
from tests.random_weights import RUN, build, example


def tiny():
    """Two channels pooled and weighed: class 0 gets 2 a - b, class 1 the opposite."""
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, -1.0], [-2.0, 1.0]]))
    return Classifier(nn.Identity(), Head(average_pool(), layer)).eval()


class Staged(nn.Sequential):
    """An encoder whose first layer is its earlier stage."""

    finer = property(lambda self: self[0])


def ask(model, images, *targets):
    """The input of an explainer for one class of each image."""
    with torch.no_grad():
        return ExplainerInput(model, images, model.encoder(images), torch.tensor(targets))


def test_grad_cam_by_hand():
    features = torch.tensor([[[[1.0, 0.0], [0.0, 3.0]], [[4.0, 0.0], [2.0, 0.0]]]])  # (1, 2, 2, 2)
    # channel weights are the mean gradients, w / 4: class 0 gives relu(0.5 a - 0.25 b), class 1 the opposite
    maps = [EXPLAINERS["grad-cam"].attribute(ask(tiny(), features.clone(), target)).maps[0] for target in (0, 1)]
    assert torch.allclose(maps[0], torch.tensor([[0.0, 0.0], [0.0, 1.5]]))
    assert torch.allclose(maps[1], torch.tensor([[0.5, 0.0], [0.5, 0.0]]))


@pytest.mark.parametrize("name", RUN)
def test_every_model_gives_a_map_from_one_encoder_pass(name, weights):
    """An untrained head may find no positive evidence for any class, so several draws are looked at."""
    torch.manual_seed(0)
    maps, passes = [], []
    model = build(name, 2).eval().requires_grad_(False)
    model.encoder.register_forward_hook(lambda *_: passes.append(1))
    asked = ask(model, example(name), 0, 0)
    for _ in range(4):
        for layer in model.head.layers.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        both = [explain(EXPLAINERS["grad-cam"], asked._replace(targets=torch.tensor([t, t]))) for t in (0, 1)]
        maps += [one for found in both for one in found]
        assert not np.allclose(both[0][0].heat, both[1][0].heat) or both[0][0].degenerate
    assert len(passes) == 1
    assert all(one.heat.shape == asked.images.shape[2:] and one.heat.min() >= 0 for one in maps)
    assert not all(one.degenerate for one in maps)


def test_a_flat_map_is_degenerate_and_not_painted():
    features = torch.zeros(1, 2, 4, 4)
    flat = explain(EXPLAINERS["grad-cam"], ask(tiny(), features, 0))[0]
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


def network(name, classes=2, side=64):
    """A model of the table with a head that was drawn, and two images."""
    torch.manual_seed(0)
    model = build(name, classes).eval().requires_grad_(False)
    for layer in model.head.layers.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return model, torch.randn(2, 3, side, side)


@pytest.mark.parametrize("name", ["scratch-cnn", "imagenet-efficientnet-lite0"])
def test_occlusion_is_captums(name):
    from captum.attr import Occlusion

    model, images = network(name)
    shape, strides = window_of(images)
    assert shape == (3, 13, 13)
    wanted = Occlusion(model).attribute(images, shape, strides, mean_image(images), target=torch.tensor([1, 0]))
    found = EXPLAINERS["occlusion"].attribute(ask(model, images, 1, 0)).maps
    assert torch.allclose(found, wanted[:, 1].clamp(min=0), atol=1e-5)


def test_occlusion_by_hand():
    """A mean over places times 2: hiding a window costs twice what it holds above the image's mean."""
    images = torch.zeros(1, 2, 12, 12)
    images[0, 0, 4:6, 8:10] = 9.0
    heat = EXPLAINERS["occlusion"].attribute(ask(tiny(), images, 0)).maps[0]
    held, mean = (4 + 2 + 2 + 1) / 4, 9 * 4 / 144  # four windows of 2 x 2 cover the pixel; the image's mean
    assert heat[4, 8] == pytest.approx(2 * (9 * held - 4 * mean) / 144)
    assert torch.allclose(heat[4:6, 8:10], heat[4, 8])
    assert (heat < heat[4, 8] - 1e-3).sum() == 140
    assert heat[:2].max() == 0


@pytest.mark.parametrize("name", ["scratch-cnn", "imagenet-efficientnet-lite0"])
def test_integrated_gradients_equal_captums_and_report_their_completeness(name):
    from captum.attr import IntegratedGradients

    model, images = network(name)
    wanted, off = IntegratedGradients(model).attribute(
        images, mean_image(images), target=torch.tensor([1, 0]), n_steps=20, return_convergence_delta=True
    )
    found = EXPLAINERS["integrated-gradients"].attribute(ask(model, images, 1, 0))
    places = by_places(wanted.sum(dim=1))
    assert places.shape == (2, 28, 28)
    assert torch.allclose(found.maps, places.clamp(min=0), atol=1e-5)
    rise = (model(images) - model(mean_image(images)))[[0, 1], [1, 0]].detach()
    assert torch.allclose(wanted.sum(dim=(1, 2, 3)) - rise, off, atol=1e-4)
    assert f"the score rose by {rise[0]:+.2f}" in found.notes[0]


@pytest.mark.parametrize("name", [name for name in EXPLAINERS if EXPLAINERS[name].slow])
def test_slow_methods_report_their_progress_to_the_end(name):
    model, images = network("scratch-resnet18", side=64)
    shares = []
    EXPLAINERS[name].attribute(ask(model, images, 1, 0)._replace(progress=shares.append))
    assert len(shares) >= 5
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert shares[-2] < 1


def test_hires_cam_is_gradient_times_activation_of_the_earlier_stage():
    model, images = network("scratch-resnet18", side=64)
    kept = []
    handle = model.encoder.network.layer3.register_forward_hook(lambda _, __, out: kept.append(out))
    score = model(images.clone().requires_grad_())[[0, 1], [1, 0]].sum()
    handle.remove()
    (slope,) = torch.autograd.grad(score, kept[0])
    asked = ask(model, images, 1, 0)
    found = EXPLAINERS["hires-cam"].attribute(asked).maps
    assert found.shape == (2, 4, 4)
    assert asked.features.shape[2:] == (2, 2)
    assert torch.allclose(found, (slope * kept[0]).sum(dim=1).clamp(min=0).detach(), atol=1e-6)
    assert [one.cell for one in explain(EXPLAINERS["hires-cam"], asked)] == [1 / 4] * 2


@pytest.mark.parametrize("name", RUN)
def test_every_model_gives_a_finer_map_or_the_reason_why_not(name, weights):
    model = build(name, 2).eval().requires_grad_(False)
    asked = ask(model, example(name), 0, 0)
    if reason := EXPLAINERS["hires-cam"].unsupported(asked):
        assert "no earlier stage" in reason
        return
    maps = EXPLAINERS["hires-cam"].attribute(asked).maps
    assert maps.shape[-1] >= 2 * asked.features.shape[-1] - 1
    assert torch.isfinite(maps).all()
    assert maps.min() >= 0


def test_which_models_have_a_finer_stage(weights):
    have = {name for name in RUN if build(name, 2).finer is not None}
    assert {"imagenet-efficientnet-lite0", "control-random-frozen", "imagenet-resnet18", "scratch-resnet18"} <= have
    assert not {"scratch-cnn", "imagenet-dino-vits16", "medical-medsiglip"} & have


def test_grad_cam_over_shifts_is_the_mean_of_captums_maps_moved_back():
    from captum.attr import LayerGradCam

    model, images = network("scratch-cnn", side=48)
    found = EXPLAINERS["grad-cam-shifted"].attribute(ask(model, images, 1, 0)).maps
    total, count = np.zeros((2, 48, 48)), np.zeros((48, 48))
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="edge")
    for down in (-4, -1, 1, 4):
        for right in (-4, -1, 1, 4):
            moved = torch.from_numpy(padded[:, :, 4 + down : 52 + down, 4 + right : 52 + right].copy())
            heat = LayerGradCam(model, model.tap).attribute(moved, target=torch.tensor([1, 0]), relu_attributions=True)
            large = nn.functional.interpolate(heat, size=(48, 48), mode="bilinear").detach().numpy()[:, 0]
            for row in range(48):
                for column in range(48):
                    if 0 <= row - down < 48 and 0 <= column - right < 48:
                        total[:, row, column] += large[:, row - down, column - right]
                        count[row, column] += 1
    assert np.allclose(found.numpy(), total / count, atol=1e-5)


def test_over_shifts_a_cell_stays_as_large_and_what_refuses_one_image_refuses_sixteen():
    model, images = network("scratch-resnet18", side=64)
    asked = ask(model, images, 1, 0)
    for name, places in (("grad-cam", 2), ("hires-cam", 4)):
        maps = explain(EXPLAINERS[f"{name}-shifted"], asked)
        assert [one.cell for one in maps] == [1 / places] * 2
        assert maps[0].heat.shape == (64, 64)
    model, images = network("scratch-cnn", side=48)
    assert "no earlier stage" in EXPLAINERS["hires-cam-shifted"].unsupported(ask(model, images, 1, 0))


@pytest.mark.parametrize("name", ["scratch-cnn", "scratch-resnet18", "scratch-densenet121", "scratch-groupnorm-cnn"])
def test_guided_grad_cam_is_captums_where_every_activation_is_a_relu_layer(name):
    from captum.attr import GuidedGradCam

    model, images = network(name)
    asked = ask(model, images, 1, 0)
    assert EXPLAINERS["guided-grad-cam"].unsupported(asked) == ""
    wanted = GuidedGradCam(model, model.tap).attribute(images, target=torch.tensor([1, 0]), interpolate_mode="bilinear")
    found = EXPLAINERS["guided-grad-cam"].attribute(asked).maps
    assert torch.allclose(found, wanted.detach().sum(dim=1).clamp(min=0), atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(model(images), model.tapped(asked.features), atol=1e-5)  # no hook was left behind


class Calls(nn.Module):
    """An encoder that calls an activation as a function."""

    def __init__(self, function):
        super().__init__()
        self.function, self.layer, self.relu = function, nn.Conv2d(3, 2, 3, padding=1), nn.ReLU()

    def forward(self, images):
        return self.function(self.relu(self.layer(images)))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (torch.relu, "outside its layers"),
        (nn.functional.relu, "outside its layers"),
        (nn.functional.gelu, "GELU"),
        (lambda x: x * x.sigmoid(), "sigmoid"),
        (lambda x: x, ""),
    ],
)
def test_functional_activations_are_noticed(function, words):
    model = Classifier(Calls(function), tiny().head).eval()
    reason = EXPLAINERS["guided-grad-cam"].unsupported(ask(model, torch.randn(2, 3, 8, 8), 0, 0))
    assert words in reason
    assert bool(words) == bool(reason)
    assert activations(model, torch.randn(1, 3, 8, 8))[1] == 1


def test_guided_grad_cam_is_refused_for_relu6_with_the_reason():
    model, images = network("imagenet-efficientnet-lite0")
    assert "ReLU6" in EXPLAINERS["guided-grad-cam"].unsupported(ask(model, images, 0, 0))
    assert EXPLAINERS["guided-grad-cam"].caution


@pytest.mark.parametrize("name", EXPLAINERS)
def test_every_explainer_points_at_what_a_known_network_looks_at(name):
    """A network that answers to bright red: its maps peak in the red square."""
    layer = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, 0], layer.weight[1, 1] = 1.0, 1.0
        layer.bias.fill_(-0.5)
    model = Classifier(Staged(layer, nn.ReLU()), tiny().head).eval()
    images = torch.zeros(1, 3, 48, 48)
    images[0, 0, 24:32, 8:16] = 2.0
    found = explain(EXPLAINERS[name], ask(model, images, 0))[0]
    row, column = np.unravel_index(found.heat.argmax(), found.heat.shape)
    assert 24 <= row < 32
    assert 8 <= column < 16
    assert not found.degenerate
    assert explain(EXPLAINERS[name], ask(model, torch.zeros(1, 3, 48, 48), 0))[0].degenerate
