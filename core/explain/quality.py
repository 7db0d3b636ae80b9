"""How good a heatmap is: does the score follow when its strongest places go, and do two models mean the same places?

Deletion and insertion (Petsiuk, Das and Saenko 2018, arXiv:1806.07421), beside the same with places in random order,
without which neither number says anything. Of Grad-CAM on chest X-rays Saporta et al. 2022
(doi:10.1038/s42256-022-00536-x) found that it localises worse than people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from core.explain.methods import Explanation

STEPS = 10
TOP = 0.2
_SIDE = 256  # larger pictures are made smaller first: no network here sees more
_BLUR = 0.08  # of the side
_PLACES = 8  # a side, of the random order

Ask = Callable[[Sequence[Image.Image]], np.ndarray]


@dataclass(frozen=True)
class Faithfulness:
    """Mean probability of the class explained while places are taken away, or put into a blurred image.

    Attributes:
        deletion: strongest places first; low is good.
        insertion: strongest places first; high is good.
        random_deletion, random_insertion: places in random order, to compare with.
    """

    deletion: float
    insertion: float
    random_deletion: float
    random_insertion: float

    @property
    def words(self) -> str:
        """The scores with what they are compared with, in a sentence."""
        better = (self.deletion < self.random_deletion) + (self.insertion > self.random_insertion)
        verdict = ("no better than random", "better than random in one of the two", "better than random in both")[
            better
        ]
        return (
            f"Deletion {self.deletion:.2f} (random order {self.random_deletion:.2f}, lower is better), insertion "
            f"{self.insertion:.2f} (random order {self.random_insertion:.2f}, higher is better): {verdict}."
        )


def faithfulness(image: Image.Image, explanation: Explanation, ask: Ask, steps: int = STEPS) -> Faithfulness:
    """Deletion and insertion scores of a heatmap.

    Args:
        image: the picture that was explained.
        explanation: its heatmap; not a flat one.
        ask: pictures -> (N, C) probabilities by the model that was explained.
        steps: equal parts in which places come or go.
    """
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))
    blurred = small.filter(ImageFilter.GaussianBlur(_BLUR * max(small.size)))
    own = _resized(explanation.heat, small.size)
    chance = _resized(np.random.default_rng(0).random((_PLACES, _PLACES)), small.size)
    pictures = [
        picture
        for heat in (own, chance)
        for start, end in ((small, blurred), (blurred, small))
        for picture in exchanged(start, end, heat, steps)
    ]
    curves = ask(pictures)[:, explanation.target].reshape(4, steps + 1)
    areas = np.trapezoid(curves, dx=1 / steps, axis=1)
    return Faithfulness(*(float(areas[row]) for row in (0, 1, 2, 3)))


def exchanged(start: Image.Image, end: Image.Image, heat: np.ndarray, steps: int) -> list[Image.Image]:
    """From one picture to another in equal parts, where the heat is highest first; both ends among them."""
    place = np.empty(heat.size)
    place[np.argsort(-heat, axis=None, kind="stable")] = np.arange(heat.size) / heat.size
    rank = place.reshape(heat.shape)
    masks = [Image.fromarray(np.where(rank < step / steps, 255, 0).astype(np.uint8)) for step in range(steps + 1)]
    return [Image.composite(end, start, mask) for mask in masks]


def top_overlap(first: Explanation, second: Explanation) -> float:
    """The share of the strongest fifth of two heatmaps that is common; a fifth by chance.

    Raises:
        ValueError: if one of them is flat and has no strongest fifth.
    """
    if first.degenerate or second.degenerate:
        raise ValueError("Expected two heatmaps that say something, but one is flat.")
    side = max(*first.heat.shape, *second.heat.shape)
    tops = [_top(_resized(one.heat, (side, side))) for one in (first, second)]
    return float((tops[0] & tops[1]).sum() / tops[0].sum())


def _top(heat: np.ndarray) -> np.ndarray:
    chosen = np.zeros(heat.size, bool)
    chosen[np.argsort(-heat, axis=None, kind="stable")[: round(TOP * heat.size)]] = True
    return chosen


def _resized(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
