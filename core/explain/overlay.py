"""Overlay of a heatmap on the image it explains.

Colors are colorblind-safe and never the only carrier of meaning.
"""

from functools import cache

import numpy as np
from PIL import Image
from plotly.colors import sample_colorscale, unlabel_rgb

from core.explain.methods import Explanation

COLORS = "Inferno"
_FAINTEST = 0.15


@cache
def color_table() -> np.ndarray:
    """Return the (256, 3) uint8 color table, from low to high attribution; a shared, read-only array."""
    steps = sample_colorscale(COLORS, np.linspace(0, 1, 256).tolist())
    table = np.array([unlabel_rgb(step) for step in steps]).round().astype(np.uint8)
    table.setflags(write=False)
    return table


def overlay(image: Image.Image, explanation: Explanation, opacity: float, scale: float | None = None) -> Image.Image:
    """Blend the heatmap into the image; the image shows through where attribution is low.

    Args:
        image: the upright image, in its own size.
        explanation: a heatmap in the frame of the model's square input.
        opacity: opacity of the strongest regions, in [0, 1].
        scale: value drawn in the brightest color; the heatmap's own peak if None.
    Returns:
        an RGB image of the same size; the plain image if the heatmap is degenerate.
    Raises:
        ValueError: if the heatmap is a volume's.
    """
    if explanation.heat.ndim != 2:
        raise ValueError("Expected a heatmap of an image, but got one of a volume. Pass one slice of each.")
    plain = image.convert("RGB")
    if explanation.degenerate:
        return plain
    strength = np.clip(explanation.heat / (scale or explanation.peak), 0, 1)
    heat = Image.fromarray((strength * 255).round().astype(np.uint8)).resize(plain.size, Image.Resampling.BILINEAR)
    level = np.asarray(heat)
    share = np.clip((level / 255 - _FAINTEST) / (1 - _FAINTEST), 0, 1)[..., None] ** 0.5 * opacity
    mixed = np.asarray(plain) * (1 - share) + color_table()[level] * share
    return Image.fromarray(mixed.round().astype(np.uint8))
