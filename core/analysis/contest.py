"""The contest between the families: the series that stands for each, the contrasts between them, and the headline.

The rules are in `docs/protocol.md`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from core.metrics.learning_curves import Bounded, Fit, images_needed
from core.models import FAMILY_LETTERS, MODELS
from core.runs.series import Series, comparison_proper

LOOP = "plain loop"  # the baseline that nobody tuned
NAMED = {  # family -> its series; those of the old recipes, until the search has named others (docs/protocol.md)
    "A": Series("scratch-cnn", "scratch"),
    "B": Series("imagenet-efficientnet-lite0", "frozen"),
    "C": Series("medical-efficientnet-lite0", "frozen"),
    LOOP: Series("imagenet-efficientnet-lite0", "plain-loop"),
}
_B = NAMED["B"]
CONTRASTS = {  # title -> the two series, the first minus the second
    "B against A": (_B, NAMED["A"]),
    "C against B": (NAMED["C"], _B),
    "B fine-tuned against its frozen head": (_B._replace(strategy="finetune"), _B),
    "B after every stage against its last layer": (_B._replace(model="imagenet-efficientnet-lite0-stages"), _B),
}
_BASELINES = ("plain-loop", "plain-scratch")


@dataclass(frozen=True)
class Headline:
    """What the learning curves of a data set say about labels.

    Attributes:
        target: the best value of the metric that every family's curve reaches within its measured sizes.
        needed: family -> images per class that it needs for the target, the fewest first.
    """

    target: float
    needed: dict[str, Bounded]


def contestants(series: Iterable[Series]) -> dict[str, Series]:
    """Return the series that stands for each family, and the plain loop, among those stored.

    It is the one in `NAMED`. Where that is not stored, as for images of one's own, it is the first series of the family
    with its strategy's own settings.
    """
    stored = comparison_proper(series)
    by_family: dict[str, list[Series]] = {family: [] for family in NAMED}
    for row in stored:
        family = LOOP if row.strategy == "plain-loop" else FAMILY_LETTERS[MODELS[row.model].family]
        if family in by_family and (family == LOOP or row.strategy not in _BASELINES):
            by_family[family].append(row)
    return {
        family: next((row for row in rows if row[:2] == NAMED[family][:2]), rows[0])
        for family, rows in by_family.items()
        if rows
    }


def headline(fits: Mapping[str, Fit]) -> Headline | None:
    """Return how many labeled images each family needs for a performance that all of them reach.

    Args:
        fits: family -> the learning curve of its series.
    Returns:
        None if fewer than two families have a curve.
    """
    if len(fits) < 2:
        return None
    sign = next(iter(fits.values())).sign
    reached = min(float(fit.rising(np.array(fit.sizes[-1:]))[0, 0]) for fit in fits.values())
    target = sign * math.floor(1000 * reached) / 1000
    needed = {family: images_needed(fit, target) for family, fit in fits.items()}
    return Headline(target, dict(sorted(needed.items(), key=lambda row: row[1].value)))
