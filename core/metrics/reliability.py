"""Do stated probabilities come true? The reliability diagram with its counts, and what chance alone would show.

Intervals of Brier score and calibration error are those of every metric (`intervals.bootstrap`); temperatures are
fitted in `calibration`.

References:
    DeGroot and Fienberg 1983, doi:10.2307/2987588.
    Consistency resampling: Bröcker and Smith 2007, doi:10.1175/WAF993.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.errors import BadRequest
from core.metrics.bootstrap import Estimate, wilson
from core.metrics.calibration import BINS, bin_of
from core.metrics.scores import Scores

DIAGRAM_BINS = 10


@dataclass(frozen=True)
class Bin:
    """Images whose stated probability lies in one range.

    Attributes:
        low, high: the range.
        n: images; 0 for an empty bin.
        stated: mean stated probability; NaN for an empty bin.
        happened: share for which it came true, with its Wilson interval, images taken for independent.
    """

    low: float
    high: float
    n: int
    stated: float
    happened: Estimate


@dataclass(frozen=True)
class ChanceError:
    """The calibration error that perfectly calibrated probabilities would show on so many images.

    Attributes:
        mean: over drawn truths.
        high: exceeded in 5% of them.
    """

    mean: float
    high: float


def reliability(scores: Scores, target: int | None = None, bins: int = DIAGRAM_BINS) -> list[Bin]:
    """The reliability diagram of one run.

    Args:
        scores: its predictions; of findings, one finding (`known_finding`).
        target: class whose probability is judged; None judges the positive class of a binary task, and the probability
            of the class decided for where there are more.
        bins: equal-width bins of probability.
    Raises:
        BadRequest: if there are several findings or no image.
    """
    stated, happened = _judged(scores, target)
    number = bin_of(stated, bins)
    found = []
    for index in range(bins):
        here = number == index
        count = int(here.sum())
        mean = float(stated[here].mean()) if count else float("nan")
        found.append(Bin(index / bins, (index + 1) / bins, count, mean, wilson(int(happened[here].sum()), count)))
    return found


def chance_error(scores: Scores, bins: int = BINS, draws: int = 1000, seed: int = 0) -> ChanceError:
    """The top-label calibration error that is due to the number of images alone.

    Truths are drawn from the stated probabilities themselves, so that these are right by construction. A measured error
    below `high` is no sign of miscalibration.

    Args:
        scores: predictions; of findings, one finding.
        bins: as of the measured error.
        draws: of the truth.
        seed: of the draws.
    Raises:
        BadRequest: if there are several findings or no image.
    """
    if scores.multilabel or not len(scores):
        raise BadRequest("Expected images with one class each; of several findings choose one first.")
    stated = scores.probabilities.max(axis=1)
    happened = np.random.default_rng(seed).random((draws, len(stated))) < stated
    gap = (happened - stated) @ np.eye(bins)[bin_of(stated, bins)]  # (draws, bins)
    errors = np.abs(gap).sum(axis=1) / len(stated)
    return ChanceError(float(errors.mean()), float(np.percentile(errors, 95)))


def _judged(scores: Scores, target: int | None) -> tuple[np.ndarray, np.ndarray]:
    if scores.multilabel or not len(scores):
        raise BadRequest("Expected images with one class each; of several findings choose one first.")
    if target is None and scores.positive is None:
        return scores.probabilities.max(axis=1), scores.probabilities.argmax(axis=1) == scores.labels
    chosen = scores.positive if target is None else target
    return scores.probabilities[:, chosen], scores.labels == chosen
