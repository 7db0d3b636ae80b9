"""Operating points: decision thresholds fitted on images that the classifier was not trained on.

The default fit is deliberately cautious. With ten images per class the best empirical cut varies strongly between
subsets, and it is fitted to images that are more alike than those of a test set. A logistic curve through the scores
(Platt 1999) stays near the scores as they are: the logarithm of its slope and its intercept have normal priors. The
threshold is where the curve equals the share of positives, which maximizes sensitivity + specificity if its shape
holds. This is the operating point of every run of the protocol.

The other rules use the empirical scores: a target sensitivity, the best sum of sensitivity and specificity (Youden),
the least cost. The performance of an operating point on test images is in `operating_point`.

References:
    Platt 1999, Probabilistic outputs for support vector machines. Youden 1950, doi:10.1002/1097-0142(1950)3:1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit
from sklearn.metrics import roc_curve

from core.errors import BadRequest
from core.metrics.scores import Scores, refuse_test
from core.registry import Registry

PRIOR = 0.3  # the same as for the logarithm of the temperature
_EDGE = 1e-6


@dataclass(frozen=True)
class Aim:
    """The goal of an operating point.

    Attributes:
        rule: a name in `RULES`.
        sensitivity: target share of positive images called positive.
        ratio: number of false alarms that one missed positive outweighs.
        prevalence: share of positives in the population of use.
    """

    rule: str = "balanced"
    sensitivity: float = 0.95
    ratio: float = 1.0
    prevalence: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.sensitivity < 1 and 0 < self.prevalence < 1 and 0 < self.ratio < np.inf):
            raise BadRequest(
                "Expected a target sensitivity and a prevalence between 0 and 1 and a cost ratio above 0, but got "
                f"{self.sensitivity}, {self.prevalence} and {self.ratio}."
            )

    @property
    def title(self) -> str:
        """The aim in words."""
        return RULES[self.rule].title.format(self)


@dataclass(frozen=True)
class Rule:
    """A way to fit an operating point.

    Attributes:
        name: key.
        title: display name, with placeholders for the numbers of an aim.
        fit: ((N,) probability of the positive class, (N,) bool truth, aim) -> probability.
    """

    name: str
    title: str
    fit: Callable[[np.ndarray, np.ndarray, Aim], float]


@dataclass(frozen=True)
class OperatingPoint:
    """A fitted operating point.

    Attributes:
        threshold: probability of the positive class from which the decision is positive.
        aim: its goal.
        caution: what these images cannot support, "" for nothing.
    """

    threshold: float
    aim: Aim
    caution: str = ""


def fit_threshold(probabilities: np.ndarray, labels: np.ndarray, prior: float = PRIOR) -> float:
    """Fit the balanced operating point of a binary task.

    Args:
        probabilities: (N,) calibrated probabilities of the positive class.
        labels: (N,), True or 1 for positive.
        prior: standard deviation of log slope and intercept before any image is seen, above 0. With a small one the
            threshold is the share of positives, with a large one it depends on these images alone.
    Returns:
        a probability in (0, 1); 0.5 if a class is missing.
    """
    labels = np.asarray(labels, bool)
    if labels.all() or not labels.any():
        return 0.5
    scores = logit(np.clip(probabilities, _EDGE, 1 - _EDGE))
    signs = np.where(labels, 1.0, -1.0)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        log_slope, intercept = parameters
        margins = signs * (np.exp(log_slope) * scores + intercept)
        pull = -signs * expit(-margins)
        gradient = np.array([(pull * scores).sum() * np.exp(log_slope), pull.sum()]) + parameters / prior**2
        return float(0.5 * (parameters**2).sum() / prior**2 - log_expit(margins).sum()), gradient

    log_slope, intercept = minimize(loss, np.zeros(2), jac=True).x
    cut = (logit(labels.mean()) - intercept) / np.exp(log_slope)
    return float(np.clip(expit(np.clip(cut, scores.min(), scores.max())), _EDGE, 1 - _EDGE))


def fit_thresholds(probabilities: np.ndarray, labels: np.ndarray, prior: float = PRIOR) -> tuple[float, ...]:
    """Fit the operating point of each finding on the images whose label is known for it.

    Args:
        probabilities: (N, C), calibrated.
        labels: (N, C) of 0, 1 and NaN.
        prior: see `fit_threshold`.
    """
    known = ~np.isnan(labels)
    return tuple(
        fit_threshold(probabilities[known[:, k], k], labels[known[:, k], k] > 0.5, prior)
        for k in range(labels.shape[1])
    )


def fit_operating_point(held_out: Scores, aim: Aim) -> OperatingPoint:
    """Fit the operating point of a binary task for an aim.

    Args:
        held_out: images that the classifier was not trained on, never of the test set.
        aim: its goal.
    Raises:
        BadRequest: if these are test images, the task is not binary, or a class is missing.
    """
    refuse_test(held_out, "An operating point")
    p, truth = held_out.positives()
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        raise BadRequest(f"Expected held-out images of both classes, but got {positives} and {negatives}.")
    caution = ""
    if aim.rule == "sensitivity" and _rank(positives, aim.sensitivity) > positives:
        caution = (
            f"{positives} held-out positives support an expected sensitivity of at most "
            f"{positives / (positives + 1):.1%}, not {aim.sensitivity:.1%}."
        )
    threshold = float(np.clip(RULES[aim.rule].fit(p, truth, aim), _EDGE, 1 - _EDGE))
    return OperatingPoint(threshold, aim, caution)


def _rank(positives: int, target: float) -> int:
    """Return how many held-out positives must lie at or above a threshold for a new one to do so at a target rate."""
    return int(np.ceil(target * (positives + 1) - 1e-9))


def _at_sensitivity(p: np.ndarray, truth: np.ndarray, aim: Aim) -> float:
    positives = np.sort(p[truth])[::-1]
    return float(positives[min(_rank(len(positives), aim.sensitivity), len(positives)) - 1])


def _best_cut(p: np.ndarray, truth: np.ndarray, gain: float, loss: float) -> float:
    """Return the cut with the largest gain x sensitivity - loss x false positive rate, halfway to the next score."""
    false_positive_rates, sensitivities, cuts = roc_curve(truth, p, drop_intermediate=False)
    best = int(np.argmax(gain * sensitivities - loss * false_positive_rates))
    cut = min(float(cuts[best]), 1.0)
    return cut if best + 1 == len(cuts) else (cut + float(cuts[best + 1])) / 2


RULES: Registry[Rule] = Registry("rule")
RULES.add(
    Rule("balanced", "both classes weighted equally, by a cautious curve", lambda p, truth, _: fit_threshold(p, truth)),
    Rule("sensitivity", "a sensitivity of {0.sensitivity:.0%}", _at_sensitivity),
    Rule("youden", "the best sum of sensitivity and specificity", lambda p, truth, _: _best_cut(p, truth, 1, 1)),
    Rule("cost", "least cost, a missed case counting as {0.ratio:g} false alarms at a prevalence of {0.prevalence:.1%}",
         lambda p, truth, aim: _best_cut(p, truth, aim.prevalence * aim.ratio, 1 - aim.prevalence)),
)  # fmt: skip
