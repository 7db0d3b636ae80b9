"""Reliability diagram with its counts, and the calibration error expected by chance.

Intervals of Brier score and calibration error are those of every metric (`bootstrap.bootstrap`). Temperatures are
fitted in `calibration`.

References:
    DeGroot and Fienberg 1983, doi:10.2307/2987588.
    Consistency resampling: Bröcker and Smith 2007, doi:10.1175/WAF993.1.
"""

from dataclasses import dataclass

import numpy as np

from core.errors import BadRequest
from core.metrics.bootstrap import Estimate, wilson
from core.metrics.calibration import BINS, bin_of
from core.metrics.scores import Scores

DIAGRAM_BINS = 10
_SIMULATIONS = 1000


@dataclass(frozen=True)
class Bin:
    """A bin of the reliability diagram.

    Attributes:
        low, high: probability range.
        n: number of images; 0 for an empty bin.
        mean_probability: mean predicted probability; NaN for an empty bin.
        frequency: observed frequency with its Wilson interval, assuming independent images.
    """

    low: float
    high: float
    n: int
    mean_probability: float
    frequency: Estimate


@dataclass(frozen=True)
class ChanceError:
    """Calibration error that perfectly calibrated probabilities would show on the same number of images.

    Attributes:
        mean: mean error over the simulations.
        high: error exceeded in 5% of the simulations.
    """

    mean: float
    high: float


def reliability(scores: Scores) -> list[Bin]:
    """Return the reliability diagram of one run.

    It evaluates the probability of the positive class of a binary task, or of the predicted class of a task with more
    classes.

    Args:
        scores: its predictions; for a multilabel task, of one finding (`known_finding`).
    Raises:
        BadRequest: if there are several findings or no image.
    """
    _check(scores)
    if scores.positive is None:
        predicted, correct = scores.probabilities.max(axis=1), scores.probabilities.argmax(axis=1) == scores.labels
    else:
        predicted, correct = scores.positives()
    number = bin_of(predicted, DIAGRAM_BINS)
    diagram = []
    for index in range(DIAGRAM_BINS):
        members = number == index
        count = int(members.sum())
        mean = float(predicted[members].mean()) if count else float("nan")
        observed = wilson(int(correct[members].sum()), count)
        diagram.append(Bin(index / DIAGRAM_BINS, (index + 1) / DIAGRAM_BINS, count, mean, observed))
    return diagram


def chance_error(scores: Scores) -> ChanceError:
    """Return the top-label calibration error that the number of images alone explains.

    Labels are simulated from the predicted probabilities, which are therefore calibrated by construction. A measured
    error below `high` is no sign of miscalibration.

    Args:
        scores: predictions; for a multilabel task, of one finding.
    Raises:
        BadRequest: if there are several findings or no image.
    """
    _check(scores)
    predicted = scores.probabilities.max(axis=1)
    correct = np.random.default_rng(0).random((_SIMULATIONS, len(predicted))) < predicted
    gap = (correct - predicted) @ np.eye(BINS)[bin_of(predicted, BINS)]  # (simulations, bins)
    errors = np.abs(gap).sum(axis=1) / len(predicted)
    return ChanceError(float(errors.mean()), float(np.percentile(errors, 95)))


def _check(scores: Scores) -> None:
    if scores.multilabel or not len(scores):
        raise BadRequest("Expected images with one class each; choose one of the findings first.")
