"""Temperature scaling and expected calibration error.

References:
    Guo et al. 2017, On calibration of modern neural networks, arXiv:1706.04599.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax

BINS = 15
TEMPERATURES = (0.05, 20.0)
PRIOR = 0.3  # standard deviation of log T before any image is seen


def probabilities_of(logits: np.ndarray, temperature: float = 1.0, multilabel: bool = False) -> np.ndarray:
    """Convert (N, C) logits to (N, C) probabilities at a temperature: softmax over classes, or sigmoid per finding."""
    scaled = np.asarray(logits, dtype=float) / temperature
    return np.asarray(expit(scaled) if multilabel else softmax(scaled, axis=1))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood in nats.

    Args:
        logits: (N, C).
        labels: (N,), class indices; or (N, C) findings of 0, 1 and NaN, where NaN (unknown) does not count.
        temperature: divides the logits.
    """
    scaled = np.asarray(logits, dtype=float) / temperature
    if labels.ndim == 2:
        return float(-np.nanmean(labels * log_expit(scaled) + (1 - labels) * log_expit(-scaled)))
    return float(-log_softmax(scaled, axis=1)[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the temperature by maximum a posteriori with a log-normal prior around 1.

    Ten images do not determine a temperature: without a prior it runs to the end of its range. With many images the
    prior no longer matters.

    Args:
        logits: (N, C), of images that the classifier was not trained on; N at least 1.
        labels: (N,), class indices; or (N, C) findings with NaN for unknown.
    Returns:
        a temperature in [0.05, 20].
    """
    known = int((~np.isnan(labels)).sum()) if labels.ndim == 2 else len(labels)

    def loss(log_temperature: float) -> float:
        fit = known * negative_log_likelihood(logits, labels, float(np.exp(log_temperature)))
        return fit + 0.5 * (log_temperature / PRIOR) ** 2

    low, high = np.log(TEMPERATURES)
    best = minimize_scalar(loss, bounds=(low, high), method="bounded")
    return float(np.exp(best.x)) if best.fun < loss(0.0) else 1.0


def calibration_gap(predicted: np.ndarray, occurred: np.ndarray, weights: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return the mean gap over bins between predicted probability and observed frequency.

    Args:
        predicted: (N,), probabilities.
        occurred: (N,), bool, whether the event occurred.
        weights: (B, N) image weights.
        bins: number of equal-width probability bins, at least 1.
    Returns:
        (B,), in [0, 1].
    Raises:
        ValueError: if there is no image or bins < 1.
    """
    if not len(predicted) or bins < 1:
        raise ValueError(f"Expected at least one image and one bin, but got {len(predicted)} and {bins}.")
    in_bin = np.eye(bins)[bin_of(predicted, bins)]  # (N, bins)
    gap = weights @ ((occurred - predicted)[:, None] * in_bin)  # (B, bins)
    total = weights.sum(axis=1)
    return np.divide(np.abs(gap).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)


def bin_of(probabilities: np.ndarray, bins: int) -> np.ndarray:
    """Return the (N,) equal-width bin of each probability; bins include their upper end, the first also includes 0."""
    return np.clip(np.ceil(np.asarray(probabilities) * bins).astype(int) - 1, 0, bins - 1)
