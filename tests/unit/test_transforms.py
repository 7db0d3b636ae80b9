import numpy as np
import pytest
import torch

from core.data.phantom import phantom_at
from core.data.transforms import AUGMENTATIONS, normalise, to_unit
from core.types import ImageSpec

IMAGES = to_unit(np.stack([phantom_at(index).pixels[None] for index in range(6)]))


def test_scaling_and_normalisation():
    assert IMAGES.shape == (6, 1, 192, 192)
    assert 0 <= IMAGES.min() < IMAGES.max() <= 1
    done = normalise(IMAGES, ImageSpec(192, mean=(0.5, 0.4, 0.3), std=(0.5, 0.5, 0.5)))
    assert done.shape == (6, 3, 192, 192)
    assert torch.allclose(done[:, 2], (IMAGES[:, 0] - 0.3) / 0.5)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_view_depends_on_its_seed_alone(name):
    apply = AUGMENTATIONS[name].apply
    together = apply(IMAGES, np.arange(6))
    assert together.shape == IMAGES.shape
    assert together.min() >= 0
    assert together.max() <= 1
    assert torch.allclose(apply(IMAGES[4:5], np.array([4]))[0], together[4], atol=1e-6)


def test_aggressive_views_differ_and_keep_the_picture_recognisable():
    views = AUGMENTATIONS["aggressive"].apply(IMAGES[:1].repeat(8, 1, 1, 1), np.arange(8))
    assert all(not torch.allclose(views[i], views[j]) for i in range(8) for j in range(i))
    assert (views.mean(dim=(1, 2, 3)) - IMAGES[0].mean()).abs().max() < 0.2


def test_colour_is_kept():
    colour = torch.rand(2, 3, 64, 64)
    assert AUGMENTATIONS["aggressive"].apply(colour, np.arange(2)).shape == (2, 3, 64, 64)
