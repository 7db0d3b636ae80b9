"""Registry of metrics, each computed for many image weightings at once, so that a bootstrap costs one call.

Binary tasks are measured on the positive class at the threshold. With more classes the decision is the most probable
class, and class-wise metrics are one-vs-rest means over classes. A multilabel task is measured as one binary task per
finding, on the images whose label is known for it; the mean is taken over the findings that have both positive and
negative images. A metric that is undefined for a weighting (a class without weight) is NaN there. Precision without
positive decisions, and a correlation with a constant, are 0, as in scikit-learn.

Every metric is also available class by class (finding by finding), each against the rest, and as the macro or weighted
average of these.

References:
    Matthews correlation for several classes: Gorodkin 2004, doi:10.1016/j.compbiolchem.2004.09.006.
    Calibration class by class: Kull et al. 2019, arXiv:1910.12656.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from core.metrics.calibration import calibration_gap
from core.metrics.scores import Scores
from core.registry import Registry

Weighted = Callable[[Scores, np.ndarray], np.ndarray]
PerClass = Callable[[Scores, np.ndarray, int], np.ndarray]
OfCounts = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Average = Literal["macro", "weighted"]


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: key, as in stored runs.
        title: display name.
        compute: (scores with one class per image, (B, N) weights) -> (B,) values.
        of_class: the same for one class against the rest.
        higher_is_better: direction.
        meaning: one sentence for readers.
        inflated_by_resampling: whether resampling inflates it, as noise inflates a distance from 0; its bootstrap
            intervals are then reflected.
        range: least and largest possible value.
    """

    name: str
    title: str
    compute: Weighted
    of_class: PerClass
    higher_is_better: bool
    meaning: str
    inflated_by_resampling: bool = False
    range: tuple[float, float] = (0.0, 1.0)

    def __call__(self, scores: Scores, weights: np.ndarray) -> np.ndarray:
        """Return (B,) values for (B, N) weights; for findings, the mean over those with both classes."""
        if not scores.multilabel:
            return self.compute(scores, weights)
        values = [self.compute(scores.finding(k), _of_known(scores, weights, k)) for k in scores.evaluable]
        return mean_of_defined(np.array(values)) if values else np.full(len(weights), np.nan)

    def by_class(self, scores: Scores, weights: np.ndarray) -> np.ndarray:
        """Return (C, B) values for (B, N) weights: each class against the rest, or each finding on its known images.

        A finding without both positive and negative images is NaN.
        """
        if scores.multilabel:
            values = np.full((scores.labels.shape[1], len(weights)), np.nan)
            for k in scores.evaluable:
                values[k] = self.of_class(scores.finding(k), _of_known(scores, weights, k), 1)
            return values
        return np.stack([self.of_class(scores, weights, c) for c in range(scores.probabilities.shape[1])])

    def averaged(self, scores: Scores, weights: np.ndarray, average: Average) -> np.ndarray:
        """Return (B,) means of the class-wise values for (B, N) weights, unweighted or weighted by number of images.

        Classes for which the metric is undefined do not count.
        """
        values = self.by_class(scores, weights)
        return mean_of_defined(values, support(scores, weights) if average == "weighted" else None)


def _of_known(scores: Scores, weights: np.ndarray, finding: int) -> np.ndarray:
    """Return (B, N) weights set to 0 where the label of a finding is unknown."""
    known = scores.known(finding)
    return weights if known.all() else weights * known


METRICS: Registry[Metric] = Registry("metric")


def support(scores: Scores, weights: np.ndarray) -> np.ndarray:
    """Return (C, B), the weight of the images of each class, or with each finding, for (B, N) weights."""
    if scores.multilabel:
        return (weights @ (np.nan_to_num(scores.labels) > 0.5)).T
    return (weights @ np.eye(scores.probabilities.shape[1])[scores.labels]).T


def measure(scores: Scores, name: str | None = None) -> dict[str, float]:
    """Return all metrics (or one) on the original images."""
    rows = METRICS.values() if name is None else [METRICS[name]]
    return {row.name: float(row(scores, unit_weights(scores))[0]) for row in rows}


def unit_weights(scores: Scores) -> np.ndarray:
    """Return (1, N) weights that count every image once."""
    return np.ones((1, len(scores)))


def mean_of_defined(values: np.ndarray, shares: np.ndarray | None = None) -> np.ndarray:
    """Return the mean over the rows of (C, B) that are not NaN; NaN if all are."""
    shares = (np.ones_like(values) if shares is None else shares) * ~np.isnan(values)
    return ratio((np.nan_to_num(values) * shares).sum(axis=0), shares.sum(axis=0))


def ratio(part: np.ndarray, whole: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """Divide element by element; where the whole is 0, the result is `empty`."""
    return np.divide(part, whole, out=np.full(np.shape(part), empty, dtype=float), where=whole > 0)


def _counts(scores: Scores, weights: np.ndarray, c: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the weight of a class's true positives, false positives, false negatives and true negatives: four (B,)."""
    truth, decided = scores.labels == c, scores.decisions == c
    hits, decided_positive, positives = (
        weights @ members.astype(float) for members in (truth & decided, decided, truth)
    )
    true_negatives = weights.sum(axis=1) - decided_positive - positives + hits
    return hits, np.maximum(decided_positive - hits, 0), np.maximum(positives - hits, 0), np.maximum(true_negatives, 0)


# metric -> (true positives, false positives, false negatives, true negatives) -> values; all (B,)
COUNTED: dict[str, OfCounts] = {
    "accuracy": lambda tp, fp, fn, tn: ratio(tp + tn, tp + fp + fn + tn),
    "sensitivity": lambda tp, fp, fn, tn: ratio(tp, tp + fn),
    "specificity": lambda tp, fp, fn, tn: ratio(tn, tn + fp),
    "balanced_accuracy": lambda tp, fp, fn, tn: (ratio(tp, tp + fn) + ratio(tn, tn + fp)) / 2,
    "precision": lambda tp, fp, fn, tn: ratio(tp, tp + fp, empty=0.0),
    "f1": lambda tp, fp, fn, tn: ratio(2 * tp, 2 * tp + fp + fn, empty=0.0),
    "mcc": lambda tp, fp, fn, tn: np.where(
        tp + fp + fn + tn > 0,
        ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)), empty=0.0),
        np.nan,
    ),
}


def _of_class(name: str) -> PerClass:
    """Build the metric of a class against the rest from its confusion counts."""
    return lambda scores, weights, c: COUNTED[name](*_counts(scores, weights, c))


def _over_classes(metric: PerClass) -> Weighted:
    return lambda scores, weights: np.mean([metric(scores, weights, c) for c in scores.classes()], axis=0)


def counted_metric(name: str, title: str, meaning: str, range: tuple[float, float] = (0.0, 1.0)) -> Metric:
    """Return the row of a metric in `COUNTED`: of a class against the rest, or the mean over classes; more is better.

    Args:
        name: key in `COUNTED`.
        title: display name.
        meaning: one sentence for readers.
        range: least and largest possible value.
    """
    of_class = _of_class(name)
    return Metric(name, title, _over_classes(of_class), of_class, True, meaning, range=range)


def _accuracy(scores: Scores, weights: np.ndarray) -> np.ndarray:
    return ratio(weights @ (scores.labels == scores.decisions).astype(float), weights.sum(axis=1))


def _balanced_accuracy(scores: Scores, weights: np.ndarray) -> np.ndarray:
    sensitivities = [COUNTED["sensitivity"](*_counts(scores, weights, c)) for c in range(scores.probabilities.shape[1])]
    return np.mean(sensitivities, axis=0)


def _mcc(scores: Scores, weights: np.ndarray) -> np.ndarray:
    classes = np.eye(scores.probabilities.shape[1])
    truth, decided = weights @ classes[scores.labels], weights @ classes[scores.decisions]  # (B, C)
    total = weights.sum(axis=1)
    correct = weights @ (scores.labels == scores.decisions).astype(float)
    denominator = np.sqrt((total**2 - (truth**2).sum(axis=1)) * np.maximum(total**2 - (decided**2).sum(axis=1), 0))
    return np.where(total > 0, ratio(correct * total - (truth * decided).sum(axis=1), denominator, empty=0.0), np.nan)


def _steps(scores: Scores, weights: np.ndarray, c: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of positives and of negatives at each distinct score, descending: two (B, distinct)."""
    rank = scores.odds(c)
    order = np.argsort(-rank, kind="stable")
    weight = weights[:, order]
    positive = weight * (scores.labels == c)[order]
    starts = np.flatnonzero(np.r_[True, rank[order][1:] != rank[order][:-1]])
    if len(starts) < len(rank):
        weight, positive = (np.add.reduceat(values, starts, axis=1) for values in (weight, positive))
    return positive, np.subtract(weight, positive, out=weight)


def _auroc(scores: Scores, weights: np.ndarray, c: int) -> np.ndarray:
    positive, negative = _steps(scores, weights, c)
    above = np.cumsum(positive, axis=1) - positive / 2
    return ratio((above * negative).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def _auprc(scores: Scores, weights: np.ndarray, c: int) -> np.ndarray:
    positive, negative = _steps(scores, weights, c)
    hits, called = np.cumsum(positive, axis=1), np.cumsum(positive + negative, axis=1)
    return ratio((ratio(hits, called, empty=0.0) * positive).sum(axis=1), positive.sum(axis=1))


def _brier(scores: Scores, weights: np.ndarray) -> np.ndarray:
    if scores.positive is not None:
        return _brier_of(scores, weights, scores.positive)
    truth = np.eye(scores.probabilities.shape[1])[scores.labels]
    return ratio(weights @ ((scores.probabilities - truth) ** 2).sum(axis=1), weights.sum(axis=1))


def _brier_of(scores: Scores, weights: np.ndarray, c: int) -> np.ndarray:
    return ratio(weights @ (scores.probabilities[:, c] - (scores.labels == c)) ** 2, weights.sum(axis=1))


def _ece(scores: Scores, weights: np.ndarray) -> np.ndarray:
    """Return the top-label expected calibration error."""
    confidence, is_correct = scores.probabilities.max(axis=1), scores.probabilities.argmax(axis=1) == scores.labels
    return calibration_gap(confidence, is_correct, weights)


def _ece_of(scores: Scores, weights: np.ndarray, c: int) -> np.ndarray:
    return calibration_gap(scores.probabilities[:, c], scores.labels == c, weights)


METRICS.add(
    Metric("auroc", "AUROC", _over_classes(_auroc), _auroc, True,
           "Probability that a positive image scores above a negative one."),
    Metric("auprc", "AUPRC", _over_classes(_auprc), _auprc, True, "Precision averaged over all sensitivities."),
    Metric("balanced_accuracy", "Balanced accuracy", _balanced_accuracy, _of_class("balanced_accuracy"), True,
           "Mean sensitivity over classes."),
    Metric("accuracy", "Accuracy", _accuracy, _of_class("accuracy"), True, "Share of images classified correctly."),
    counted_metric("sensitivity", "Sensitivity", "Share of positive images called positive."),
    counted_metric("specificity", "Specificity", "Share of negative images called negative."),
    counted_metric("precision", "Precision", "Share of positive calls that are correct."),
    counted_metric("f1", "F1", "Harmonic mean of precision and sensitivity."),
    Metric("mcc", "Matthews correlation (MCC)", _mcc, _of_class("mcc"), True,
           "Correlation of decision and truth, from -1 to 1; 0 is chance.", range=(-1.0, 1.0)),
    Metric("brier", "Brier score", _brier, _brier_of, False, "Mean squared error of the probability.",
           range=(0.0, 2.0)),  # a sum over classes if there are more than two
    Metric("ece", "Calibration error (ECE)", _ece, _ece_of, False, "Mean gap between confidence and accuracy.",
           inflated_by_resampling=True),
)  # fmt: skip
