"""Two one-sided tests (TOST) of equivalence within a margin, and their power.

The test of no difference and the standard error of a difference are in `comparisons`.

References:
    Schuirmann 1987, A comparison of the two one-sided tests procedure and the power approach, doi:10.1007/BF01068419.
"""

import math

from scipy import integrate, stats

from core.metrics.bootstrap import LEVEL

MARGIN = 0.01  # AUROC; every text that uses the margin states it


def tost_p(effect: float, error: float, freedom: float, margin: float = MARGIN) -> float:
    """Return the larger p value of two one-sided tests that a difference is at most -margin, or at least margin.

    Args:
        effect: the measured difference.
        error: its standard error, at least 0.
        freedom: degrees of freedom of the error.
        margin: margin of equivalence, above 0.
    """
    if error == 0:
        return float(abs(effect) >= margin)
    return float(stats.t.sf((margin - abs(effect)) / error, freedom))


def tost_power(
    error: float, freedom: float, margin: float = MARGIN, effect: float = 0.0, level: float = 1 - LEVEL
) -> float:
    """Return the probability that two one-sided tests show a difference to lie within the margin.

    The power that a protocol states follows from the two parts of a pilot comparison's standard error (`Difference`)
    and the planned seeds: `tost_power(*combined_error(patients, sd / sqrt(seeds), seeds, groups))`.

    Args:
        error: true standard error of the difference, at least 0.
        freedom: degrees of freedom with which it is estimated.
        margin: margin of equivalence.
        effect: the true difference.
        level: level of the test; divide by the number of contrasts for the hardest step of Holm's procedure.
    """
    if error == 0:
        return float(abs(effect) < margin)
    t = float(stats.t.ppf(1 - level, freedom))

    def given(ratio: float) -> float:
        """Return the power given an estimated error of `ratio` times the true one, weighted by that ratio's density."""
        upper, lower = (margin - effect) / error - t * ratio, (-margin - effect) / error + t * ratio
        density = 2 * freedom * ratio * stats.chi2.pdf(freedom * ratio**2, freedom)
        return float(max(0.0, stats.norm.cdf(upper) - stats.norm.cdf(lower)) * density)

    low, high = (math.sqrt(stats.chi2.ppf(share, freedom) / freedom) for share in (1e-10, 1 - 1e-10))
    most = min(high, margin / error / t)  # with a larger estimated error neither test can reject
    return float(integrate.quad(given, low, most, limit=200)[0]) if most > low else 0.0
