"""The table of explainers, and the heatmap they give. Methods that ask the whole network are in `core.explain.inputs`.

References:
    Grad-CAM: Selvaraju et al. 2017, arXiv:1610.02391.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from core.models.classifier import Classifier
from core.registry import Registry

FLAT = 1e-8


@dataclass(frozen=True)
class Explanation:
    """A heatmap for one image and one class.

    Attributes:
        heat: (S, S), for volumes (S, S, S), in the frame of the model's input, or the part of it that shows the image;
            float32, at least 0, not scaled.
        peak: its largest value.
        target: index of the class explained.
        degenerate: flat, so that it says nothing; never to be drawn.
        note: what the method says of its own accuracy, for people; "" where it says nothing.
        cell: side of a cell of the map as the method gave it, before it was enlarged, as a share of the input's.
    """

    heat: np.ndarray
    peak: float
    target: int
    degenerate: bool
    note: str = ""
    cell: float = 0.0

    def within(self, box: tuple[int, int, int, int]) -> Explanation:
        """The part of the heatmap inside a box of left, top, right and bottom: the image without its margin."""
        left, top, right, bottom = box
        heat = self.heat[top:bottom, left:right]
        peak, spread = float(heat.max()), float(heat.max() - heat.min())
        return replace(self, heat=heat, peak=peak, degenerate=spread < FLAT)


class Question(NamedTuple):
    """What an explainer is asked about: a batch, and the classifier that answered it.

    Attributes:
        model: in evaluation mode.
        images: (B, 3, S, S), normalised; of volumes with one dimension more.
        features: (B, C, h, w), as the encoder gave them.
        targets: (B,), class indices.
    """

    model: Classifier
    images: torch.Tensor
    features: torch.Tensor
    targets: torch.Tensor


class Heat(NamedTuple):
    """What an explainer answers: (B, h, w) heat, at least 0, a note on each map, or none, and the places a side that
    it tells apart, where they are fewer than the maps'; 0 where they are not.
    """

    maps: torch.Tensor
    notes: tuple[str, ...] = ()
    places: int = 0


def never(_: Question) -> str:
    """Takes every model."""
    return ""


@dataclass(frozen=True)
class Explainer:
    """A row of the table.

    Attributes:
        name: key in the registry.
        title: for people.
        meaning: one sentence for people.
        attribute: a question -> its heat, in any resolution.
        caution: what to know before such a map is believed; "" where the meaning says it.
        refuses: a question -> why the model cannot be explained so, or "".
    """

    name: str
    title: str
    meaning: str
    attribute: Callable[[Question], Heat]
    caution: str = ""
    refuses: Callable[[Question], str] = never


EXPLAINERS: Registry[Explainer] = Registry("explainer")


def explain(explainer: Explainer, asked: Question) -> list[Explanation]:
    """Heatmaps in the frame of the images. Those of the tap share the encoder pass of the prediction.

    Args:
        explainer: the method; it must not refuse the model.
        asked: the batch and its classifier.
    """
    heat = explainer.attribute(asked._replace(features=asked.features.detach()))
    maps = heat.maps.detach()
    mode = "bilinear" if maps.ndim == 3 else "trilinear"
    large = F.interpolate(maps[:, None], size=asked.images.shape[2:], mode=mode, align_corners=False)[:, 0]
    notes = heat.notes or ("",) * len(maps)
    cell = 1 / (heat.places or maps.shape[-1])
    return [
        Explanation(one, float(one.max()), target, bool(one.max() - one.min() < FLAT), note, cell)
        for one, target, note in zip(large.cpu().numpy(), asked.targets.tolist(), notes, strict=True)
    ]


def _grad_cam(asked: Question) -> Heat:
    from captum.attr import LayerGradCam

    tapped = asked.model.tapped
    with torch.enable_grad():
        method = LayerGradCam(tapped, tapped.tap)
        heat = method.attribute(asked.features.requires_grad_(), target=asked.targets, relu_attributions=True)
    return Heat(heat.detach()[:, 0])  # (B, h, w), of volumes (B, d, h, w)


EXPLAINERS.add(
    Explainer(
        name="grad-cam",
        title="Grad-CAM",
        meaning="Places whose features raise the score of the class. Coarse: one cell of the feature map at a time.",
        attribute=_grad_cam,
    )
)
