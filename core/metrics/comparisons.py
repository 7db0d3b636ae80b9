"""Comparison of two model families: the hierarchical paired bootstrap over seeds and patients.

Both families predict the same test images after training on the same subsets, so they are subtracted seed by seed and
resample by resample. The difference varies for two reasons: the training images (seeds) and the patients in the test
set. Patients are resampled for all seeds at once, because all seeds share the test set. Resampling seeds has a closed
form, their variance. It is used here, corrected for the small number of seeds, because percentiles of raw resamples of
five seeds call equal families different in a tenth of the cases (the tests show both).

From five seeds on: variance of the mean difference = variance over resampled patients + variance between seeds / seeds,
minus the patients' noise that the latter counts a second time. Its degrees of freedom follow Satterthwaite; interval
and p values are Student's. The verdict is one of three, each corrected by Holm over the stated contrasts:

- *different*: the test of no difference has p < .05;
- *equivalent*: two one-sided tests (TOST) show that the difference lies within the margin, p < .05;
- *undecided*: neither.

Holm is applied to each of the two tests separately over all contrasts, so each kind of false verdict occurs anywhere
among them in at most 5% of cases. A difference that is certain but smaller than the margin is *different*; its sentence
says that it is within the margin.

Below five seeds Satterthwaite's approximation does not hold its level (up to 12.7% with two seeds), so no p value is
computed and there is *no verdict*. The interval is Banerjee's: it combines the half-widths of the two Student
intervals, over seeds and over patients, by Pythagoras. It covers at least the nominal share whatever the two variances
are.

The classical tests of one pair of runs are also here: DeLong (AUROC) and McNemar (decisions). They do not replace the
bootstrap, because they see a single choice of training images.

References:
    Owen 2007, The pigeonhole bootstrap (crossed factors), doi:10.1214/07-AOAS122.
    Hesterberg 2015, bootstrap intervals of few observations are too narrow, arXiv:1411.5279.
    Satterthwaite 1946, doi:10.2307/3002019. Banerjee 1961, On confidence interval for two-means problem based on
    separate estimates of variances and tabulated values of t-table, Sankhya A 23, 359-378.
    Holm 1979, A simple sequentially rejective multiple test procedure.
    DeLong et al. 1988, doi:10.2307/2531595; in n log n by ranks: Sun and Xu 2014, doi:10.1109/LSP.2014.2337313.
    Several images per patient: Obuchowski 1997, doi:10.2307/2533958.
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
from core.metrics.bootstrap import LEVEL, interval_text, with_interval
from core.metrics.equivalence import MARGIN, tost_p, tost_power
from core.metrics.measures import METRICS
from core.metrics.scores import Scores

Verdict = Literal["different", "equivalent", "undecided", "no verdict"]
MIN_SEEDS = 5
UNKNOWN = float("nan")


@dataclass(frozen=True)
class Difference:
    """Difference of a metric between two families, first minus second.

    Attributes:
        metric: name.
        effect: mean over seeds of first minus second.
        low, high: ends of the 95% interval over what `varies` names, not corrected for the number of contrasts.
        p: two-sided p value of the test that the families are equal; NaN if there is no verdict.
        holm: `p` corrected over the contrasts.
        p_equivalence: larger p value of the two one-sided tests that the families differ by the margin or more; NaN if
            there is no verdict.
        holm_equivalence: `p_equivalence` corrected over the contrasts.
        margin: margin of equivalence, in units of the metric.
        contrasts: number of contrasts in Holm's correction.
        error: standard error; `error_patients` and `error_seeds` are its parts (NaN for the seeds' part of a single
            seed).
        freedom: degrees of freedom.
        seeds, n, groups: number of paired seeds, of test images, and of patients or lesions.
        by_seed: difference of each seed on the original images.
    """

    metric: str
    effect: float
    low: float = UNKNOWN
    high: float = UNKNOWN
    p: float = UNKNOWN
    holm: float = UNKNOWN
    p_equivalence: float = UNKNOWN
    holm_equivalence: float = UNKNOWN
    margin: float = MARGIN
    contrasts: int = 1
    error: float = UNKNOWN
    error_patients: float = UNKNOWN
    error_seeds: float = UNKNOWN
    freedom: float = UNKNOWN
    seeds: int = 0
    n: int = 0
    groups: int = 0
    by_seed: tuple[float, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict on the two families, after correction for the number of contrasts."""
        if math.isnan(self.holm):
            return "no verdict"
        if self.holm < 1 - LEVEL:
            return "different"
        return "equivalent" if self.holm_equivalence < 1 - LEVEL else "undecided"

    @property
    def winner(self) -> int | None:
        """Index of the better family, 0 or 1; None unless the verdict is `different`."""
        if self.verdict != "different":
            return None
        return int((self.effect > 0) != METRICS[self.metric].higher_is_better)

    @property
    def within_margin(self) -> bool:
        """Whether the two one-sided tests place the difference within the margin, also if it is `different`."""
        return self.holm_equivalence < 1 - LEVEL

    @property
    def varies(self) -> str:
        """What varies in the interval, in words."""
        return "seeds and test patients" if self.seeds > 1 else "test patients, one seed"

    @property
    def power(self) -> float:
        """Power of the equivalence test at this standard error if the families were equal.

        With more than one contrast it is the power of Holm's first and hardest step. NaN if there is no verdict.
        """
        if self.verdict == "no verdict":
            return UNKNOWN
        return tost_power(self.error, self.freedom, self.margin, level=(1 - LEVEL) / self.contrasts)

    def reversed(self) -> Difference:
        """Return the second family minus the first."""
        by_seed = tuple(0.0 - difference for difference in self.by_seed)  # 0 stays 0; -0.0 would be shown with a minus
        return replace(self, effect=0.0 - self.effect, low=0.0 - self.high, high=0.0 - self.low, by_seed=by_seed)

    def interval_text(self) -> str:
        """Format the difference with its interval, signed."""
        return with_interval(self.effect, self.low, self.high, "+.3f")

    def verdict_text(self, first: str, second: str) -> str:
        """Format the verdict in a few words, without numbers."""
        if self.verdict == "different":
            better = first if self.winner == 0 else second
            return f"different: {better} is better" + (", by less than the margin" if self.within_margin else "")
        if self.verdict == "equivalent":
            return f"equivalent within {self.margin:g}"
        return no_verdict_text(self.seeds) if self.verdict == "no verdict" else "undecided"

    def sentence(self, first: str, second: str) -> str:
        """Format the finding as a sentence: verdict, effect and interval, then p.

        Args:
            first: name of the first family.
            second: name of the second.
        """
        title = METRICS[self.metric].title
        ends = interval_text(self.low, self.high, "+.3f")
        effect = f"{first} minus {second} {self.effect:+.3f} (95% interval over {self.varies} {ends}"
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
        """Return plain data for JSON: the fields with NaN as None, plus the verdict, what varies, and the power."""
        fields = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}
        power = self.power
        return fields | {
            "verdict": self.verdict, "varies": self.varies, "within_margin": self.within_margin,
            "power": None if math.isnan(power) else power,
        }  # fmt: skip


def format_p(p: float) -> str:
    """Format a p value; a dash if it is NaN."""
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def no_verdict_text(seeds: int) -> str:
    """Explain why there is no verdict: too few seeds, or a metric that is undefined."""
    if seeds >= MIN_SEEDS:
        return "no verdict: the metric is undefined on these images"
    return f"no verdict: {seeds} {'seed' if seeds == 1 else 'seeds'}, at least {MIN_SEEDS} needed"


def paired_difference(
    metric: str, first: np.ndarray, second: np.ndarray, n: int, groups: int, margin: float = MARGIN
) -> Difference:
    """Compare two families by a metric measured on the same resampled images, seed by seed.

    Args:
        metric: its name.
        first: (K, B + 1), one row per seed: the value on the original images, then on each resample.
        second: the same for the other family.
        n: number of test images.
        groups: number of patients or lesions among them.
        margin: margin of equivalence, in units of the metric, above 0.
    Raises:
        BadRequest: if the shapes differ, there is no seed, or the margin is not above 0.
    """
    if first.shape != second.shape or first.ndim != 2 or not len(first):
        raise BadRequest(
            f"Expected the same seeds and resamples on both sides, but got {first.shape} and {second.shape}."
        )
    if not margin > 0:
        raise BadRequest(f"Expected a margin of equivalence above 0, but got {margin}. The default is {MARGIN}.")
    differences = first - second
    by_seed, resampled = differences[:, 0], differences[:, 1:]
    resampled = resampled[:, ~np.isnan(resampled).any(axis=0)]
    seeds, effect = len(differences), float(by_seed.mean())
    result = Difference(metric, effect, margin=margin, seeds=seeds, n=n, groups=groups, by_seed=tuple(by_seed.tolist()))
    if resampled.shape[1] < 2 or np.isnan(effect):
        return result
    patients = float(resampled.mean(axis=0).std(ddof=1))
    own = float(resampled.var(axis=1, ddof=1).mean())  # patients' variance of a single seed
    of_seeds = float(by_seed.std(ddof=1)) / math.sqrt(seeds) if seeds > 1 else UNKNOWN
    if seeds < MIN_SEEDS:
        # Banerjee's half-width; for a single seed, of the interval over test patients alone
        over_patients, over_seeds = stats.t.ppf((1 + LEVEL) / 2, [max(groups - 2, 1), max(seeds - 1, 1)])
        spread = 0.0 if seeds == 1 else of_seeds
        half, error = math.hypot(over_patients * patients, over_seeds * spread), math.hypot(patients, spread)
        return replace(
            result, low=effect - half, high=effect + half, error=error, error_patients=patients, error_seeds=of_seeds
        )
    error, freedom = combined_error(patients, of_seeds, seeds, groups, max(0.0, (own - patients**2) / (seeds - 1)))
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(effect) / error, freedom)) if error > 0 else float(effect == 0)
    p_equivalence = tost_p(effect, error, freedom, margin)
    return replace(
        result, low=effect - half, high=effect + half, p=p, holm=p, p_equivalence=p_equivalence,
        holm_equivalence=p_equivalence, error=error, error_patients=patients, error_seeds=of_seeds, freedom=freedom,
    )  # fmt: skip


def combined_error(
    patients: float, of_seeds: float, seeds: int, groups: int, counted_twice: float = 0.0
) -> tuple[float, float]:
    """Return the standard error of a mean difference over seeds and patients, and Satterthwaite's degrees of freedom.

    Args:
        patients: standard error over test patients of the mean over seeds.
        of_seeds: standard deviation between seeds divided by the square root of their number.
        seeds: number of seeds, at least 2.
        groups: number of patients or lesions.
        counted_twice: variance within `of_seeds` that is the patients' noise of each seed, which `patients` has too.
    """
    variance = patients**2 + max(0.0, of_seeds**2 - counted_twice)
    parts = of_seeds**4 / (seeds - 1) + patients**4 / max(groups - 2, 1)
    return math.sqrt(variance), variance**2 / parts if parts > 0 else float(max(groups - 2, 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values with Holm's step-down procedure, which controls the family-wise error rate.

    Args:
        p_values: p values of one question tested several times, such as one metric over all pairs of families.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return stepped[np.argsort(order)].tolist()


def holm_corrected(differences: Sequence[Difference], planned: int = 0) -> list[Difference]:
    """Return the contrasts with Holm's correction over them, for each of the two tests separately.

    Args:
        differences: differences of one metric, one per stated contrast. Those without p values (too few seeds) are
            not tested and do not count, unless they are among the planned ones.
        planned: number of contrasts stated beforehand; those that are missing or without p values have p = 1. By
            default those tested.
    """
    tested = [index for index, difference in enumerate(differences) if not math.isnan(difference.p)]
    others = [1.0] * (planned - len(tested))
    different = holm([*(differences[index].p for index in tested), *others])
    equivalent = holm([*(differences[index].p_equivalence for index in tested), *others])
    results = list(differences)
    for index, p, p_equivalence in zip(tested, different, equivalent, strict=False):
        results[index] = replace(results[index], holm=p, holm_equivalence=p_equivalence, contrasts=len(different))
    return results


def bonferroni_corrected(difference: Difference, contrasts: int) -> Difference:
    """Return one of several contrasts with Bonferroni's correction, when the others are not computed.

    Args:
        difference: not yet corrected.
        contrasts: number of contrasts that could have been examined, this one included.
    """
    if math.isnan(difference.p):
        return difference
    p, p_equivalence = (min(1.0, value * contrasts) for value in (difference.p, difference.p_equivalence))
    return replace(difference, holm=p, holm_equivalence=p_equivalence, contrasts=contrasts)


@dataclass(frozen=True)
class DeLong:
    """DeLong's test of two correlated AUROCs.

    Attributes:
        first, second: AUROC.
        effect, low, high: first minus second with its 95% interval.
        p: two-sided p value of the test that they are equal.
    """

    first: float
    second: float
    effect: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two classifiers' decisions on the same images.

    Attributes:
        only_first, only_second: number of images that only the first, or only the second, classifies correctly.
        p: two-sided exact p value of the test that they are correct equally often.
    """

    only_first: int
    only_second: int
    p: float


def auroc_parts(truth: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the AUROC and the contribution of each group to its variance.

    Args:
        truth: (N,) bool.
        scores: (N,), higher for positive.
        groups: (N,), index of the group of each image, starting at 0.
    Returns:
        the AUROC, and (G,) deviations whose sum of squares is its variance.
    Raises:
        BadRequest: if a class comes from fewer than two groups.
    """
    positives, negatives = scores[truth], scores[~truth]
    counts = [len(np.unique(groups[members])) for members in (truth, ~truth)]
    if min(counts) < 2:
        raise BadRequest(f"Expected both classes in at least two groups of test images each, but got {counts}.")
    ranks = stats.rankdata(scores)
    above = (ranks[truth] - stats.rankdata(positives)) / len(negatives)  # share of negatives below each positive
    below = 1 - (ranks[~truth] - stats.rankdata(negatives)) / len(positives)  # positives above each negative
    auroc = float(above.mean())
    parts = np.zeros(int(groups.max()) + 1)
    for members, placed, count in ((truth, above, counts[0]), (~truth, below, counts[1])):
        unbiased = np.sqrt(count / (count - 1))
        parts += np.bincount(groups[members], (placed - auroc) / len(placed) * unbiased, minlength=len(parts))
    return auroc, parts


def delong(first: Scores, second: Scores, groups: np.ndarray) -> DeLong:
    """Compare two runs by AUROC: the one-vs-rest mean over classes, or the mean over findings.

    Args:
        first: predictions of one run.
        second: predictions of the other, for the same images in the same order.
        groups: (N,), patients or lesions; the images of one count together.
    Raises:
        BadRequest: if the images differ, or a class comes from fewer than two groups.
    """
    if not np.array_equal(first.labels, second.labels, equal_nan=True):
        raise BadRequest("Expected two runs on the same test images in the same order, but their labels differ.")
    number = np.unique(groups, return_inverse=True)[1]
    (auroc, parts), (other_auroc, other_parts) = (_mean_auroc(run, number) for run in (first, second))
    effect, error = auroc - other_auroc, float(np.sqrt(((parts - other_parts) ** 2).sum()))
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * error
    p = float(2 * stats.norm.sf(abs(effect) / error)) if error > 0 else float(effect == 0)
    return DeLong(auroc, other_auroc, effect, effect - half, effect + half, p)


def _mean_auroc(scores: Scores, number: np.ndarray) -> tuple[float, np.ndarray]:
    if scores.multilabel:
        tasks = [(scores.labels[:, k] > 0.5, scores.probabilities[:, k], scores.known(k)) for k in scores.evaluable]
    else:
        all_images = np.ones(len(scores), bool)
        tasks = [(scores.labels == c, scores.odds(c), all_images) for c in scores.classes()]
    results = []
    for truth, p, known in tasks:
        auroc, parts = auroc_parts(truth[known], p[known], number[known])
        results.append((auroc, np.pad(parts, (0, int(number.max()) + 1 - len(parts)))))
    return float(np.mean([auroc for auroc, _ in results])), np.mean([parts for _, parts in results], axis=0)


def mcnemar(first: Scores, second: Scores) -> McNemar:
    """Compare the decisions of two runs, each at its own threshold, image by image.

    The test assumes independent images; with several images per patient its p value is too small.

    Args:
        first: predictions of one run; for a multilabel task, of one finding (`known_finding`).
        second: predictions of the other, for the same images in the same order.
    Raises:
        BadRequest: if the images differ, or there are several findings.
    """
    if first.multilabel or not np.array_equal(first.labels, second.labels):
        raise BadRequest(
            "Expected two runs on the same test images with one class per image; choose one finding first."
        )
    first_correct, second_correct = first.decisions == first.labels, second.decisions == second.labels
    only_first, only_second = int((first_correct & ~second_correct).sum()), int((~first_correct & second_correct).sum())
    discordant = only_first + only_second
    p = float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p)
