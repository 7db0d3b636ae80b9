"""Two-stage diagnosis: a sensitive binary screen, then a multiclass classifier for suspicious images.

An image that the screen does not call suspicious is reported as `not suspicious`. The second stage classifies the
others among all its classes, so it may also revoke an alarm. Both stages must have been trained and evaluated on the
splits of one data set. The screen's threshold comes from held-out images (`thresholds.fit_operating_point`).

Joint figures are compared with one model alone at the same sensitivity: on each resample its threshold is moved until
it finds equally many suspicious images. This needs the truth of the test images, so it is a reference for comparison,
not a way to operate. The comparison is paired by seed and has the verdicts of `comparisons`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from core.errors import BadRequest
from core.metrics.bootstrap import RESAMPLES, Estimate, interval, interval_text, prepend_ones, resample_weights
from core.metrics.comparisons import Difference, no_verdict_text, paired_difference
from core.metrics.scores import Scores

_ROUNDING = 1e-9


@dataclass(frozen=True)
class TwoStage:
    """Joint performance of both stages, the mean over pairs of runs; intervals are over test patients.

    Attributes:
        sensitivity: share of suspicious images whose final class is suspicious.
        specificity: share of other images whose final class is not.
        named: share of suspicious images whose final class is correct.
        workload: share of all images that the second stage sees.
        single: specificity of the single model at the same sensitivity.
        gain: specificity of both stages minus `single`, over seeds and test patients; `replace(gain=...)` corrects it
            for other pairs of stages, if any.
    """

    sensitivity: Estimate
    specificity: Estimate
    named: Estimate
    workload: Estimate
    single: Estimate
    gain: Difference

    @property
    def helps(self) -> bool:
        """Whether the verdict is that two stages raise fewer false alarms than the single model."""
        return self.gain.winner == 0

    def record(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "gain": self.gain.record(), "helps": self.helps, "words": self.verdict()}

    def verdict(self) -> str:
        """Format the finding as a sentence."""
        gain = self.gain
        measured = (
            f"specificity {gain.effect:+.3f} (95% interval over {gain.varies} "
            f"{interval_text(gain.low, gain.high, '+.3f')}) against the best single model at the same sensitivity of "
            f"{self.sensitivity.value:.3f}"
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
    draws: int = RESAMPLES,
) -> TwoStage:
    """Combine two stages and compare them with one model.

    Args:
        screens: binary predictions, suspicious or not, one run per seed, each at its threshold.
        confirmers: multiclass predictions for the same images, in the same order of seeds.
        singles: predictions of the model to compare with, in the same order: multiclass or binary.
        suspicious: the classes that count as suspicious.
        groups: (N,), patients or lesions, resampled as a whole.
        draws: number of bootstrap resamples.
    Raises:
        BadRequest: if the stages do not evaluate the same images, or their labels contradict one another.
    """
    if not screens or len({len(screens), len(confirmers), len(singles)}) > 1:
        raise BadRequest("Expected as many screens as second stages and single models, one run per seed each.")
    alone = [run if run.positive is not None else run.merged(suspicious) for run in singles]
    for screen, confirmer, single_run in zip(screens, confirmers, alone, strict=True):
        _check(screen, confirmer, single_run, suspicious)
    weights = prepend_ones(resample_weights(confirmers[0].labels, groups, draws))
    truth = screens[0].positives()[1]
    by_seed = np.array(
        [
            _joint(screen, confirmer, single_run, suspicious, truth, weights)
            for screen, confirmer, single_run in zip(screens, confirmers, alone, strict=True)
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
    called = passed & np.isin(confirmer.decisions, suspicious)
    correct = called & (confirmer.decisions == confirmer.labels)
    sensitivity, named = (_share(hits[truth], weights[:, truth]) for hits in (called, correct))
    specificity = _share(~called[~truth], weights[:, ~truth])
    single = specificity_at(alone, sensitivity, weights)
    return np.stack([sensitivity, specificity, named, _share(passed, weights), single])


def specificity_at(scores: Scores, sensitivity: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the specificity of a binary task at a given sensitivity, for each image weighting.

    Args:
        scores: predictions; their own threshold is ignored.
        sensitivity: (B,) targets; interpolated linearly between two thresholds.
        weights: (B, N).
    Returns:
        (B,).
    """
    p, truth = scores.positives()
    order = np.argsort(-p, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(p[order]) != 0])
    detected, false_alarms = (
        np.cumsum(np.add.reduceat(weights[:, order] * members[order], starts, axis=1), axis=1)
        for members in (truth, ~truth)
    )
    detected, false_alarms = (
        np.pad(counts, ((0, 0), (1, 0))) for counts in (detected, false_alarms)
    )  # (B, cuts + 1), from no image called positive
    rates = [
        _false_positive_rate_at(*row) for row in zip(sensitivity * detected[:, -1], detected, false_alarms, strict=True)
    ]
    return 1 - np.array(rates)


def _false_positive_rate_at(target: float, detected: np.ndarray, false_alarms: np.ndarray) -> float:
    """Return the false positive rate at the highest cut that finds `target` positives."""
    index = int(np.searchsorted(detected, target - _ROUNDING * detected[-1]))
    if index == 0:
        return 0.0
    fraction = min(1.0, (target - detected[index - 1]) / (detected[index] - detected[index - 1]))
    return float(
        (false_alarms[index - 1] + fraction * (false_alarms[index] - false_alarms[index - 1])) / false_alarms[-1]
    )


def _share(members: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights @ members / weights.sum(axis=1))


def _check(screen: Scores, confirmer: Scores, alone: Scores, suspicious: tuple[int, ...]) -> None:
    if confirmer.multilabel or confirmer.positive is not None or len(screen) != len(confirmer):
        raise BadRequest("Expected a multiclass second stage with one class per image, on the images of the screen.")
    truth = np.isin(confirmer.labels, suspicious)
    for scores in (screen, alone):
        if len(scores) != len(truth) or not np.array_equal(scores.positives()[1], truth):
            raise BadRequest(
                "The stages contradict one another on which images are suspicious: they must be evaluated on the same "
                "test images of one data set, in the same order, with the same suspicious classes."
            )
