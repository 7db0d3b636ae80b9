"""The classical tests of two classifiers on the same images, for one pair of runs: DeLong (AUROC), McNemar (decisions).

They stand beside the hierarchical bootstrap (`comparisons`), not in its place: they know one draw of training images.

References:
    DeLong et al. 1988, doi:10.2307/2531595; in n log n by ranks: Sun and Xu 2014, doi:10.1109/LSP.2014.2337313.
    Several images a patient: Obuchowski 1997, doi:10.2307/2533958.
    McNemar 1947, doi:10.1007/BF02295996, exact by the binomial distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from core.errors import BadRequest
from core.metrics.intervals import LEVEL
from core.metrics.scores import Scores


@dataclass(frozen=True)
class DeLong:
    """Two correlated AUROCs.

    Attributes:
        first, second: AUROC.
        effect, low, high: first minus second with its 95% interval.
        p: that they are equal, two-sided.
    """

    first: float
    second: float
    effect: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class McNemar:
    """Two ways of deciding on the same images.

    Attributes:
        only_first, only_second: images that only the first, or only the second, decides rightly.
        p: that they are right equally often, two-sided, exact.
    """

    only_first: int
    only_second: int
    p: float


def auroc_parts(truth: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[float, np.ndarray]:
    """AUROC and what each group adds to it.

    Args:
        truth: (N,) bool.
        scores: (N,), higher for positive.
        groups: (N,), number of the group of each image, from 0 on.
    Returns:
        the AUROC, and (G,) deviations of which the sum of squares is its variance.
    Raises:
        BadRequest: if a class comes from fewer than two groups.
    """
    positives, negatives = scores[truth], scores[~truth]
    counts = [len(np.unique(groups[which])) for which in (truth, ~truth)]
    if min(counts) < 2:
        raise BadRequest(f"Expected both classes in at least two groups of test images each, but got {counts}.")
    together = stats.rankdata(scores)
    above = (together[truth] - stats.rankdata(positives)) / len(negatives)  # share of negatives below each positive
    below = 1 - (together[~truth] - stats.rankdata(negatives)) / len(positives)  # positives above each negative
    auroc = float(above.mean())
    parts = np.zeros(int(groups.max()) + 1)
    for which, placed, count in ((truth, above, counts[0]), (~truth, below, counts[1])):
        unbiased = np.sqrt(count / (count - 1))
        parts += np.bincount(groups[which], (placed - auroc) / len(placed) * unbiased, minlength=len(parts))
    return auroc, parts


def delong(first: Scores, second: Scores, groups: np.ndarray) -> DeLong:
    """Compares two runs by AUROC, the one-vs-rest mean over classes or the mean over findings where there are several.

    Args:
        first: predictions of one run.
        second: of the other, for the same images in the same order.
        groups: (N,), patients or lesions; their images count together.
    Raises:
        BadRequest: if the images differ, or a class comes from fewer than two groups.
    """
    if not np.array_equal(first.labels, second.labels, equal_nan=True):
        raise BadRequest("Expected two runs on the same test images in the same order; these have other labels.")
    number = np.unique(groups, return_inverse=True)[1]
    (one, its_parts), (other, other_parts) = (_mean_auroc(run, number) for run in (first, second))
    effect, error = one - other, float(np.sqrt(((its_parts - other_parts) ** 2).sum()))
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * error
    p = float(2 * stats.norm.sf(abs(effect) / error)) if error > 0 else float(effect == 0)
    return DeLong(one, other, effect, effect - half, effect + half, p)


def _mean_auroc(scores: Scores, number: np.ndarray) -> tuple[float, np.ndarray]:
    if scores.multilabel:
        tasks = [(scores.labels[:, k] > 0.5, scores.probabilities[:, k], scores.known(k)) for k in scores.judged()]
    else:
        every = np.ones(len(scores), bool)
        tasks = [(scores.labels == c, scores.odds(c), every) for c in scores.classes()]
    found = []
    for truth, p, known in tasks:
        auroc, parts = auroc_parts(truth[known], p[known], number[known])
        found.append((auroc, np.pad(parts, (0, int(number.max()) + 1 - len(parts)))))
    return float(np.mean([auroc for auroc, _ in found])), np.mean([parts for _, parts in found], axis=0)


def mcnemar(first: Scores, second: Scores) -> McNemar:
    """Compares the decisions of two runs, each at its own threshold, image by image.

    It takes the images for independent; of several images a patient it is too sure.

    Args:
        first: predictions of one run; of findings, one finding (`known_finding`).
        second: of the other, for the same images in the same order.
    Raises:
        BadRequest: if the images differ, or there are several findings.
    """
    if first.multilabel or not np.array_equal(first.labels, second.labels):
        raise BadRequest("Expected two runs on the same test images, one class an image; choose one finding first.")
    right, also = first.decisions == first.labels, second.decisions == second.labels
    only_first, only_second = int((right & ~also).sum()), int((~right & also).sum())
    together = only_first + only_second
    p = float(stats.binomtest(only_first, together, 0.5).pvalue) if together else 1.0
    return McNemar(only_first, only_second, p)
