"""Is one family better than another, or as good? The hierarchical paired bootstrap over seeds and patients.

Both families predict the same test images after training on the same subsets, so they are subtracted seed by seed and
resample by resample. The difference then varies for two reasons: other training images (seeds) and other patients in
the test set. Patients are resampled for all seeds at once, since all seeds share the test set. For the seeds resampling
has a closed form, their variance; it is used, corrected for how few seeds there are, because percentiles of the raw
resamples call equal families different in a tenth of the cases with five seeds (the tests show both).

From five seeds on: variance of the mean difference = variance over resampled patients + variance between seeds / seeds,
less what of the latter is the same patients' noise counted again. Its degrees of freedom follow Satterthwaite; interval
and p values are Student's. Three verdicts follow, each corrected by Holm over the stated contrasts:

- *different*: the test of no difference has p < .05;
- *equivalent*: two one-sided tests (TOST) show that the difference lies within the margin, p < .05;
- *undecided*: neither.

Holm is applied to the two tests apart, each over all contrasts, so that each kind of false verdict occurs anywhere
among them in at most 5% of cases. A difference that is certain but smaller than the margin is *different*; its sentence
says that it is within the margin.

Below five seeds Satterthwaite's approximation does not hold its level (up to 12.7% with two seeds), so no p value is
computed and there is *no verdict*. The interval is Banerjee's: the half-widths of the two Student intervals, over seeds
and over patients, combined by Pythagoras. It covers at least the nominal share whatever the two variances are.

Beside the bootstrap stand the classical tests of one pair of runs, DeLong (AUROC) and McNemar (decisions). They do not
replace it: they know a single draw of training images.

References:
    Owen 2007, The pigeonhole bootstrap (crossed factors), doi:10.1214/07-AOAS122.
    Hesterberg 2015, bootstrap intervals of few observations are too narrow, arXiv:1411.5279.
    Satterthwaite 1946, doi:10.2307/3002019. Banerjee 1961, On confidence interval for two-means problem based on
    separate estimates of variances and tabulated values of t-table, Sankhya A 23, 359-378.
    Holm 1979, A simple sequentially rejective multiple test procedure.
    DeLong et al. 1988, doi:10.2307/2531595; in n log n by ranks: Sun and Xu 2014, doi:10.1109/LSP.2014.2337313.
    Several images a patient: Obuchowski 1997, doi:10.2307/2533958.
    McNemar 1947, doi:10.1007/BF02295996, exact by the binomial distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import stats

from core.errors import BadRequest
from core.metrics.bootstrap import DRAWS, LEVEL, draw_weights, measure_drawn, with_once
from core.metrics.equivalence import MARGIN, tost_p, tost_power
from core.metrics.measures import METRICS
from core.metrics.scores import Scores

Verdict = Literal["different", "equivalent", "undecided", "no verdict"]
MIN_SEEDS = 5
UNKNOWN = float("nan")


@dataclass(frozen=True)
class Difference:
    """One family's metric minus another's.

    Attributes:
        metric: name.
        effect: mean over seeds of first minus second.
        low, high: ends of the 95% interval over what `varies` names, not corrected for the number of contrasts.
        p: of the test that the families are equal, two-sided; NaN where there is no verdict.
        holm: the same corrected over the contrasts.
        p_equivalence: of the two one-sided tests that they differ by the margin or more, the larger; NaN likewise.
        holm_equivalence: the same corrected over the contrasts.
        margin: of equivalence, in units of the metric.
        contrasts: how many contrasts Holm was taken over.
        error: standard error; `error_patients` and `error_seeds` are its parts (NaN for the seeds of a single one).
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
    p_equivalence: float
    holm_equivalence: float
    margin: float
    contrasts: int
    error: float
    error_patients: float
    error_seeds: float
    freedom: float
    seeds: int
    n: int
    groups: int
    by_seed: tuple[float, ...]

    @property
    def verdict(self) -> Verdict:
        """What may be said of the two families, after correction for the number of contrasts."""
        if math.isnan(self.holm):
            return "no verdict"
        if self.holm < 1 - LEVEL:
            return "different"
        return "equivalent" if self.holm_equivalence < 1 - LEVEL else "undecided"

    @property
    def winner(self) -> int | None:
        """0 if the first family is better, 1 if the second is, None where the verdict is not `different`."""
        if self.verdict != "different":
            return None
        return int((self.effect > 0) != METRICS[self.metric].higher_is_better)

    @property
    def within_margin(self) -> bool:
        """Whether the two one-sided tests place the difference within the margin, also where it is `different`."""
        return self.holm_equivalence < 1 - LEVEL

    @property
    def varies(self) -> str:
        """What varies in the interval, in words."""
        return "seeds and test patients" if self.seeds > 1 else "test patients, one seed"

    @property
    def power(self) -> float:
        """Power of the test of equivalence at this standard error, if the families were equal.

        With more than one contrast it is that of Holm's first and hardest step. NaN where there is no verdict.
        """
        if self.verdict == "no verdict":
            return UNKNOWN
        return tost_power(self.error, self.freedom, self.margin, level=(1 - LEVEL) / self.contrasts)

    def reversed(self) -> Difference:
        """The second family minus the first."""
        by_seed = tuple(0.0 - one for one in self.by_seed)  # 0 stays 0; -0.0 would be shown with a minus
        return replace(self, effect=0.0 - self.effect, low=0.0 - self.high, high=0.0 - self.low, by_seed=by_seed)

    def interval_text(self) -> str:
        """The difference with its interval, signed."""
        return f"{self.effect:+.3f} ({self.low:+.3f} to {self.high:+.3f})"

    def verdict_text(self, first: str, second: str) -> str:
        """The verdict in a few words, without numbers."""
        if self.verdict == "different":
            better = first if self.winner == 0 else second
            return f"different: {better} is better" + (", by less than the margin" if self.within_margin else "")
        if self.verdict == "equivalent":
            return f"equivalent within {self.margin:g}"
        return no_verdict_text(self.seeds) if self.verdict == "no verdict" else "undecided"

    def sentence(self, first: str, second: str) -> str:
        """The finding in a sentence: verdict, effect and interval, then p.

        Args:
            first: name of the first family.
            second: name of the second.
        """
        title = METRICS[self.metric].title
        effect = f"{first} minus {second} {self.effect:+.3f} (95% interval over {self.varies} "
        effect += f"{self.low:+.3f} to {self.high:+.3f}"
        over = "" if self.contrasts == 1 else f" by Holm over {self.contrasts} contrasts"
        p, p_equivalence = format_p(self.holm), format_p(self.holm_equivalence)
        if self.verdict == "no verdict":
            return f"{title}: {no_verdict_text(self.seeds)}. {effect})."
        if self.verdict == "different":
            better, worse = (first, second) if self.winner == 0 else (second, first)
            within = f", though by less than the margin of {self.margin:g}" if self.within_margin else ""
            return f"{title}: {better} is better than {worse}{within}: {effect}; p {p}{over})."
        if self.verdict == "equivalent":
            return (
                f"{title}: {first} and {second} are equivalent within {self.margin:g}: {effect}; p of equivalence "
                f"{p_equivalence}{over})."
            )
        return (
            f"{title}: undecided between {first} and {second}, neither different nor equivalent within "
            f"{self.margin:g}: {effect}; p {p}, of equivalence {p_equivalence}{over})."
        )

    def record(self) -> dict[str, Any]:
        """Everything as plain data for JSON: undefined numbers are None, the verdict and what varies are added."""
        fields = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}
        power = self.power
        return fields | {
            "verdict": self.verdict, "varies": self.varies, "within_margin": self.within_margin,
            "power": None if math.isnan(power) else power,
        }  # fmt: skip


def format_p(p: float) -> str:
    """Return a p value as people write it; a dash where there is none."""
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def no_verdict_text(seeds: int) -> str:
    """Why there is no verdict: too few seeds, or a metric that is undefined."""
    if seeds >= MIN_SEEDS:
        return "no verdict: the metric is undefined on these images"
    return f"no verdict: {seeds} {'seed' if seeds == 1 else 'seeds'}, at least {MIN_SEEDS} needed"


def paired_difference(
    metric: str, first: np.ndarray, second: np.ndarray, n: int, groups: int, margin: float = MARGIN
) -> Difference:
    """Compare two families by a metric that was measured on the same resampled images, seed by seed.

    Args:
        metric: its name.
        first: (K, B + 1), a row a seed; the value on the images as they are, then on each resample.
        second: the same of the other family.
        n: test images.
        groups: patients or lesions among them.
        margin: of equivalence, in units of the metric, above 0.
    Raises:
        BadRequest: if the shapes differ, there is no seed, or the margin is not above 0.
    """
    if first.shape != second.shape or first.ndim != 2 or not len(first):
        raise BadRequest(f"Expected the same seeds and draws on both sides, but got {first.shape} and {second.shape}.")
    if not margin > 0:
        raise BadRequest(f"Expected a margin of equivalence above 0, but got {margin}. Usual is {MARGIN}.")
    minus = first - second
    by_seed, drawn = minus[:, 0], minus[:, 1:]
    drawn = drawn[:, ~np.isnan(drawn).any(axis=0)]
    seeds, effect = len(minus), float(by_seed.mean())
    found = Difference(
        metric, effect, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, margin, 1, UNKNOWN, UNKNOWN, UNKNOWN,
        UNKNOWN, seeds, n, groups, tuple(by_seed.tolist()),
    )  # fmt: skip
    if drawn.shape[1] < 2 or np.isnan(effect):
        return found
    patients = float(drawn.mean(axis=0).std(ddof=1))
    own = float(drawn.var(axis=1, ddof=1).mean())  # patients' variance of a single seed
    of_seeds = float(by_seed.std(ddof=1)) / math.sqrt(seeds) if seeds > 1 else UNKNOWN
    if seeds < MIN_SEEDS:
        half = _wide_half(patients, of_seeds, seeds, groups)
        error = math.hypot(patients, 0.0 if seeds == 1 else of_seeds)
        return replace(
            found, low=effect - half, high=effect + half, error=error, error_patients=patients, error_seeds=of_seeds
        )
    error, freedom = combined_error(patients, of_seeds, seeds, groups, max(0.0, (own - patients**2) / (seeds - 1)))
    half = _quantile((1 + LEVEL) / 2, freedom) * error
    p = float(2 * stats.t.sf(abs(effect) / error, freedom)) if error > 0 else float(effect == 0)
    p_equivalence = tost_p(effect, error, freedom, margin)
    return replace(
        found, low=effect - half, high=effect + half, p=p, holm=p, p_equivalence=p_equivalence,
        holm_equivalence=p_equivalence, error=error, error_patients=patients, error_seeds=of_seeds, freedom=freedom,
    )  # fmt: skip


def _quantile(share: float, freedom: float) -> float:
    return float(stats.t.ppf(share, freedom))


def _wide_half(patients: float, of_seeds: float, seeds: int, groups: int) -> float:
    """Half-width of Banerjee's 95% interval; of a single seed that over test patients alone."""
    over_patients = _quantile((1 + LEVEL) / 2, max(groups - 2, 1)) * patients
    return over_patients if seeds == 1 else math.hypot(over_patients, _quantile((1 + LEVEL) / 2, seeds - 1) * of_seeds)


def combined_error(
    patients: float, of_seeds: float, seeds: int, groups: int, twice: float = 0.0
) -> tuple[float, float]:
    """Standard error of a mean difference over seeds and patients, with Satterthwaite's degrees of freedom.

    Args:
        patients: standard error over test patients of the mean over seeds.
        of_seeds: standard deviation between seeds divided by the square root of their number.
        seeds: at least 2.
        groups: patients or lesions.
        twice: variance within `of_seeds` that is the patients' noise of each seed, counted in `patients` already.
    Returns:
        the standard error and its degrees of freedom.
    """
    variance = patients**2 + max(0.0, of_seeds**2 - twice)
    parts = of_seeds**4 / (seeds - 1) + patients**4 / max(groups - 2, 1)
    return math.sqrt(variance), variance**2 / parts if parts > 0 else float(max(groups - 2, 1))


def compare(
    runs: Sequence[Scores],
    others: Sequence[Scores],
    groups: np.ndarray,
    names: Sequence[str] | None = None,
    draws: int = DRAWS,
    margin: float = MARGIN,
) -> dict[str, Difference]:
    """Compare two families, run by run, on the same test images.

    Args:
        runs: predictions of one family, a seed each, for the same images in the same order.
        others: the other family's, in the same order of seeds.
        groups: (N,), patients or lesions, drawn as a whole.
        names: metrics; all by default.
        draws: bootstrap samples.
        margin: of equivalence, in units of each metric.
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
            name,
            np.array([run[name] for run in first]),
            np.array([run[name] for run in second]),
            len(groups),
            count,
            margin,
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
    """Return the same contrasts with Holm's correction over them, of both tests apart.

    Args:
        differences: of one metric over all stated contrasts. Those without p values (too few seeds) are not tested
            and do not count.
    """
    tested = [index for index, one in enumerate(differences) if not math.isnan(one.p)]
    different = holm([differences[index].p for index in tested])
    equivalent = holm([differences[index].p_equivalence for index in tested])
    found = list(differences)
    for index, p, p_equivalence in zip(tested, different, equivalent, strict=True):
        found[index] = replace(found[index], holm=p, holm_equivalence=p_equivalence, contrasts=len(tested))
    return found


def corrected_for(difference: Difference, contrasts: int) -> Difference:
    """Return one contrast corrected as the first of so many (Bonferroni), where the others are not computed.

    Args:
        difference: not corrected yet.
        contrasts: how many could have been looked at, itself included.
    """
    if math.isnan(difference.p):
        return difference
    p, p_equivalence = (min(1.0, one * contrasts) for one in (difference.p, difference.p_equivalence))
    return replace(difference, holm=p, holm_equivalence=p_equivalence, contrasts=contrasts)


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
