"""Registry of explainers, and the heatmap they return.

Methods that run the whole network are in `core.explain.inputs`.

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
        degenerate: whether it is flat and therefore meaningless; never draw such a map.
        note: the method's remark on its own accuracy; "" if none.
        cell: side of a cell of the map before it was enlarged, as a share of the input's side.
    """

    heat: np.ndarray
    peak: float
    target: int
    degenerate: bool
    note: str = ""
    cell: float = 0.0

    def within(self, box: tuple[int, int, int, int]) -> Explanation:
        """Return the part of the heatmap inside a box of left, top, right and bottom: the image without its margin."""
        left, top, right, bottom = box
        heat = self.heat[top:bottom, left:right]
        peak, spread = float(heat.max()), float(heat.max() - heat.min())
        return replace(self, heat=heat, peak=peak, degenerate=spread < FLAT)


class ExplainerInput(NamedTuple):
    """Input of an explainer: a batch, and the classifier that predicted it.

    Attributes:
        model: the classifier, in evaluation mode.
        images: (B, 3, S, S), normalized; volumes have one dimension more.
        features: (B, C, h, w), output of the encoder.
        targets: (B,), class indices.
        progress: called with the share of the work that is done, in (0, 1], by methods that take many passes.
    """

    model: Classifier
    images: torch.Tensor
    features: torch.Tensor
    targets: torch.Tensor
    progress: Callable[[float], None] = lambda share: None


class Attribution(NamedTuple):
    """Output of an explainer.

    Attributes:
        maps: (B, h, w), at least 0.
        notes: one per map, or none.
        places: number of cells per side that the method resolves, if fewer than the maps have; else 0.
    """

    maps: torch.Tensor
    notes: tuple[str, ...] = ()
    places: int = 0


@dataclass(frozen=True)
class Explainer:
    """A row of the registry.

    Attributes:
        name: key in the registry.
        title: display name.
        meaning: one sentence for readers.
        attribute: input -> its attribution, in any resolution.
        caution: what to know before trusting such a map; "" if the meaning says it.
        unsupported: input -> why the model is not supported, or "".
        slow: whether it takes seconds and reports its progress.
    """

    name: str
    title: str
    meaning: str
    attribute: Callable[[ExplainerInput], Attribution]
    caution: str = ""
    unsupported: Callable[[ExplainerInput], str] = lambda inputs: ""
    slow: bool = False


EXPLAINERS: Registry[Explainer] = Registry("explainer")


def explain(explainer: Explainer, inputs: ExplainerInput) -> list[Explanation]:
    """Return heatmaps in the frame of the images. Methods at the tap reuse the encoder pass of the prediction.

    Args:
        explainer: the method; it must support the model.
        inputs: the batch and its classifier.
    """
    attribution = explainer.attribute(inputs._replace(features=inputs.features.detach()))
    maps = attribution.maps.detach()
    mode = "bilinear" if maps.ndim == 3 else "trilinear"
    large = F.interpolate(maps[:, None], size=inputs.images.shape[2:], mode=mode, align_corners=False)[:, 0]
    notes = attribution.notes or ("",) * len(maps)
    cell = 1 / (attribution.places or maps.shape[-1])
    return [
        Explanation(map_, float(map_.max()), target, bool(map_.max() - map_.min() < FLAT), note, cell)
        for map_, target, note in zip(large.cpu().numpy(), inputs.targets.tolist(), notes, strict=True)
    ]


def _grad_cam(inputs: ExplainerInput) -> Attribution:
    from captum.attr import LayerGradCam

    tapped = inputs.model.tapped
    with torch.enable_grad():
        method = LayerGradCam(tapped, tapped.tap)
        heat = method.attribute(inputs.features.requires_grad_(), target=inputs.targets, relu_attributions=True)
    return Attribution(heat.detach()[:, 0])  # (B, h, w), of volumes (B, d, h, w)


EXPLAINERS.add(
    Explainer(
        name="grad-cam",
        title="Grad-CAM",
        meaning="Regions whose features raise the score of the class. Coarse: its resolution is that of the feature "
        "map.",
        attribute=_grad_cam,
    )
)
