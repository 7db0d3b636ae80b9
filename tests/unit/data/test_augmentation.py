"""Augmentation and normalization: geometry, labels, and repeatability."""

import numpy as np
import pytest
import torch

from core.data.augmentation import AUGMENTATIONS, PRESETS, augmenter
from core.data.datasets.phantom import phantom_at
from core.data.transforms import normalize, to_unit
from core.errors import BadRequest, UnknownName
from core.types import ImageSpec

IMAGES = to_unit(np.stack([phantom_at(index).pixels[None] for index in range(6)]))


def test_scaling_and_normalization():
    assert IMAGES.shape == (6, 1, 192, 192)
    assert 0 <= IMAGES.min() < IMAGES.max() <= 1
    done = normalize(IMAGES, ImageSpec(192, mean=(0.5, 0.4, 0.3), std=(0.5, 0.5, 0.5)))
    assert done.shape == (6, 3, 192, 192)
    assert torch.allclose(done[:, 2], (IMAGES[:, 0] - 0.3) / 0.5)


IN_PLACE = [name for name, row in AUGMENTATIONS.items() if not row.mixing]


@pytest.mark.parametrize("name", [*IN_PLACE, *PRESETS, "horizontal-flip+noise"])
def test_a_view_depends_on_its_seed_alone(name):
    apply = augmenter(name).apply
    together = apply(IMAGES, np.arange(6))
    assert together.shape == IMAGES.shape
    assert together.min() >= 0
    assert together.max() <= 1
    assert torch.allclose(apply(IMAGES[4:5], np.array([4]))[0], together[4], atol=1e-6)


@pytest.mark.parametrize("name", IN_PLACE)
def test_every_augmentation_changes_something_and_keeps_the_picture_recognisable(name):
    views = augmenter(name).apply(IMAGES[:1].repeat(16, 1, 1, 1), np.arange(16))
    assert any(not torch.allclose(views[i], IMAGES[0]) for i in range(16))
    assert (views.mean(dim=(1, 2, 3)) - IMAGES[0].mean()).abs().max() < 0.25
    row = AUGMENTATIONS[name]
    assert row.caveat.endswith(".")
    assert row.ranges


@pytest.mark.parametrize("name", [name for name in IN_PLACE if AUGMENTATIONS[name].volumes])
def test_volumes_are_changed_alike_in_all_slices(name):
    picture = torch.rand(4, 1, 24, 24)
    volume = picture[:, :, None].repeat(1, 1, 5, 1, 1)
    changed = augmenter(name).apply(volume, np.arange(4))
    assert changed.shape == volume.shape
    if name != "noise":
        assert torch.allclose(changed, changed[:, :, :1].expand_as(changed), atol=1e-5)
        assert torch.allclose(changed[:, :, 0], augmenter(name).apply(picture, np.arange(4)), atol=1e-5)


def test_geometric_augmentations_are_one_warp_by_the_stated_amount():
    image = torch.rand(1, 1, 32, 32)
    for name, expected in (("horizontal-flip", image.flip(-1)), ("vertical-flip", image.flip(-2))):
        views = augmenter(name).apply(image.repeat(20, 1, 1, 1), np.arange(20))
        flipped = [torch.allclose(view, expected[0], atol=1e-5) for view in views]
        kept = [torch.allclose(view, image[0], atol=1e-5) for view in views]
        assert all(a != b for a, b in zip(flipped, kept, strict=True))
        assert 3 < sum(flipped) < 17


@pytest.mark.parametrize("name", [name for name, row in AUGMENTATIONS.items() if row.mixing])
def test_mixing_mixes_targets_as_it_mixes_images(name):
    images = torch.stack([torch.full((1, 16, 16), float(label)) for label in (0, 1) for _ in range(8)])
    targets = torch.eye(2)[[0] * 8 + [1] * 8]
    mixed, wanted = augmenter(name).mix(images, targets, np.random.default_rng(3))
    assert torch.allclose(wanted.sum(1), torch.ones(16))
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), wanted[:, 1], atol=1e-5)
    assert ((wanted > 0) & (wanted < 1)).any()


def test_recipes_are_joined_by_name_and_nothing_is_named_twice():
    assert [row.name for row in augmenter("horizontal-flip+noise").rows] == ["horizontal-flip", "noise"]
    assert augmenter("none").rows == ()
    with pytest.raises(BadRequest, match="noise is named twice"):
        augmenter("aggressive+noise")
    with pytest.raises(UnknownName, match="Did you mean 'noise'"):
        augmenter("nois")


def test_aggressive_views_differ():
    views = augmenter("aggressive").apply(IMAGES[:1].repeat(8, 1, 1, 1), np.arange(8))
    assert all(not torch.allclose(views[i], views[j]) for i in range(8) for j in range(i))


def test_color_is_kept():
    color = torch.rand(2, 3, 64, 64)
    assert augmenter("aggressive").apply(color, np.arange(2)).shape == (2, 3, 64, 64)
