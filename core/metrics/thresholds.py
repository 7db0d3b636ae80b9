"""Operating points: the probability from which a decision is positive, fitted on images the classifier did not learn.

The fit is smooth on purpose. With ten images a class the best empirical cut jumps from draw to draw; a logistic curve
through the scores (Platt 1999), both classes given equal weight, crosses one half at the point that maximises
sensitivity + specificity when its shape holds, and moves far less.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

_EDGE = 1e-6


def fit_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The balanced operating point of a binary task.

    Args:
        probabilities: (N,) of the positive class.
        labels: (N,), True or 1 for positive.
    Returns:
        a probability in (0, 1); 0.5 where a class is missing or the scores do not rise with the label.
    """
    labels = np.asarray(labels, bool)
    if labels.all() or not labels.any():
        return 0.5
    scores = logit(np.clip(probabilities, _EDGE, 1 - _EDGE))[:, None]
    curve = LogisticRegression(C=1.0, class_weight="balanced").fit(scores, labels)
    slope, intercept = float(curve.coef_[0, 0]), float(curve.intercept_[0])
    if slope <= 0:
        return 0.5
    cut = np.clip(-intercept / slope, scores.min(), scores.max())
    return float(np.clip(expit(cut), _EDGE, 1 - _EDGE))


def fit_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """The operating point of each finding, on the images whose label is known for it.

    Args:
        probabilities: (N, C).
        labels: (N, C) of 0, 1 and NaN.
    """
    known = ~np.isnan(labels)
    return tuple(
        fit_threshold(probabilities[known[:, k], k], labels[known[:, k], k] > 0.5) for k in range(labels.shape[1])
    )
