"""Is one family better than another? The hierarchical paired bootstrap: seeds, and patients or lesions, drawn again.

Both families answered the same test images after learning from the same subsets, so they are subtracted seed by seed
and draw by draw. The difference then varies for two reasons: other training images (seeds) and other patients in the
test set. Patients are drawn again for all seeds at once, since all seeds share the test set. For the seeds drawing
again has a closed form, their variance; it is used, corrected for how few seeds there are, because percentiles of the
raw draws call equal families different in a tenth of the cases with five seeds (the tests show both).

Variance of the mean difference = variance over drawn patients + variance between seeds / seeds, less what of the latter
is the same patients' noise counted again. Its degrees of freedom follow Satterthwaite; interval and p are Student's.

References:
    Owen 2007, The pigeonhole bootstrap (crossed factors), doi:10.1214/07-AOAS122.
    Hesterberg 2015, bootstrap intervals of few observations are too narrow, arXiv:1411.5279.
    Satterthwaite 1946, doi:10.2307/3002019. Holm 1979, A simple sequentially rejective multiple test procedure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from core.errors import BadRequest
from core.metrics.intervals import DRAWS, LEVEL, draw_weights, measure_drawn, with_once
from core.metrics.measures import METRICS
from core.metrics.scores import Scores


@dataclass(frozen=True)
class Difference:
    """One family's metric minus another's.

    Attributes:
        metric: name.
        effect: mean over seeds of first minus second.
        low, high: ends of the 95% interval over seeds and patients together.
        p: that the families are equal, two-sided.
        holm: the same corrected for how many comparisons were made; equal to p for one.
        error: standard error.
        freedom: degrees of freedom.
        seeds, n, groups: paired seeds, test images, patients or lesions.
        by_seed: difference of each seed on the images as they are.
    """

    metric: str
    effect: float
    low: float
    high: float
    p: float
    holm: float
    error: float
    freedom: float
    seeds: int
    n: int
    groups: int
    by_seed: tuple[float, ...]

    @property
    def detected(self) -> bool:
        """Whether the families differ at the 5% level after correction."""
        return self.holm < 1 - LEVEL

    @property
    def winner(self) -> int | None:
        """0 if the first family is better, 1 if the second is, None where no difference was detected."""
        if not self.detected:
            return None
        return int((self.effect > 0) != METRICS[self.metric].higher_is_better)

    def reversed(self) -> Difference:
        """The second family minus the first."""
        by_seed = tuple(0.0 - one for one in self.by_seed)  # 0 stays 0; -0.0 would be said with a minus
        return replace(self, effect=0.0 - self.effect, low=0.0 - self.high, high=0.0 - self.low, by_seed=by_seed)

    def verdict(self, first: str, second: str) -> str:
        """The finding in a sentence: effect and interval first, p second."""
        title = METRICS[self.metric].title
        found = f"{self.effect:+.3f} (95% interval {self.low:+.3f} to {self.high:+.3f}; p {said_p(self.holm)})"
        caution = "" if self.seeds > 1 else " One seed: other training images may turn it."
        if self.winner is None:
            many = ", once corrected for the number of comparisons" if self.p < 1 - LEVEL else ""
            return f"{title}: no detectable difference between {first} and {second}{many}: {found}.{caution}"
        better, worse = (first, second) if self.winner == 0 else (second, first)
        return f"{title}: {better} is better than {worse}, {first} minus {second} {found}.{caution}"


def said_p(p: float) -> str:
    """A p value as people write it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def paired_difference(metric: str, first: np.ndarray, second: np.ndarray, n: int, groups: int) -> Difference:
    """Compares two families by a metric that was measured on the same drawn images, seed by seed.

    Args:
        metric: its name.
        first: (K, B + 1), a row a seed; the value on the images as they are, then on each draw.
        second: the same of the other family.
        n: test images.
        groups: patients or lesions among them.
    Raises:
        BadRequest: if the shapes differ or there is no seed.
    """
    if first.shape != second.shape or first.ndim != 2 or not len(first):
        raise BadRequest(f"Expected the same seeds and draws on both sides, but got {first.shape} and {second.shape}.")
    minus = first - second
    by_seed, drawn = minus[:, 0], minus[:, 1:]
    drawn = drawn[:, ~np.isnan(drawn).any(axis=0)]
    seeds, effect = len(minus), float(by_seed.mean())
    if drawn.shape[1] < 2 or np.isnan(effect):
        unknown = float("nan")
        return Difference(
            metric, effect, unknown, unknown, 1.0, 1.0, unknown, unknown, seeds, n, groups, tuple(by_seed.tolist())
        )
    error, freedom = _error_of(by_seed, drawn, groups)
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(effect) / error, freedom)) if error > 0 else float(effect == 0)
    return Difference(
        metric, effect, effect - half, effect + half, p, p, error, freedom, seeds, n, groups, tuple(by_seed.tolist())
    )


def _error_of(by_seed: np.ndarray, drawn: np.ndarray, groups: int) -> tuple[float, float]:
    """Standard error of the mean over seeds, and its degrees of freedom."""
    seeds, of_groups = len(by_seed), max(groups - 2, 1)
    images = float(drawn.mean(axis=0).var(ddof=1))
    if seeds == 1:
        return float(np.sqrt(images)), of_groups
    twice = max(0.0, (float(drawn.var(axis=1, ddof=1).mean()) - images) / (seeds - 1))  # noise of patients, per seed
    training = float(by_seed.var(ddof=1)) / seeds
    variance = images + max(0.0, training - twice)
    parts = training**2 / (seeds - 1) + images**2 / of_groups
    return float(np.sqrt(variance)), variance**2 / parts if parts > 0 else of_groups


def compare(
    runs: Sequence[Scores],
    others: Sequence[Scores],
    groups: np.ndarray,
    names: Sequence[str] | None = None,
    draws: int = DRAWS,
) -> dict[str, Difference]:
    """Compares two families, run by run, on the same test images.

    Args:
        runs: predictions of one family, a seed each, for the same images in the same order.
        others: the other family's, in the same order of seeds.
        groups: (N,), patients or lesions, drawn as a whole.
        names: metrics; all by default.
        draws: bootstrap samples.
    Raises:
        BadRequest: if the numbers of seeds differ, or the runs are not of the same images.
    """
    every = [*runs, *others]
    if not every or any(not np.array_equal(one.labels, every[0].labels, equal_nan=True) for one in every):
        raise BadRequest("Expected runs on the same test images in the same order; these have other labels.")
    weights = with_once(draw_weights(every[0].labels, groups, draws))
    count = len(np.unique(groups))
    first, second = ([measure_drawn(run, weights, names) for run in side] for side in (runs, others))
    return {
        name: paired_difference(
            name, np.array([run[name] for run in first]), np.array([run[name] for run in second]), len(groups), count
        )
        for name in names or tuple(METRICS)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p values so that a false finding anywhere among them comes in at most the stated share of cases.

    Args:
        p_values: of one question asked several times, such as one metric over all pairs of families.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    corrected = np.empty(len(p))
    corrected[order] = stepped
    return [float(one) for one in corrected]


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The same comparisons, p corrected by Holm over all of them; those of one metric belong together."""
    values = holm([one.p for one in differences])
    return [replace(one, holm=value) for one, value in zip(differences, values, strict=True)]
