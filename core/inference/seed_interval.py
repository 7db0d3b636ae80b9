"""Seed-to-seed variability of a prediction.

If weights of several seeds are stored, each predicts the image. If only one seed has weights, the stored test
predictions of the other seeds stand in: those for the test images to which this run gave the most similar probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from core.analysis.comparison import load_part
from core.inference.case import SeedInterval
from core.runs import Run, RunMeta, Store

LIKE = 50  # number of test images with a similar probability
_ENDS = (2.5, 97.5)
_EDGE = 1e-6


@dataclass(frozen=True)
class Lookup:
    """Test predictions of a run and of its other seeds.

    Attributes:
        own: (N,) probabilities of one class.
        others: (S, N) of the other seeds, for the same images.
    """

    own: np.ndarray
    others: np.ndarray


def siblings(store: Store, meta: RunMeta) -> list[Run]:
    """Return the runs that differ from a run only in their seed."""
    return [
        Run(folder, other)
        for folder, other in store.runs.items()
        if other.cell[:-1] == meta.cell[:-1] and other.seed != meta.seed and not other.failed
    ]


def lookup(run: Run, others: Sequence[Run], target: int) -> Lookup:
    """Return test predictions of one class, for images on which all runs were evaluated.

    Raises:
        CorruptRun: if they cannot be read.
    """
    first = load_part(run)
    place = {name: index for index, name in enumerate(first.ids.tolist())}
    rows = []
    for other in others:
        predictions = load_part(other)
        row = np.full(len(place), np.nan)
        positions = [place.get(name, -1) for name in predictions.ids.tolist()]
        known = np.array(positions) >= 0
        row[np.array(positions)[known]] = predictions.scores.probabilities[known, target]
        rows.append(row)
    table = np.array(rows).reshape(len(rows), len(place))
    common = ~np.isnan(table).any(axis=0)
    return Lookup(first.scores.probabilities[common, target], table[:, common])


def from_lookup(found: Lookup, probability: float) -> SeedInterval | str:
    """Return the interval of other seeds' predictions for similar test images, or why there is none."""
    seeds, images = found.others.shape
    if not seeds:
        return "Only one seed was trained, so seed-to-seed variability is unknown."
    if not images:
        return "The other seeds were evaluated on other images, so seed-to-seed variability is unknown."
    distance = np.abs(_logit(found.own) - _logit(np.array(probability)))
    similar = np.argsort(distance, kind="stable")[:LIKE]
    low, high = np.percentile(found.others[:, similar], _ENDS)
    how = (
        f"Only this seed's weights are stored, so the other {seeds} could not predict this image. The interval "
        f"contains 95% of their predictions for the {len(similar)} test images to which this run gave a similar "
        "probability."
    )
    return SeedInterval(float(low), float(high), seeds + 1, asked=False, how=how)


def from_answers(probabilities: Sequence[float]) -> SeedInterval:
    """Return the range of several seeds' predictions for this image."""
    low, high, count = min(probabilities), max(probabilities), len(probabilities)
    mean = float(np.mean(probabilities))
    how = f"Lowest and highest prediction of {count} seeds for this image; their mean is {mean:.1%}."
    return SeedInterval(low, high, count, asked=True, how=how)


def _logit(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(probabilities, _EDGE, 1 - _EDGE)))
