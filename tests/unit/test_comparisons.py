"""Comparisons of two families: the primary answer is proven by simulation, the classical tests against references."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from core.errors import BadRequest
from core.metrics import METRICS, Scores
from core.metrics.comparisons import compare, corrected, holm, paired_difference, said_p
from core.metrics.paired_tests import delong, mcnemar

IMAGES, SEEDS, DRAWS = 120, 5, 150


def two_families(random, between_seeds, group_size=1, better=0.0, seeds=SEEDS):
    """Binormal scores of two families for the same images: hard images are hard for both, every seed is another draw.

    Args:
        random: generator.
        between_seeds: standard deviation of the separation between seeds.
        group_size: images a patient, half of whose difficulty is the patient's.
        better: separation of the first family minus that of the second.
    """
    labels, groups = np.repeat([0, 1], IMAGES // 2), np.arange(IMAGES) // group_size
    hard = 0.7 * random.normal(size=IMAGES)[groups] + 0.7 * random.normal(size=IMAGES)
    sides = []
    for extra in (better, 0.0):
        own, runs = 0.5 * random.normal(size=IMAGES), []
        for _ in range(seeds):
            separation = 1.6 + extra + between_seeds * random.normal()
            p = stats.norm.cdf(separation * (labels - 0.5) + hard + own + 0.3 * random.normal(size=IMAGES))
            runs.append(Scores(np.stack([1 - p, p], axis=1), labels, 1))
        sides.append(runs)
    return sides[0], sides[1], groups


def simulated(repeats, **how):
    random = np.random.default_rng(1)
    found = []
    for _ in range(repeats):
        runs, others, groups = two_families(random, **how)
        found.append(compare(runs, others, groups, ("auroc",), DRAWS)["auroc"])
    return found


@pytest.mark.parametrize(("between_seeds", "group_size"), [(0.1, 1), (0.3, 2)])
def test_equal_families_are_called_different_in_3_to_7_percent_of_1000_repeats(between_seeds, group_size):
    found = simulated(1000, between_seeds=between_seeds, group_size=group_size)
    assert 0.03 <= np.mean([one.detected for one in found]) <= 0.07


def test_percentiles_of_the_raw_draws_call_equal_families_different_too_often():
    """Why few seeds are corrected for."""
    random, hits = np.random.default_rng(1), 0
    for _ in range(1000):
        seeds = random.normal(size=SEEDS)  # differences of five seeds, patients adding nothing
        low, high = np.percentile(random.choice(seeds, (200, SEEDS)).mean(axis=1), [2.5, 97.5])
        hits += low > 0 or high < 0
    assert hits / 1000 > 0.09


def test_a_true_difference_of_seven_hundredths_of_auroc_is_found_in_80_percent_of_repeats():
    spread = np.sqrt(2 * (0.49 + 0.49 + 0.25 + 0.09) + 0.1**2)  # of a positive score minus a negative one, over seeds
    true = stats.norm.cdf(2.2 / spread) - stats.norm.cdf(1.6 / spread)
    assert true == pytest.approx(0.0744, abs=5e-4)
    found = simulated(300, between_seeds=0.1, better=0.6)
    assert np.mean([one.winner == 0 for one in found]) >= 0.8
    assert 0.92 <= np.mean([one.low <= true <= one.high for one in found]) <= 0.98


def test_delong_calls_equal_runs_different_in_3_to_7_percent_of_1000_repeats():
    for size in (1, 4):  # images a patient
        random = np.random.default_rng(2)
        found = [two_families(random, 0.0, size, seeds=1) for _ in range(1000)]
        rejected = np.mean([delong(runs[0], others[0], groups).p < 0.05 for runs, others, groups in found])
        assert 0.03 <= rejected <= 0.07


def test_the_interval_is_students_with_the_variance_of_both_factors_by_hand():
    """Two seeds whose draws move together: seeds differ by 0.2, patients by a known amount."""
    drawn = np.array([-0.01, 0.01, -0.01, 0.01])
    first = np.array([[0.9, *(0.9 + drawn)], [0.7, *(0.7 + drawn)]])
    found = paired_difference("auroc", first, np.full((2, 5), 0.6), n=100, groups=52)
    images, training = drawn.var(ddof=1), 0.02 / 2  # variance of .3 and .1 is .02, the same noise never counted twice
    assert found.effect == pytest.approx(0.2)
    assert found.error == pytest.approx(np.sqrt(images + training))
    assert found.freedom == pytest.approx((images + training) ** 2 / (training**2 / 1 + images**2 / 50))
    assert found.high - found.effect == pytest.approx(stats.t.ppf(0.975, found.freedom) * found.error)
    assert (found.p < 0.05) == (found.low > 0)
    assert found.by_seed == pytest.approx((0.3, 0.1))


def test_noise_of_patients_that_differs_by_seed_is_counted_once():
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.02, (4, 2001))  # of each seed alone; the seeds themselves do not differ
    noise[:, 0] = random.normal(0, 0.02, 4)
    noise[:, 0] *= 0.02 / noise[:, 0].std(ddof=1)
    found = paired_difference("auroc", 0.8 + noise, np.full((4, 2001), 0.8), n=500, groups=500)
    assert found.error == pytest.approx(0.02 / 2, rel=0.1)  # not sqrt(2) of it


def test_one_seed_says_so_and_equal_runs_do_not_differ():
    runs, others, groups = two_families(np.random.default_rng(0), 0.1, seeds=1)
    said = compare(runs, others, groups, ("auroc",), 200)["auroc"].verdict("A", "B")
    assert "One seed" in said
    same = compare(runs, runs, groups, draws=50)
    assert all((one.effect, one.p, one.detected, one.winner) == (0, 1, False, None) for one in same.values())
    assert same.keys() == METRICS.keys()


def test_the_verdict_gives_effect_and_interval_first_and_knows_which_way_is_better():
    runs, others, groups = two_families(np.random.default_rng(0), 0.05, better=3.0)
    found = compare(runs, others, groups, ("auroc", "brier"), 300)
    assert found["auroc"].winner == found["brier"].winner == 0
    assert found["brier"].effect < 0
    assert found["auroc"].verdict("A", "B").startswith("AUROC: A is better than B, A minus B +0.")
    lost = replace(found["auroc"], holm=0.2).verdict("A", "B")
    assert "between A and B, once corrected for the number of comparisons: +0." in lost
    none = replace(found["auroc"], p=0.2, holm=0.2).verdict("A", "B")
    assert none.startswith("AUROC: no detectable difference between A and B: +0.")
    assert none.index("interval") < none.index("p 0.200")
    assert said_p(0.0002) == "< 0.001"


def test_a_reversed_difference_is_that_of_the_families_exchanged():
    random = np.random.default_rng(0)
    first, second = random.normal(0.8, 0.02, (3, 101)), random.normal(0.7, 0.02, (3, 101))
    one = paired_difference("auroc", first, second, 100, 50)
    other = paired_difference("auroc", second, first, 100, 50)
    assert one.reversed().by_seed == pytest.approx(other.by_seed)
    same = {name: value for name, value in vars(other).items() if name not in ("metric", "by_seed")}
    assert {name: getattr(one.reversed(), name) for name in same} == pytest.approx(same)
    assert one.reversed().reversed() == one
    equal = paired_difference("auroc", first, first, 100, 50).reversed()
    assert "-0.000" not in equal.verdict("a", "b")


def test_other_images_or_seeds_are_refused():
    runs, others, groups = two_families(np.random.default_rng(0), 0.1)
    turned = [replace(one, labels=1 - one.labels) for one in others]
    with pytest.raises(BadRequest, match="same test images"):
        compare(runs, turned, groups, ("auroc",), 20)
    with pytest.raises(BadRequest, match="same seeds"):
        compare(runs, others[:2], groups, ("auroc",), 20)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([]) == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(values):
    found = holm(values)
    assert all(p <= q <= min(1, p * len(values)) + 1e-12 for p, q in zip(values, found, strict=True))
    assert np.array_equal(np.argsort(values, kind="stable"), np.lexsort((np.arange(len(values)), values, found)))


def test_corrected_differences_count_their_number():
    runs, others, groups = two_families(np.random.default_rng(0), 0.05, better=1.5)
    one = compare(runs, others, groups, ("auroc",), 200)["auroc"]
    three = corrected([one, replace(one, p=0.5), replace(one, p=0.9)])
    assert [row.holm for row in three] == pytest.approx([3 * one.p, 1.0, 1.0])


# The classical tests


def brute_force_delong(labels, first, second):
    """Variance of the difference by all pairs of images, as DeLong et al. 1988 write it."""
    kernels = [
        (p[labels == 1][:, None] > p[labels == 0]) + 0.5 * (p[labels == 1][:, None] == p[labels == 0])
        for p in (first, second)
    ]
    areas = [kernel.mean() for kernel in kernels]
    covariances = []
    for axis in (1, 0):
        parts = np.stack([kernel.mean(axis=axis) for kernel in kernels])
        covariances.append(np.cov(parts) / parts.shape[1])
    total = sum(covariances)
    return areas, total[0, 0] + total[1, 1] - 2 * total[0, 1]


def of(p, labels):
    return Scores(np.stack([1 - p, p], axis=1), labels, 1)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.booleans())
def test_delong_agrees_with_the_definition_over_all_pairs(seed, ties):
    random = np.random.default_rng(seed)
    labels = np.r_[0, 1, 0, 1, random.integers(0, 2, 60)]
    first, second = random.random((2, 64)) * 0.7 + 0.3 * labels
    if ties:
        first, second = np.round(first, 1), np.round(second, 1)
    areas, variance = brute_force_delong(labels, first, second)
    found = delong(of(first, labels), of(second, labels), np.arange(64))
    assert (found.first, found.second) == pytest.approx(areas)
    assert found.high - found.effect == pytest.approx(stats.norm.ppf(0.975) * np.sqrt(variance))
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.effect) / np.sqrt(variance)))


def test_delong_of_copied_images_is_that_of_their_patients():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    first, second = random.random((2, 80)) + 0.5 * labels
    alone = delong(of(first, labels), of(second, labels), np.arange(80))
    thrice = [of(np.repeat(p, 3), np.repeat(labels, 3)) for p in (first, second)]
    together = delong(*thrice, np.repeat(np.arange(80), 3))
    assert (together.effect, together.p) == pytest.approx((alone.effect, alone.p))
    assert delong(*thrice, np.arange(240)).p < alone.p


def test_delong_of_several_classes_is_that_of_their_mean():
    """Checked against the jackknife, another way to the same variance."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 150)
    both = []
    for strength in (1.5, 1.0):
        p = np.exp(random.normal(size=(150, 3)) + strength * np.eye(3)[labels])
        both.append(Scores(p / p.sum(axis=1, keepdims=True), labels))
    found = delong(*both, np.arange(150))
    leave_one_out = 1 - np.eye(150)
    jack = METRICS["auroc"](both[0], leave_one_out) - METRICS["auroc"](both[1], leave_one_out)
    error = np.sqrt(149 / 150 * ((jack - jack.mean()) ** 2).sum())
    assert (found.high - found.effect) / stats.norm.ppf(0.975) == pytest.approx(error, rel=0.02)


def test_delong_of_findings_leaves_unknown_labels_out():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (90, 2)).astype(float)
    labels[::3, 1] = np.nan
    first, second = (Scores(np.clip(random.random((90, 2)) + 0.3 * np.nan_to_num(labels), 0, 1), labels,
                            thresholds=(0.5, 0.5)) for _ in range(2))  # fmt: skip
    found = delong(first, second, np.arange(90))
    assert found.first == pytest.approx(METRICS["auroc"](first, np.ones((1, 90)))[0])
    one = delong(first.known_finding(1), second.known_finding(1), np.arange(90)[first.known(1)])
    assert found.effect != pytest.approx(one.effect)


def test_delong_needs_two_patients_a_class():
    labels = np.array([0, 0, 1, 1])
    one = of(np.array([0.1, 0.2, 0.3, 0.4]), labels)
    with pytest.raises(BadRequest, match="two groups"):
        delong(one, one, np.array([0, 1, 2, 2]))


def test_mcnemar_is_the_exact_binomial_of_the_disagreements():
    labels = np.ones(20, int)
    first = of(np.where(np.arange(20) < 14, 0.9, 0.1), labels)  # right on 14
    second = of(
        np.where((np.arange(20) >= 12) & (np.arange(20) < 17), 0.9, 0.1), labels
    )  # right on 5, 2 of them shared
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (12, 3)
    assert found.p == pytest.approx(2 * stats.binom.cdf(3, 15, 0.5))
    assert mcnemar(first, first).p == 1
    with pytest.raises(BadRequest, match="same test images"):
        mcnemar(first, of(first.probabilities[:, 1], np.zeros(20, int)))
