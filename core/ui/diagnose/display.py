"""How the Diagnose page shows images and heatmaps."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image
from streamlit.delta_generator import DeltaGenerator

from core.explain.overlay import overlay
from core.inference import Case, NetworkResult

PREVALENCE, PREVALENCE_KEY = 0.1, "diagnose_prevalence"
_LOSSLESS = 4_000_000  # pixels


@dataclass(frozen=True)
class Display:
    """How images and heatmaps are shown.

    Attributes:
        place: container for the progress of slow heatmaps.
        opacity: opacity of the heatmaps, in [0, 1].
        common_scale: whether the heatmaps of one network share one scale, for comparing images.
        caution: what to know about every prediction of this task; "" for nothing.
        credits: source and license of example images, by digest of the upload.
        scales: heatmap value drawn brightest, by run; the largest of each heatmap where missing.
    """

    place: DeltaGenerator
    opacity: float
    common_scale: bool = False
    caution: str = ""
    credits: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)

    def draw(self, image: Image.Image | None, result: NetworkResult) -> Image.Image:
        """Draw a network's heatmap over the image that it explains, in any size."""
        assert image is not None
        assert result.explanation is not None
        return overlay(image, result.explanation, self.opacity, self.scales.get(result.meta.run))


def scales_of(cases: Sequence[Case]) -> dict[str, float]:
    """Return the largest heatmap peak of each run over the images shown: the scale that its maps share."""
    scales: dict[str, float] = {}
    for case in cases:
        for result in case.results.values():
            if result.heatmap:
                scales[result.meta.run] = max(result.heatmap.peak, scales.get(result.meta.run, 0.0))
    return scales


def data_uri(image: Image.Image) -> str:
    """Return an image as a data URI: PNG, or JPEG for large images, so that pages stay fast."""
    buffer, small = io.BytesIO(), image.width * image.height <= _LOSSLESS
    kind, options = ("png", {"compress_level": 1}) if small else ("jpeg", {"quality": 95})
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
