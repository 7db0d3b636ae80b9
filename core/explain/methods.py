"""The table of explainers, and the heatmap they give.

References:
    Grad-CAM: Selvaraju et al. 2017, arXiv:1610.02391.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from core.models.classifier import TappedHead
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
    """

    heat: np.ndarray
    peak: float
    target: int
    degenerate: bool

    def within(self, box: tuple[int, int, int, int]) -> Explanation:
        """The part of the heatmap inside a box of left, top, right and bottom: the image without its margin."""
        left, top, right, bottom = box
        heat = self.heat[top:bottom, left:right]
        peak, spread = float(heat.max()), float(heat.max() - heat.min())
        return replace(self, heat=heat, peak=peak, degenerate=spread < FLAT)


@dataclass(frozen=True)
class Explainer:
    """A row of the table.

    Attributes:
        name: key in the registry.
        title: for people.
        meaning: one sentence for people.
        attribute: (head behind the tap, (B, C, h, w) features, (B,) targets) -> (B, h, w), at least 0; of volumes
            with one dimension more.
    """

    name: str
    title: str
    meaning: str
    attribute: Callable[[TappedHead, torch.Tensor, torch.Tensor], torch.Tensor]


EXPLAINERS: Registry[Explainer] = Registry("explainer")


def explain(
    explainer: Explainer, tapped: TappedHead, features: torch.Tensor, targets: torch.Tensor, size: int
) -> list[Explanation]:
    """Heatmaps from features already computed, so that prediction and explanation share one encoder pass.

    Args:
        explainer: the method.
        tapped: the classifier behind its encoder, in evaluation mode.
        features: (B, C, h, w), for volumes (B, C, d, h, w), as the encoder gave them.
        targets: (B,), class indices.
        size: side of the model's input in pixels, to which the heatmaps are interpolated.
    """
    heat = explainer.attribute(tapped, features.detach(), targets)
    mode = "bilinear" if heat.ndim == 3 else "trilinear"
    large = F.interpolate(heat[:, None], size=[size] * (heat.ndim - 1), mode=mode, align_corners=False)[:, 0]
    found = []
    for one, target in zip(large.detach().cpu().numpy(), targets.tolist(), strict=True):
        found.append(Explanation(one, float(one.max()), target, degenerate=bool(one.max() - one.min() < FLAT)))
    return found


def _grad_cam(tapped: TappedHead, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    from captum.attr import LayerGradCam

    with torch.enable_grad():
        method = LayerGradCam(tapped, tapped.tap)
        heat = method.attribute(features.requires_grad_(), target=targets, relu_attributions=True)
    return heat.detach()[:, 0]  # (B, h, w), of volumes (B, d, h, w)


EXPLAINERS.add(
    Explainer(
        name="grad-cam",
        title="Grad-CAM",
        meaning="Places whose features raise the score of the class. Coarse: one cell of the feature map at a time.",
        attribute=_grad_cam,
    )
)
