"""One image as a case: the result of the image check, and each family's prediction with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from core.explain import Explanation
from core.explain.quality import Faithfulness
from core.inference.image_check import CheckResult
from core.inference.predictor import Prediction
from core.inference.track_record import Rates
from core.inference.uncertainty import PredictionSet, SeedInterval
from core.runs import RunMeta

if TYPE_CHECKING:
    from core.inference.two_stage import Verdict


@dataclass(frozen=True)
class NetworkResult:
    """The result of one family's network.

    Attributes:
        meta: the run.
        prediction: None if there is none.
        problem: why there is none.
        seed_interval, prediction_set: uncertainty of the prediction, or why it is unknown; "" if not requested.
        track_record: how often the network is right about the condition, or about the target class if there is none;
            empty if not requested or unknown.
        faithfulness: faithfulness of the heatmap, if it was measured.
    """

    meta: RunMeta
    prediction: Prediction | None = None
    problem: str = ""
    seed_interval: SeedInterval | str = ""
    prediction_set: PredictionSet | str = ""
    track_record: Sequence[Rates] = ()
    faithfulness: Faithfulness | None = None

    @property
    def explanation(self) -> Explanation | None:
        """The heatmap, which may be flat; None if there is none."""
        return self.prediction.explanation if self.prediction else None

    @property
    def heatmap(self) -> Explanation | None:
        """The heatmap; None if there is none or it is flat."""
        return None if self.explanation is None or self.explanation.degenerate else self.explanation


@dataclass(frozen=True)
class Case:
    """One image and all results for it.

    Attributes:
        name: name of the upload; shown to the person who uploaded it, and included in a report only on request.
        pixels: SHA-256 of its decoded pixels, which identifies it.
        width, height: size of the decoded image in pixels.
        task: title of the data set.
        synthetic: whether the task's images are generated.
        check: result of the image check; None if the task has none.
        overridden: analyzed although the check rejected it.
        explainer: title of the explainer; "" if no heatmaps were requested.
        results: family -> result.
        verdict: verdict of both stages; None if the task has no stages, or a stage has no prediction.
        overlaps: pairs of families and the share of the strongest fifth of their heatmaps that overlaps.
        thumbnail: a small copy of the image.
        problem: why the file cannot be read as an image; "" if it can.
    """

    name: str
    pixels: str = ""
    width: int = 0
    height: int = 0
    task: str = ""
    synthetic: bool = False
    check: CheckResult | None = None
    overridden: bool = False
    explainer: str = ""
    results: Mapping[str, NetworkResult] = field(default_factory=dict)
    verdict: Verdict | None = None
    overlaps: Mapping[tuple[str, str], float] = field(default_factory=dict)
    thumbnail: Image.Image | None = None
    problem: str = ""

    @property
    def predictions(self) -> list[tuple[RunMeta, Prediction]]:
        """The runs that gave a prediction, each with its prediction."""
        return [(result.meta, result.prediction) for result in self.results.values() if result.prediction is not None]

    @property
    def rejected(self) -> bool:
        """Whether the image check rejected the image."""
        return self.check is not None and not self.check.admitted
