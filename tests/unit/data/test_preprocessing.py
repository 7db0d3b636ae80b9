"""Preprocessing steps: what they do to pixels, and that images to predict are prepared as for training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.data.datasets.phantom import phantom_at
from core.data.image_cache import open_bank
from core.data.images import to_array
from core.data.preprocessing import KEEP_ASPECT, PLAIN, PREPROCESSING, preparation
from core.errors import BadRequest, UnknownName
from core.explain.methods import Explanation
from core.inference.predictor import Predictor
from core.metrics.calibration import probabilities_of
from core.runs import read_predictions, read_run
from core.types import ImageSpec
from tests.unit.training.test_run_cell import CPU
from trainer.training.run_cell import run_cell
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell, Settings

RANDOM = np.random.default_rng(0)
WIDE = Image.fromarray(RANDOM.integers(40, 200, (40, 100, 3), dtype=np.uint8))


def test_no_step_is_a_plain_resize():
    assert np.array_equal(PLAIN.image(WIDE, 32, 3), to_array(WIDE, (32, 32), 3))
    assert PLAIN.name == PLAIN.pixel_steps == ""
    assert PLAIN.spec(ImageSpec(32)) == ImageSpec(32)


@pytest.mark.parametrize("name", PREPROCESSING)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_step_gives_a_square_of_bytes(name, channels):
    pixels = preparation(name).image(WIDE, 48, channels)
    assert pixels.shape == (channels, 48, 48)
    assert pixels.dtype == np.uint8
    flat = preparation(name).image(Image.new("L", (20, 30), 7), 48, channels)
    assert flat.max() == 7


def test_names_come_in_one_order_whatever_the_user_writes():
    assert preparation("clahe+keep-aspect").name == preparation("keep-aspect+clahe").name == "keep-aspect+clahe"
    assert preparation("unit-range+clahe").pixel_steps == "clahe"
    with pytest.raises(UnknownName, match="Did you mean 'clahe'"):
        preparation("claeh")
    with pytest.raises(BadRequest, match="two steps that scale"):
        preparation("unit-range+mean-std")


def test_keep_aspect_puts_the_whole_picture_on_black():
    steps = preparation(KEEP_ASPECT)
    assert steps.box(100, 40, 50) == (0, 15, 50, 35)
    pixels = steps.image(WIDE, 50, 3)
    assert pixels[:, :15].max() == pixels[:, 35:].max() == 0
    assert np.array_equal(pixels[:, 15:35], to_array(WIDE, (50, 20), 3))


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(16, 300))
def test_the_box_of_a_kept_ratio_lies_inside_the_square(width, height, size):
    left, top, right, bottom = preparation(KEEP_ASPECT).box(width, height, size)
    assert 0 <= left < right <= size
    assert 0 <= top < bottom <= size
    assert max(right - left, bottom - top) == size


def test_a_heatmap_leaves_the_margin_out():
    heat = np.zeros((50, 50), np.float32)
    heat[0, 0], heat[20, 10] = 9.0, 1.0
    inside = Explanation(heat, 9.0, 1, False).within((0, 15, 50, 35))
    assert inside.heat.shape == (20, 50)
    assert inside.peak == 1.0
    assert not inside.degenerate
    assert Explanation(np.pad(np.ones((2, 2)), 2), 1.0, 0, False).within((2, 2, 4, 4)).degenerate


def test_clahe_and_levels_equal_the_library_on_brightness():
    from skimage.exposure import equalize_adapthist

    gray = np.asarray(WIDE.convert("L").resize((64, 64)))
    found = preparation("clahe").image(Image.fromarray(gray), 64, 1)[0]
    assert np.abs(found - 255 * equalize_adapthist(gray, clip_limit=0.01)).max() <= 0.5
    dull = Image.fromarray((gray // 4 + 90).astype(np.uint8))
    stretched = preparation("brightness-contrast").image(dull, 64, 1)
    assert stretched.min() == 0
    assert stretched.max() == 255


def test_colors_keep_their_hue_and_greyscale_drops_them():
    pixels = np.full((64, 64, 3), 30, np.uint8)
    pixels[..., 0] = RANDOM.integers(90, 250, (64, 64))
    red = Image.fromarray(pixels)
    changed = preparation("brightness-contrast").image(red, 64, 3).astype(int)
    assert (changed[0] >= changed[1] - 2).all()
    gray = preparation("greyscale").image(red, 64, 3)
    assert np.array_equal(gray[0], gray[1])
    assert np.array_equal(gray[1], gray[2])


def test_volumes_keep_their_ratio_and_refuse_what_takes_pictures_only():
    voxels = RANDOM.integers(1, 256, (10, 20, 20), dtype=np.uint8)
    assert preparation(KEEP_ASPECT).volume(voxels, 20)[0, :5].max() == 0
    assert preparation("brightness-contrast").volume(voxels, 16).shape == (1, 16, 16, 16)
    with pytest.raises(BadRequest, match="clahe does not accept volumes"):
        preparation("clahe").volume(voxels, 16)


def test_banks_of_different_preparations_are_kept_apart(few_phantoms):
    listing = few_phantoms.listing
    plain = open_bank(listing, 16, 1).images
    changed = open_bank(listing, 16, 1, preparation=preparation("brightness-contrast")).images
    same = open_bank(listing, 16, 1, preparation=preparation("unit-range")).images
    assert not np.array_equal(plain, changed)
    assert same.filename == plain.filename


@pytest.mark.parametrize("steps", ["clahe+unit-range", "keep-aspect+brightness-contrast"])
@pytest.mark.parametrize(("model", "strategy"), [("scratch-cnn", "scratch"), ("imagenet-efficientnet-lite0", "frozen")])
def test_images_are_prepared_for_prediction_as_for_training(few_phantoms, steps, model, strategy, runs, monkeypatch):
    quick = Settings(epochs=1, min_steps=2, batch_size=8, lr=1e-3, weight_decay=0.0, patience=1, views=1, folds=2)
    monkeypatch.setattr("trainer.training.run_plan.settings_of", lambda *_: quick)
    prepared = plan_run(Cell("phantom", model, strategy, 4, 0), few_phantoms, {"preparation": steps})
    folder, _ = run_cell(prepared, few_phantoms, "all", CPU, runs)
    meta, test = read_run(folder), read_predictions(folder)
    assert meta.variant == f"preparation={preparation(steps).name}"
    assert (meta.mean == (0, 0, 0)) == ("unit-range" in steps)
    images = [Image.fromarray(phantom_at(int(name[-9:-4])).pixels) for name in test.ids]
    found = np.stack([answer.probabilities for answer in Predictor(folder)(images)])
    assert np.allclose(found, probabilities_of(test.logits, meta.temperature), atol=2e-3)
