"""Window and level, for display only."""

import numpy as np
from PIL import Image

from core.inference.windowing import FULL_RANGE, Window, is_gray, presets

RAMP = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(4, axis=0))


def test_a_window_is_stretched_from_black_to_white():
    assert np.array_equal(np.asarray(FULL_RANGE.apply(RAMP)), np.asarray(RAMP))
    shown = np.asarray(Window(100, 50).apply(RAMP))[0].astype(int)
    assert shown[:76].max() == 0
    assert abs(shown[100] - 128) <= 1
    assert shown[125:].min() == 255
    assert set(np.asarray(Window(100, 1).apply(RAMP))[0].tolist()) <= {0, 128, 255}


def test_presets_follow_the_gray_levels_of_the_image():
    pixels = np.array([[10] * 50 + [60] * 26 + [200] * 24], np.uint8)
    found = presets(Image.fromarray(pixels))
    assert found["As stored"] == FULL_RANGE
    assert found["Automatic"] == Window(105, 190)
    assert (found["Dark areas"].level, found["Bright areas"].width) == ((10 + 35) // 2, 165)
    assert presets(Image.new("L", (8, 8), 7))["Automatic"] == Window(7, 1)


def test_gray_images_are_recognized_in_any_mode():
    assert is_gray(RAMP)
    assert is_gray(RAMP.convert("RGB"))
    assert not is_gray(Image.new("RGB", (8, 8), "red"))
