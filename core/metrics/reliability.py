"""Reliability diagram with its counts, and the calibration error expected by chance.

Intervals of Brier score and calibration error are those of every metric (`bootstrap.bootstrap`). Temperatures are
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
    """A bin of the reliability diagram.

    Attributes:
        low, high: probability range.
        n: number of images; 0 for an empty bin.
        stated: mean predicted probability; NaN for an empty bin.
        happened: observed frequency with its Wilson interval, assuming independent images.
    """

    low: float
    high: float
    n: int
    stated: float
    happened: Estimate


@dataclass(frozen=True)
class ChanceError:
    """Calibration error that perfectly calibrated probabilities would show on the same number of images.

    Attributes:
        mean: over simulated labels.
        high: exceeded in 5% of them.
    """

    mean: float
    high: float


def reliability(scores: Scores, target: int | None = None, bins: int = DIAGRAM_BINS) -> list[Bin]:
    """Return the reliability diagram of one run.

    Args:
        scores: its predictions; for a multilabel task, of one finding (`known_finding`).
        target: class whose probability is evaluated; None evaluates the positive class of a binary task, and the
            probability of the predicted class of a task with more classes.
        bins: number of equal-width probability bins.
    Raises:
        BadRequest: if there are several findings or no image.
    """
    stated, happened = _probability_and_outcome(scores, target)
    number = bin_of(stated, bins)
    diagram = []
    for index in range(bins):
        members = number == index
        count = int(members.sum())
        mean = float(stated[members].mean()) if count else float("nan")
        diagram.append(Bin(index / bins, (index + 1) / bins, count, mean, wilson(int(happened[members].sum()), count)))
    return diagram


def chance_error(scores: Scores, bins: int = BINS, draws: int = 1000, seed: int = 0) -> ChanceError:
    """Return the top-label calibration error that the number of images alone explains.

    Labels are simulated from the predicted probabilities, which are therefore calibrated by construction. A measured
    error below `high` is no sign of miscalibration.

    Args:
        scores: predictions; for a multilabel task, of one finding.
        bins: as for the measured error.
        draws: number of simulations.
        seed: of the simulations.
    Raises:
        BadRequest: if there are several findings or no image.
    """
    if scores.multilabel or not len(scores):
        raise BadRequest("Expected images with one class each; choose one of the findings first.")
    stated = scores.probabilities.max(axis=1)
    happened = np.random.default_rng(seed).random((draws, len(stated))) < stated
    gap = (happened - stated) @ np.eye(bins)[bin_of(stated, bins)]  # (draws, bins)
    errors = np.abs(gap).sum(axis=1) / len(stated)
    return ChanceError(float(errors.mean()), float(np.percentile(errors, 95)))


def _probability_and_outcome(scores: Scores, target: int | None) -> tuple[np.ndarray, np.ndarray]:
    if scores.multilabel or not len(scores):
        raise BadRequest("Expected images with one class each; choose one of the findings first.")
    if target is None and scores.positive is None:
        return scores.probabilities.max(axis=1), scores.probabilities.argmax(axis=1) == scores.labels
    chosen = scores.positive if target is None else target
    return scores.probabilities[:, chosen], scores.labels == chosen
