"""Two-stage diagnosis: a sensitive binary screen, then a classifier of several classes for what it lets through.

An image that the screen does not call suspicious is answered `not suspicious`. Of the others the second stage decides
among all its classes, so it may also take an alarm back. Both stages must have been trained and judged on the splits
of one set; the screen's threshold comes from held-out images (`thresholds.fit_operating_point`).

Joint figures are compared with one model alone at the same sensitivity: its threshold is moved, draw by draw, to where
it finds as many suspicious images. That needs the truth of the test images and is a yardstick, not a way to operate.
The comparison is paired by seed and has the verdicts of `comparisons`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from core.errors import BadRequest
from core.metrics.bootstrap import DRAWS, Estimate, draw_weights, interval, with_once
from core.metrics.comparisons import Difference, no_verdict_text, paired_difference
from core.metrics.scores import Scores

_ROUNDING = 1e-9


@dataclass(frozen=True)
class TwoStage:
    """Joint figures of both stages, the mean over pairs of runs; their intervals are over test patients.

    Attributes:
        sensitivity: suspicious images that end with a suspicious class.
        specificity: other images that do not.
        named: suspicious images that end with the right class.
        workload: share of all images that the second stage sees.
        single: specificity of the one model alone at the same sensitivity.
        gain: specificity of both stages minus `single`, over seeds and test patients; corrected for other pairs of
            stages by `replace(gain=...)` where there are any.
    """

    sensitivity: Estimate
    specificity: Estimate
    named: Estimate
    workload: Estimate
    single: Estimate
    gain: Difference

    @property
    def helps(self) -> bool:
        """Whether the verdict is that both stages raise fewer false alarms than the one model."""
        return self.gain.winner == 0

    def record(self) -> dict[str, Any]:
        """Everything as plain data for JSON."""
        return {**asdict(self), "gain": self.gain.record(), "helps": self.helps, "words": self.verdict()}

    def verdict(self) -> str:
        """The finding in a sentence."""
        gain = self.gain
        measured = (
            f"specificity {gain.effect:+.3f} (95% interval over {gain.varies} {gain.low:+.3f} to {gain.high:+.3f}) "
            f"against the best single model at the same sensitivity of {self.sensitivity.value:.3f}"
        )
        within = f", by less than the margin of {gain.margin:g}" if gain.within_margin else ""
        opening = {
            "different": f"Two stages {'help' if self.helps else 'do worse'}{within}",
            "equivalent": f"Two stages do as well as one model, within {gain.margin:g}",
            "undecided": "Whether two stages help is undecided",
            "no verdict": f"Whether two stages help is open ({no_verdict_text(gain.seeds)})",
        }[gain.verdict]
        return f"{opening}: {measured}."


def two_stage(
    screens: Sequence[Scores],
    confirmers: Sequence[Scores],
    singles: Sequence[Scores],
    suspicious: tuple[int, ...],
    groups: np.ndarray,
    draws: int = DRAWS,
) -> TwoStage:
    """Joins two stages and compares them with one model.

    Args:
        screens: binary predictions, suspicious or not, a run a seed, each at its threshold.
        confirmers: predictions of several classes for the same images, in the same order of seeds.
        singles: predictions of the model to compare with, likewise: of several classes, or binary.
        suspicious: the classes that count as suspicious.
        groups: (N,), patients or lesions, drawn as a whole.
        draws: bootstrap samples.
    Raises:
        BadRequest: if the stages do not judge the same images, or their labels contradict one another.
    """
    if not screens or len({len(screens), len(confirmers), len(singles)}) > 1:
        raise BadRequest("Expected as many screens as second stages and single models, a run a seed each.")
    alone = [one if one.positive is not None else one.merged(suspicious) for one in singles]
    for screen, confirmer, one in zip(screens, confirmers, alone, strict=True):
        _check(screen, confirmer, one, suspicious)
    weights = with_once(draw_weights(confirmers[0].labels, groups, draws))
    truth = screens[0].positives()[1]
    by_seed = np.array(
        [
            _joint(screen, confirmer, one, suspicious, truth, weights)
            for screen, confirmer, one in zip(screens, confirmers, alone, strict=True)
        ]
    )  # (K, 5, draws + 1)
    gain = paired_difference("specificity", by_seed[:, 1], by_seed[:, 4], len(groups), len(np.unique(groups)))
    sensitivity, specificity, named, workload, single = (interval(row, len(groups)) for row in by_seed.mean(axis=0))
    return TwoStage(sensitivity, specificity, named, workload, single, gain)


def _joint(
    screen: Scores,
    confirmer: Scores,
    alone: Scores,
    suspicious: tuple[int, ...],
    truth: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    passed = screen.decisions == screen.positive
    ends = passed & np.isin(confirmer.decisions, suspicious)
    right = ends & (confirmer.decisions == confirmer.labels)
    sensitivity, named = (_share(which[truth], weights[:, truth]) for which in (ends, right))
    specificity = _share(~ends[~truth], weights[:, ~truth])
    single = specificity_at(alone, sensitivity, weights)
    return np.stack([sensitivity, specificity, named, _share(passed, weights), single])


def specificity_at(scores: Scores, sensitivity: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Specificity of a binary task where its threshold is moved to a sensitivity, for each weighting of the images.

    Args:
        scores: predictions; their own threshold does not matter.
        sensitivity: (B,) wanted; between two thresholds the line between them is taken.
        weights: (B, N).
    Returns:
        (B,).
    """
    p, truth = scores.positives()
    order = np.argsort(-p, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(p[order]) != 0])
    found, alarms = (
        np.cumsum(np.add.reduceat(weights[:, order] * side[order], starts, axis=1), axis=1) for side in (truth, ~truth)
    )
    found, alarms = (np.pad(counts, ((0, 0), (1, 0))) for counts in (found, alarms))  # (B, cuts + 1), from none called
    rates = [_alarms_at(*row) for row in zip(sensitivity * found[:, -1], found, alarms, strict=True)]
    return 1 - np.array(rates)


def _alarms_at(wanted: float, found: np.ndarray, alarms: np.ndarray) -> float:
    """Share of negatives called where `wanted` positives are found, at the highest cut that finds so many."""
    at = int(np.searchsorted(found, wanted - _ROUNDING * found[-1]))
    if at == 0:
        return 0.0
    part = min(1.0, (wanted - found[at - 1]) / (found[at] - found[at - 1]))
    return float((alarms[at - 1] + part * (alarms[at] - alarms[at - 1])) / alarms[-1])


def _share(which: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights @ which / weights.sum(axis=1))


def _check(screen: Scores, confirmer: Scores, alone: Scores, suspicious: tuple[int, ...]) -> None:
    if confirmer.multilabel or confirmer.positive is not None or len(screen) != len(confirmer):
        raise BadRequest("Expected a second stage of several classes, one an image, on the images of the screen.")
    truth = np.isin(confirmer.labels, suspicious)
    for one in (screen, alone):
        if len(one) != len(truth) or not np.array_equal(one.positives()[1], truth):
            raise BadRequest(
                "The stages contradict one another on which images are suspicious: they must be judged on the same "
                "test images of one data set, in the same order, and name the same classes suspicious."
            )
