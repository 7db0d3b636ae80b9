"""The table of metrics. Each is computed for many weightings of the images at once, so a bootstrap costs one call.

Binary tasks are measured on the positive class at the threshold. With more classes the decision is the most probable
class, and class-wise metrics are one-vs-rest means over classes. A task of several findings is measured as so many
binary tasks, each on the images whose label is known for it, and the mean is taken over the findings that have both
positive and negative images. A metric that is undefined for a weighting (a class without weight) is NaN there;
precision without positive decisions is 0, as in scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from core.metrics.calibration import expected_calibration_error
from core.registry import Registry

Weighted = Callable[["Scores", np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Scores:
    """What is measured.

    Attributes:
        probabilities: (N, C), rows sum to 1; of findings each column stands alone.
        labels: (N,), class indices; or (N, C) of 0, 1 and NaN (unknown) for findings.
        positive: the positive class of a binary task; None for more classes.
        threshold: probability of the positive class from which the decision is positive; binary tasks only.
        thresholds: (C,), the same for each finding.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    positive: int | None = None
    threshold: float = 0.5
    thresholds: tuple[float, ...] = ()

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several findings."""
        return self.labels.ndim == 2

    def known(self, finding: int) -> np.ndarray:
        """(N,) bool: the images whose label is known for a finding."""
        return ~np.isnan(self.labels[:, finding])

    def judged(self) -> list[int]:
        """The findings that have both positive and negative images."""
        return [k for k, column in enumerate(self.labels.T) if {0.0, 1.0} <= set(np.rint(column[self.known(k)]))]

    def finding(self, finding: int) -> Scores:
        """The binary task of one finding, on all images: those of unknown label are to be given no weight."""
        p = self.probabilities[:, finding]
        truth = (np.nan_to_num(self.labels[:, finding]) > 0.5).astype(int)
        return Scores(np.stack([1 - p, p], axis=1), truth, 1, self.thresholds[finding])

    def known_finding(self, finding: int) -> Scores:
        """The binary task of one finding, on the images of known label."""
        one, known = self.finding(finding), self.known(finding)
        return replace(one, probabilities=one.probabilities[known], labels=one.labels[known])

    @property
    def decisions(self) -> np.ndarray:
        """(N,), class indices decided for."""
        if self.positive is None:
            return self.probabilities.argmax(axis=1)
        says = self.probabilities[:, self.positive] >= self.threshold
        return np.where(says, self.positive, 1 - self.positive)

    def classes(self) -> list[int]:
        """The classes whose one-vs-rest metrics are averaged."""
        return list(range(self.probabilities.shape[1])) if self.positive is None else [self.positive]

    def at(self, threshold: float) -> Scores:
        """The same scores at another threshold, of every finding where there are several."""
        return replace(self, threshold=threshold, thresholds=(threshold,) * len(self.thresholds))


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes:
        name: key, as in stored runs.
        title: for people.
        compute: (scores of one class an image, (B, N) weights) -> (B,) values.
        higher_is_better: direction.
        meaning: one sentence for people.
    """

    name: str
    title: str
    compute: Weighted
    higher_is_better: bool
    meaning: str

    def __call__(self, scores: Scores, weights: np.ndarray) -> np.ndarray:
        """(B, N) weights -> (B,) values; of findings the mean over those that can be judged."""
        if not scores.multilabel:
            return self.compute(scores, weights)
        found = [self.compute(scores.finding(k), weights * scores.known(k)) for k in scores.judged()]
        return _mean_of_defined(found) if found else np.full(len(weights), np.nan)


def _mean_of_defined(values: list[np.ndarray]) -> np.ndarray:
    """Mean over rows, those that are NaN left out; NaN where all are."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0))


METRICS: Registry[Metric] = Registry("metric")


def measure(scores: Scores, name: str | None = None) -> dict[str, float]:
    """All metrics (or one) on the images as they are."""
    once = np.ones((1, len(scores.labels)))
    rows = METRICS.values() if name is None else [METRICS[name]]
    return {row.name: float(row(scores, once)[0]) for row in rows}


def _ratio(part: np.ndarray, whole: np.ndarray, empty: float = np.nan) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), empty, dtype=float), where=whole > 0)


def _counts(scores: Scores, weights: np.ndarray, c: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    truth, says = scores.labels == c, scores.decisions == c
    return (
        weights @ (truth & says).astype(float),
        weights @ (~truth & says).astype(float),
        weights @ (truth & ~says).astype(float),
        weights @ (~truth & ~says).astype(float),
    )


def _over_classes(one: Callable[[Scores, np.ndarray, int], np.ndarray]) -> Weighted:
    return lambda scores, weights: np.mean([one(scores, weights, c) for c in scores.classes()], axis=0)


def _accuracy(scores: Scores, weights: np.ndarray) -> np.ndarray:
    return _ratio(weights @ (scores.labels == scores.decisions).astype(float), weights.sum(axis=1))


def _balanced_accuracy(scores: Scores, weights: np.ndarray) -> np.ndarray:
    return np.mean([_sensitivity(scores, weights, c) for c in range(scores.probabilities.shape[1])], axis=0)


def _sensitivity(scores: Scores, weights: np.ndarray, c: int) -> np.ndarray:
    hits, _, missed, _ = _counts(scores, weights, c)
    return _ratio(hits, hits + missed)


def _specificity(scores: Scores, weights: np.ndarray, c: int) -> np.ndarray:
    _, alarms, _, quiet = _counts(scores, weights, c)
    return _ratio(quiet, quiet + alarms)


def _precision(scores: Scores, weights: np.ndarray, c: int) -> np.ndarray:
    hits, alarms, _, _ = _counts(scores, weights, c)
    return _ratio(hits, hits + alarms, empty=0.0)


def _f1(scores: Scores, weights: np.ndarray, c: int) -> np.ndarray:
    hits, alarms, missed, _ = _counts(scores, weights, c)
    return _ratio(2 * hits, 2 * hits + alarms + missed, empty=0.0)


def _steps(scores: Scores, weights: np.ndarray, c: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight of positives and of negatives at each distinct score, from the highest down: two (B, distinct)."""
    p = scores.probabilities[:, c]
    order = np.argsort(-p, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(p[order]) != 0])
    truth = (scores.labels == c)[order].astype(float)
    sorted_weights = weights[:, order]
    return (
        np.add.reduceat(sorted_weights * truth, starts, axis=1),
        np.add.reduceat(sorted_weights * (1 - truth), starts, axis=1),
    )


def _auroc(scores: Scores, weights: np.ndarray, c: int) -> np.ndarray:
    positive, negative = _steps(scores, weights, c)
    above = np.cumsum(positive, axis=1) - positive / 2
    return _ratio((above * negative).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def _auprc(scores: Scores, weights: np.ndarray, c: int) -> np.ndarray:
    positive, negative = _steps(scores, weights, c)
    hits, called = np.cumsum(positive, axis=1), np.cumsum(positive + negative, axis=1)
    return _ratio((_ratio(hits, called, empty=0.0) * positive).sum(axis=1), positive.sum(axis=1))


def _brier(scores: Scores, weights: np.ndarray) -> np.ndarray:
    if scores.positive is None:
        truth = np.eye(scores.probabilities.shape[1])[scores.labels]
        error = ((scores.probabilities - truth) ** 2).sum(axis=1)
    else:
        error = (scores.probabilities[:, scores.positive] - (scores.labels == scores.positive)) ** 2
    return _ratio(weights @ error, weights.sum(axis=1))


def _ece(scores: Scores, weights: np.ndarray) -> np.ndarray:
    return expected_calibration_error(scores.probabilities, scores.labels, weights=weights)


for _row in (
    Metric("auroc", "AUROC", _over_classes(_auroc), True, "Chance that a positive image scores above a negative one."),
    Metric("auprc", "AUPRC", _over_classes(_auprc), True, "Precision averaged over all sensitivities."),
    Metric("balanced_accuracy", "Balanced accuracy", _balanced_accuracy, True, "Mean share found, class by class."),
    Metric("accuracy", "Accuracy", _accuracy, True, "Share of images decided rightly."),
    Metric("sensitivity", "Sensitivity", _over_classes(_sensitivity), True, "Share of positive images called so."),
    Metric("specificity", "Specificity", _over_classes(_specificity), True, "Share of negative images called so."),
    Metric("precision", "Precision", _over_classes(_precision), True, "Share of alarms that are right."),
    Metric("f1", "F1", _over_classes(_f1), True, "Harmonic mean of precision and sensitivity."),
    Metric("brier", "Brier score", _brier, False, "Mean squared error of the probability."),
    Metric("ece", "Calibration error (ECE)", _ece, False, "Mean gap between confidence and share right."),
):
    METRICS.add(_row)
