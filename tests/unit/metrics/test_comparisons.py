"""Comparisons of two families: the primary test is validated by simulation, the classical tests against references."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from core.errors import BadRequest
from core.metrics import METRICS, Scores
from core.metrics.bootstrap import interval, with_seeds
from core.metrics.comparisons import (
    Difference,
    bonferroni_corrected,
    combined_error,
    delong,
    format_p,
    holm,
    holm_corrected,
    mcnemar,
    paired_difference,
)
from core.metrics.equivalence import tost_p, tost_power
from tests.synthetic_runs import compare

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
    assert 0.03 <= np.mean([one.verdict == "different" for one in found]) <= 0.07


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
    """Six seeds whose draws move together: half of them 0.2 above the others, patients varying by a known amount."""
    drawn = np.array([-0.01, 0.01, -0.01, 0.01])
    first = np.array([[value, *(value + drawn)] for value in (0.9, 0.7) * 3])
    found = paired_difference("auroc", first, np.full((6, 5), 0.6), n=100, groups=52)
    images, training = drawn.var(ddof=1), 6 * 0.1**2 / 5 / 6  # the same noise never counted twice
    assert found.effect == pytest.approx(0.2)
    assert found.error == pytest.approx(np.sqrt(images + training))
    assert (found.error_patients**2, found.error_seeds**2) == pytest.approx((images, training))
    assert found.freedom == pytest.approx((images + training) ** 2 / (training**2 / 5 + images**2 / 50))
    assert found.high - found.effect == pytest.approx(stats.t.ppf(0.975, found.freedom) * found.error)
    assert found.p == pytest.approx(2 * stats.t.sf(0.2 / found.error, found.freedom))
    assert (found.p < 0.05) == (found.low > 0)
    assert found.by_seed == pytest.approx((0.3, 0.1) * 3)


def test_below_five_seeds_the_interval_is_banerjees_and_there_is_no_verdict_by_hand():
    drawn = np.array([-0.01, 0.01, -0.01, 0.01])
    first = np.array([[0.9, *(0.9 + drawn)], [0.7, *(0.7 + drawn)]])
    found = paired_difference("auroc", first, np.full((2, 5), 0.6), n=100, groups=52)
    over_patients, over_seeds = 2.0086 * drawn.std(ddof=1), 12.7062 * 0.1  # t of 50 and of 1 degrees of freedom
    assert found.high - found.effect == pytest.approx(np.hypot(over_patients, over_seeds), rel=1e-4)
    assert found.effect - found.low == pytest.approx(found.high - found.effect)
    assert np.isnan([found.p, found.holm, found.p_equivalence, found.holm_equivalence, found.power]).all()
    assert (found.verdict, found.winner, found.within_margin) == ("no verdict", None, False)
    assert found.sentence("A", "B") == (
        "AUROC: no verdict: 2 seeds, at least 5 needed. A minus B +0.200 (95% interval over seeds and test patients "
        f"{found.low:+.3f} to {found.high:+.3f})."
    )
    record = found.record()
    assert (record["p"], record["power"], record["verdict"]) == (None, None, "no verdict")
    alone = paired_difference("auroc", first[:1], np.full((1, 5), 0.6), n=100, groups=52)
    assert alone.high - alone.effect == pytest.approx(over_patients, rel=1e-4)
    assert alone.varies == "test patients, one seed"
    assert "no verdict: 1 seed, at least 5 needed" in alone.sentence("A", "B")
    assert format_p(alone.p) == "–"


def test_noise_of_patients_that_differs_by_seed_is_counted_once():
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.02, (9, 2001))  # of each seed alone; the seeds themselves do not differ
    noise[:, 0] *= 0.02 / noise[:, 0].std(ddof=1)
    found = paired_difference("auroc", 0.8 + noise, np.full((9, 2001), 0.8), n=500, groups=500)
    assert found.error == pytest.approx(0.02 / 3, rel=0.1)  # not sqrt(2) of it


def test_equal_runs_do_not_differ_and_are_equivalent():
    runs, _, groups = two_families(np.random.default_rng(0), 0.1)
    same = compare(runs, runs, groups, tuple(METRICS), 50)
    assert all((one.effect, one.p, one.p_equivalence, one.verdict) == (0, 1, 0, "equivalent") for one in same.values())
    assert same.keys() == METRICS.keys()


# Verdicts


def difference(effect, error=0.004, freedom=8.0, metric="auroc", seeds=5):
    """A difference whose p values are computed here, not by the code under test."""
    p = 2 * stats.t.sf(abs(effect) / error, freedom)
    below, above = stats.t.sf((effect + 0.01) / error, freedom), stats.t.sf((0.01 - effect) / error, freedom)
    half = stats.t.ppf(0.975, freedom) * error
    return Difference(metric, effect, effect - half, effect + half, p, p, max(below, above), max(below, above), 0.01, 1,
                      error, error, error, freedom, seeds, 600, 500, (effect,) * seeds)  # fmt: skip


def test_two_one_sided_tests_by_hand():
    """t of 8 degrees of freedom: 1.860 leaves 5% above it, 2.896 leaves 1%."""
    assert tost_p(0.0, 0.01 / 1.8595, 8.0) == pytest.approx(0.05, abs=1e-4)
    assert tost_p(0.002, 0.008 / 2.8965, 8.0) == pytest.approx(0.01, abs=1e-4)
    assert tost_p(-0.002, 0.008 / 2.8965, 8.0) == pytest.approx(0.01, abs=1e-4)
    assert tost_p(0.01, 0.003, 8.0) == pytest.approx(0.5)
    assert tost_p(0.03, 0.003, 8.0) > 0.99
    assert (tost_p(0.009, 0.0, 8.0), tost_p(0.01, 0.0, 8.0)) == (0.0, 1.0)


def test_equivalence_is_the_90_percent_interval_within_the_margin():
    for effect in np.linspace(-0.02, 0.02, 41):
        one = difference(effect)
        half = stats.t.ppf(0.95, 8.0) * 0.004
        assert one.within_margin == (abs(effect) + half < 0.01)
        assert tost_p(effect, 0.004, 8.0) == pytest.approx(one.p_equivalence)


@pytest.mark.parametrize(
    ("effect", "error", "verdict", "says"),
    [
        (0.030, 0.004, "different", "AUROC: A is better than B: A minus B +0.030 (95% interval over seeds and test "
         "patients +0.021 to +0.039; p < 0.001)."),
        (-0.030, 0.004, "different", "AUROC: B is better than A: A minus B -0.030 (95% interval over seeds and test "
         "patients -0.039 to -0.021; p < 0.001)."),
        (0.005, 0.001, "different", "AUROC: A is better than B, though by less than the margin of 0.01: A minus B "
         "+0.005 (95% interval over seeds and test patients +0.003 to +0.007; p 0.001)."),
        (0.001, 0.003, "equivalent", "AUROC: A and B are equivalent within 0.01: A minus B +0.001 (95% interval over "
         "seeds and test patients -0.006 to +0.008; p of equivalence 0.009)."),
        (0.008, 0.006, "undecided", "AUROC: undecided between A and B, neither different nor equivalent within 0.01: A "
         "minus B +0.008 (95% interval over seeds and test patients -0.006 to +0.022; p 0.219, of equivalence 0.374)."),
    ],
)  # fmt: skip
def test_verdicts_and_their_sentences(effect, error, verdict, says):
    one = difference(effect, error)
    assert one.verdict == verdict
    assert one.sentence("A", "B") == says
    assert one.record()["verdict"] == verdict
    assert one.winner == (None if verdict != "different" else int(effect < 0))


def test_of_an_error_the_smaller_is_the_better():
    assert difference(-0.03, metric="brier").sentence("A", "B").startswith("Brier score: A is better than B:")
    assert difference(-0.03, metric="brier").verdict_text("A", "B") == "different: A is better"


def test_both_tests_are_corrected_over_all_contrasts_by_hand():
    tested = [difference(0.012), difference(0.000), difference(0.030), difference(0.000, 0.003)]
    few = paired_difference("auroc", np.full((2, 9), 0.8), np.full((2, 9), 0.7), 10, 10)
    found = holm_corrected([*tested, few])
    p, q = [one.p for one in tested], [one.p_equivalence for one in tested]
    assert found[2].holm == pytest.approx(4 * p[2])
    assert found[0].holm == pytest.approx(3 * p[0])
    assert found[3].holm_equivalence == pytest.approx(4 * q[3])
    assert found[1].holm_equivalence == pytest.approx(3 * q[1])
    assert [one.contrasts for one in found] == [4, 4, 4, 4, 1]
    assert [one.verdict for one in tested] == ["different", "equivalent", "different", "equivalent"]
    assert [one.verdict for one in found] == ["undecided", "undecided", "different", "equivalent", "no verdict"]
    assert "by Holm over 4 contrasts" in found[0].sentence("A", "B")


def test_one_contrast_of_many_is_corrected_as_the_first_of_them():
    one = difference(0.012)
    found = bonferroni_corrected(one, 3)
    assert (found.holm, found.holm_equivalence) == (pytest.approx(3 * one.p), 1.0)
    assert found.contrasts == 3
    few = paired_difference("auroc", np.full((2, 9), 0.8), np.full((2, 9), 0.7), 10, 10)
    assert bonferroni_corrected(few, 3) is few


def test_p_values_as_people_write_them():
    assert [format_p(p) for p in (0.0002, 0.2, float("nan"))] == ["< 0.001", "0.200", "–"]


@pytest.mark.parametrize("margin", [0.0, -0.01, float("nan")])
def test_a_margin_that_is_none_is_refused(margin):
    with pytest.raises(BadRequest, match="Expected a margin of equivalence above 0"):
        paired_difference("auroc", np.full((5, 9), 0.8), np.full((5, 9), 0.7), 10, 10, margin)


# Simulations of seeds and patients: 1 is the spread of patients' noise common to all seeds


def crossed(random, repeats, seeds, between, own=0.5, shift=0.0, resamples=120):
    """Differences of two families: (repeats, K, 1 + resamples), in units of the patients' standard error."""
    patients, noise, training = (
        random.normal(size=size) for size in ((repeats, 1), (repeats, seeds), (repeats, seeds))
    )
    measured = shift + patients + own * noise + between * training
    again = random.normal(size=(repeats, 1, resamples)) + own * random.normal(size=(repeats, seeds, resamples))
    return np.concatenate([measured[:, :, None], measured[:, :, None] + again], axis=2)


def verdicts(repeats, seeds, between, margin=1e-9, **how):
    """The paired comparison of each repeat."""
    values = crossed(np.random.default_rng(3), repeats, seeds, between, **how)
    return [paired_difference("auroc", one, np.zeros_like(one), 600, 600, margin) for one in values]


@pytest.mark.parametrize("between", [0.0, 1.0, 3.0, 6.0])
def test_five_seeds_call_equal_families_different_in_3_to_7_percent_however_much_seeds_vary(between):
    found = verdicts(3000, 5, between)
    assert 0.03 <= np.mean([one.verdict == "different" for one in found]) <= 0.07


@pytest.mark.parametrize("between", [0.0, 1.0, 3.0])
def test_families_apart_by_the_margin_are_called_equivalent_in_at_most_5_percent(between):
    """The margin is four standard errors, so that the test has power; the true difference lies on its edge."""
    margin = 4 * np.sqrt(1 + 0.25 / 5 + between**2 / 5)
    found = verdicts(3000, 5, between, margin, shift=margin)
    within = np.mean([one.within_margin for one in found])
    assert 0.02 <= within <= 0.05 + 0.01  # a binomial share of 3,000 has a standard deviation of .004
    assert np.mean([one.verdict == "equivalent" for one in found]) <= within


@pytest.mark.parametrize("seeds", [2, 3, 4])
@pytest.mark.parametrize("between", [0.0, 1.0, 3.0, 6.0])
def test_intervals_of_few_seeds_cover_at_least_the_nominal_share_and_give_no_verdict(seeds, between):
    found = verdicts(2000, seeds, between)
    assert {one.verdict for one in found} == {"no verdict"}
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.94


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("between", [0.0, 1.0, 4.0])
def test_the_interval_of_a_series_over_both_covers_at_least_the_nominal_share(seeds, between):
    values = 0.5 + 1e-3 * crossed(np.random.default_rng(4), 2000, seeds, between)
    metric = METRICS["auroc"]
    found = [with_seeds(interval(one.mean(axis=0), 600, metric), one[:, 0].tolist(), metric) for one in values]
    assert np.mean([one.both.low <= 0.5 <= one.both.high for one in found]) >= 0.94
    if between == 4.0:  # what either interval alone leaves out
        assert np.mean([one.patients.low <= 0.5 <= one.patients.high for one in found]) < 0.8


# Power of the test of equivalence


@pytest.mark.parametrize(("error", "freedom", "effect"), [(0.003, 8, 0.0), (0.004, 5, 0.002), (0.006, 20, 0.0)])
def test_power_is_that_of_simulated_tests(error, freedom, effect):
    random = np.random.default_rng(0)
    measured = random.normal(effect, error, 200_000)
    half = stats.t.ppf(0.95, freedom) * error * np.sqrt(random.chisquare(freedom, 200_000) / freedom)
    simulated_power = np.mean((measured - half > -0.01) & (measured + half < 0.01))
    assert tost_power(error, freedom, 0.01, effect) == pytest.approx(simulated_power, abs=0.005)


def test_power_by_hand_at_its_ends():
    known = 2 * stats.norm.cdf(0.01 / 0.004 - stats.norm.ppf(0.95)) - 1  # the error known exactly
    assert tost_power(0.004, 1e6) == pytest.approx(known, abs=1e-4)
    assert tost_power(0.004, 1e6, effect=0.01) == pytest.approx(0.05, abs=1e-3)
    assert tost_power(0.05, 8.0) == pytest.approx(0, abs=1e-3)
    assert (tost_power(0.0, 8.0), tost_power(0.0, 8.0, effect=0.02)) == (1.0, 0.0)
    assert tost_power(0.003, 8.0, level=0.05 / 10) < tost_power(0.003, 8.0)


def test_power_can_be_planned_from_the_parts_of_a_pilots_error():
    drawn = np.random.default_rng(0).normal(0, 0.002, 500)
    first = np.array([[value, *(value + drawn)] for value in (0.801, 0.8, 0.799, 0.803, 0.797)])
    pilot = paired_difference("auroc", first, np.full_like(first, 0.8), 600, 500)
    error, freedom = combined_error(pilot.error_patients, pilot.error_seeds, 5, 500)
    assert (error, freedom) == pytest.approx((pilot.error, pilot.freedom))
    assert tost_power(error, freedom) == pytest.approx(pilot.power)
    ten = combined_error(pilot.error_patients, pilot.error_seeds * np.sqrt(5 / 10), 10, 500)
    assert tost_power(*ten) > tost_power(error, freedom)


def test_a_reversed_difference_is_that_of_the_families_exchanged():
    random = np.random.default_rng(0)
    first, second = random.normal(0.8, 0.02, (5, 101)), random.normal(0.7, 0.02, (5, 101))
    one = paired_difference("auroc", first, second, 100, 50)
    other = paired_difference("auroc", second, first, 100, 50)
    assert one.reversed().by_seed == pytest.approx(other.by_seed)
    same = {name: value for name, value in vars(other).items() if name not in ("metric", "by_seed")}
    assert {name: getattr(one.reversed(), name) for name in same} == pytest.approx(same)
    assert one.reversed().reversed() == one
    equal = paired_difference("auroc", first, first, 100, 50).reversed()
    assert "-0.000" not in equal.sentence("a", "b")


def test_other_seeds_are_refused():
    runs, others, groups = two_families(np.random.default_rng(0), 0.1)
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
    three = holm_corrected([one, replace(one, p=0.5), replace(one, p=0.9)])
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
