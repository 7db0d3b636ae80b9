"""Quality of heatmaps: faithfulness of one to its model, and agreement of two.

Faithfulness is measured by deletion and insertion (Petsiuk, Das and Saenko 2018, arXiv:1806.07421). Both scores are
reported with those of a random order of regions, because neither is informative alone. On chest X-rays,
Saporta et al. 2022 (doi:10.1038/s42256-022-00536-x) found that Grad-CAM localizes worse than people.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from core.data.images import reduced
from core.explain.methods import Explanation

STEPS = 10
TOP = 0.2
_SIDE = 256  # larger images are reduced first; no network uses a higher resolution
_BLUR = 0.08  # radius as a share of the longer side
_PLACES = 8  # cells per side of the random order

Predict = Callable[[Sequence[Image.Image]], np.ndarray]


@dataclass(frozen=True)
class Faithfulness:
    """Mean probability of the explained class while regions are deleted, or inserted into a blurred image.

    Attributes:
        deletion: strongest regions first; low is good.
        insertion: strongest regions first; high is good.
        random_deletion, random_insertion: regions in random order, for comparison.
    """

    deletion: float
    insertion: float
    random_deletion: float
    random_insertion: float

    @property
    def text(self) -> str:
        """The scores with their random baselines, in a sentence."""
        better = (self.deletion < self.random_deletion) + (self.insertion > self.random_insertion)
        verdicts = "no better than random", "better than random in one of the two", "better than random in both"
        return (
            f"Deletion {self.deletion:.2f} (random order {self.random_deletion:.2f}, lower is better), insertion "
            f"{self.insertion:.2f} (random order {self.random_insertion:.2f}, higher is better): {verdicts[better]}."
        )


def faithfulness(image: Image.Image, explanation: Explanation, predict: Predict, steps: int = STEPS) -> Faithfulness:
    """Compute the deletion and insertion scores of a heatmap.

    Args:
        image: the image that was explained.
        explanation: its heatmap; not a flat one.
        predict: images -> (N, C) probabilities by the model that was explained.
        steps: number of equal parts in which regions are deleted or inserted.
    """
    small = reduced(image, _SIDE)
    blurred = small.filter(ImageFilter.GaussianBlur(_BLUR * max(small.size)))
    own = _resized(explanation.heat, small.size)
    random_heat = _resized(np.random.default_rng(0).random((_PLACES, _PLACES)), small.size)
    frames = [
        frame
        for heat in (own, random_heat)
        for start, end in ((small, blurred), (blurred, small))
        for frame in deletion_frames(start, end, heat, steps)
    ]
    curves = predict(frames)[:, explanation.target].reshape(4, steps + 1)
    return Faithfulness(*np.trapezoid(curves, dx=1 / steps, axis=1).tolist())


def deletion_frames(start: Image.Image, end: Image.Image, heat: np.ndarray, steps: int) -> list[Image.Image]:
    """Return the transition from one image to another in equal parts, highest heat first, including both ends."""
    place = np.empty(heat.size)
    place[np.argsort(-heat, axis=None, kind="stable")] = np.arange(heat.size) / heat.size
    rank = place.reshape(heat.shape)
    masks = [Image.fromarray(np.where(rank < step / steps, 255, 0).astype(np.uint8)) for step in range(steps + 1)]
    return [Image.composite(end, start, mask) for mask in masks]


def top_overlap(first: Explanation, second: Explanation) -> float:
    """Return the overlap of the strongest fifths of two heatmaps as a share; a fifth by chance.

    Raises:
        ValueError: if one of them is flat and has no strongest fifth.
    """
    if first.degenerate or second.degenerate:
        raise ValueError("Expected two heatmaps with a strongest fifth, but one is flat.")
    side = max(*first.heat.shape, *second.heat.shape)
    tops = [_top(_resized(explanation.heat, (side, side))) for explanation in (first, second)]
    return float((tops[0] & tops[1]).sum() / tops[0].sum())


def _top(heat: np.ndarray) -> np.ndarray:
    top = np.zeros(heat.size, bool)
    top[np.argsort(-heat, axis=None, kind="stable")[: round(TOP * heat.size)]] = True
    return top


def _resized(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
