"""How much of an answer hangs on the seed: trainings that differ in nothing else, asked or looked up.

Where weights of several seeds are stored they can be asked. Where only one seed's are, the stored test predictions of
the others stand in: what they gave to the test images that this run gave most nearly the same probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from core.analysis.comparison import judged
from core.inference.case import SeedInterval
from core.runs import RunMeta, Store
from core.runs.series import Run

LIKE = 50  # test images of like probability
_ENDS = (2.5, 97.5)
_EDGE = 1e-6


@dataclass(frozen=True)
class Lookup:
    """Test answers of a run beside those of its other seeds.

    Attributes:
        own: (N,) probabilities of one class.
        others: (S, N) of the other seeds, for the same images.
    """

    own: np.ndarray
    others: np.ndarray


def siblings(store: Store, meta: RunMeta) -> list[Run]:
    """Runs that differ from one in their seed alone."""
    return [
        (folder, other)
        for folder, other in store.runs.items()
        if other.cell[:-1] == meta.cell[:-1] and other.seed != meta.seed and not other.failed
    ]


def lookup(run: Run, others: Sequence[Run], target: int) -> Lookup:
    """Test answers about one class, of images that all runs were judged on.

    Raises:
        CorruptRun: if they cannot be read.
    """
    first = judged(run)
    place = {name: index for index, name in enumerate(first.ids.tolist())}
    rows = []
    for other in others:
        found = judged(other)
        row = np.full(len(place), np.nan)
        at = [place.get(name, -1) for name in found.ids.tolist()]
        known = np.array(at) >= 0
        row[np.array(at)[known]] = found.scores.probabilities[known, target]
        rows.append(row)
    table = np.array(rows).reshape(len(rows), len(place))
    common = ~np.isnan(table).any(axis=0)
    return Lookup(first.scores.probabilities[common, target], table[:, common])


def from_lookup(found: Lookup, probability: float) -> SeedInterval | str:
    """The interval that other seeds' answers to like test images span, or why there is none."""
    seeds, images = found.others.shape
    if not seeds:
        return "One seed was trained: how much hangs on it is not known."
    if not images:
        return "The other seeds were judged on other images: how much hangs on the seed is not known."
    distance = np.abs(_logit(found.own) - _logit(np.array(probability)))
    like = np.argsort(distance, kind="stable")[:LIKE]
    low, high = np.percentile(found.others[:, like], _ENDS)
    how = (
        f"Only this seed's weights are stored, so the other {seeds} could not be asked about this image. The interval "
        f"holds 95% of their answers to the {len(like)} test images to which this run gave nearly this probability."
    )
    return SeedInterval(float(low), float(high), seeds + 1, asked=False, how=how)


def from_answers(probabilities: Sequence[float]) -> SeedInterval:
    """The range of several seeds' answers for this image."""
    low, high, count = min(probabilities), max(probabilities), len(probabilities)
    mean = float(np.mean(probabilities))
    how = f"Lowest and highest answer of {count} seeds to this image; their mean is {mean:.1%}."
    return SeedInterval(low, high, count, asked=True, how=how)


def _logit(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(probabilities, _EDGE, 1 - _EDGE)))
