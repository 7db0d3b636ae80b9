"""Fitted learning curves and label savings, recovered from curves of known shape."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from core.errors import BadRequest
from core.metrics.learning_curves import (
    MeasuredCurve,
    crossover,
    fit_curves,
    fit_power_law,
    images_needed,
    label_multiplier,
)

SIZES = (10, 25, 50, 100, 200)
DRAWS = 400


def measured(shape, noise=0.004, seed=0, sizes=SIZES, seeds=5, metric="auroc"):
    """A family whose mean follows `shape`, with noise between seeds and between draws of test images.

    The draws of test images move all seeds and sizes together, as they do in truth.
    """
    random = np.random.default_rng(seed)
    moved = np.r_[0, random.normal(0, noise, DRAWS)]
    return MeasuredCurve(
        metric,
        {n: {s: shape(n) + random.normal(0, noise) + moved for s in range(seeds)} for n in sizes},
    )


def power(level, gain, exponent):
    return lambda n: level - gain * (n / 10) ** -exponent


def fit(shape, **how):
    return fit_curves({"it": measured(shape, **how)})["it"]


@pytest.mark.parametrize(("level", "gain", "exponent"), [(0.95, 0.2, 0.8), (0.9, 0.3, 0.5), (0.99, 0.1, 1.2)])
def test_a_curve_without_noise_is_recovered(level, gain, exponent):
    found = fit(power(level, gain, exponent), noise=1e-5)
    assert (found.level[0], found.gain[0], found.exponent[0]) == pytest.approx((level, gain, exponent), abs=0.02)
    assert found.rising(np.array(SIZES))[0] == pytest.approx(power(level, gain, exponent)(np.array(SIZES)), abs=2e-3)


def test_the_gain_of_more_images_is_that_of_the_curve_with_its_interval():
    shape = power(0.95, 0.2, 0.8)
    gain, low, high = fit(shape, noise=1e-4).gain_between(100, 200)
    assert low < shape(200) - shape(100) < high
    assert gain == pytest.approx(shape(200) - shape(100), abs=1e-3)


def test_the_fit_is_least_squares_as_scipy_finds_it():
    random = np.random.default_rng(3)
    sizes, precision = np.array(SIZES) / 10, np.array([1, 2, 3, 4, 5.0])
    values = 0.9 - 0.3 * sizes**-0.7 + random.normal(0, 0.01, (20, 5))
    level, gain, exponent = fit_power_law(sizes, values, precision, 1.0)
    for row in range(20):
        ours = (precision * (values[row] - level[row] + gain[row] * sizes ** -exponent[row]) ** 2).sum()
        best, _ = curve_fit(
            lambda n, a, b, c: a - b * n**-c, sizes, values[row], (0.9, 0.3, 0.7), sigma=precision**-0.5, maxfev=10_000,
            bounds=((-np.inf, 0, 0.05), (1, np.inf, 4)),
        )  # fmt: skip
        theirs = (precision * (values[row] - best[0] + best[1] * sizes ** -best[2]) ** 2).sum()
        assert ours <= theirs * 1.001 + 1e-9


def test_a_curve_never_falls_and_never_passes_perfect():
    falling = fit(lambda n: 0.9 - 0.02 * np.log10(n))
    assert (falling.gain >= 0).all()
    assert any("No detectable gain" in doubt for doubt in falling.doubts)
    assert not falling.extrapolable
    assert falling.limit == 200
    logarithmic = fit(lambda n: 0.80 + 0.08 * np.log10(n / 10))
    assert logarithmic.level.max() <= 1
    assert any("not identifiable" in doubt for doubt in logarithmic.doubts)
    assert not logarithmic.identifiable
    assert logarithmic.limit == 800  # so short a way does not need the asymptote


def test_parameters_that_are_not_identifiable_are_reported():
    assert fit(power(0.9, 0.3, 1.0), noise=0.001).doubts == ()
    three = fit(power(0.9, 0.3, 1.0), sizes=(10, 50, 200), noise=0.001)
    assert "3 sizes are too few" in three.doubts[0]
    assert three.limit == 200
    assert fit_curves({"two": measured(power(0.9, 0.3, 1), sizes=(10, 50))}) == {}
    jump = fit(lambda n: 0.6 if n < 20 else 0.9)
    assert any("before the second size" in doubt for doubt in jump.doubts)
    bent = fit(lambda n: {10: 0.70, 25: 0.72, 50: 0.74, 100: 0.90, 200: 0.91}[n], noise=0.002)
    assert any("misses the mean" in doubt for doubt in bent.doubts)
    assert not bent.extrapolable


def test_a_metric_that_is_better_when_lower_falls_to_its_asymptote():
    found = fit(lambda n: 0.08 + 0.2 * (n / 10) ** -0.9, metric="brier", noise=0.001)
    value, low, high = found.asymptote()
    assert low < 0.08 < high
    assert value == pytest.approx(0.08, abs=0.01)
    assert found.band(np.array(SIZES)).value == pytest.approx([0.08 + 0.2 * (n / 10) ** -0.9 for n in SIZES], abs=0.005)
    assert images_needed(found, 0.18).value == pytest.approx(10 * 2 ** (1 / 0.9), rel=0.1)


def test_the_band_marks_extrapolation_and_stops_at_four_times_the_largest_size():
    found = fit(power(0.95, 0.2, 0.8), noise=0.002)
    band = found.band(np.array([10, 100, 200, 400, 800, 900, 5000]))
    assert band.sizes.tolist() == [10, 100, 200, 400, 800]
    assert band.extrapolated.tolist() == [False, False, False, True, True]
    assert ((band.low <= band.value) & (band.value <= band.high)).all()


def test_the_band_covers_the_true_curve_at_its_nominal_rate():
    """Five seeds that differ as wholes and size by size, and test images that move every run alike."""
    shape, sizes = power(0.95, 0.25, 0.8), np.array([10, 50, 200])
    true, held = shape(sizes), np.zeros(3)
    for repeat in range(100):
        random = np.random.default_rng(repeat)
        whole, images = random.normal(0, 0.01, 5), random.normal(0, 0.005)
        moved = images + np.r_[0, random.normal(0, 0.005, 200)]
        found = {n: {s: shape(n) + whole[s] + random.normal(0, 0.01) + moved for s in range(5)} for n in SIZES}
        band = fit_curves({"it": MeasuredCurve("auroc", found)})["it"].band(sizes)
        held += (band.low <= true) & (true <= band.high)
    assert (held >= 88).all()
    assert held.mean() <= 99


def test_images_needed_are_those_at_which_the_curve_passes():
    found = fit(power(0.95, 0.25, 0.8), noise=0.002)
    true = 10 * (0.25 / 0.05) ** (1 / 0.8)
    needed = images_needed(found, 0.90)
    assert needed.low < true < needed.high
    assert needed.value == pytest.approx(true, rel=0.1)
    assert (needed.reached, needed.extrapolated) == (True, False)
    beyond = images_needed(found, 0.94)
    assert beyond.extrapolated
    assert "extrapolated" in beyond.text()
    never = images_needed(found, 0.97)
    assert never.text() == "more than 800 (as is the whole 95% interval)"
    assert images_needed(found, 0.5).text().startswith("at most 10 (")


def test_the_label_multiplier_of_a_curve_shifted_along_the_sizes_is_the_shift():
    """A family that needs three times as many labels at every size."""
    quick, slow = power(0.95, 0.25, 0.8), lambda n: power(0.95, 0.25, 0.8)(n / 3)
    fits = fit_curves({"quick": measured(quick, 0.002, 1), "slow": measured(slow, 0.002, 1)})
    found = label_multiplier(fits["slow"], fits["quick"], 50)
    assert found.low < 3 < found.high
    assert found.value == pytest.approx(3, rel=0.1)
    assert found.text(1, " times as many labels").startswith("3.0 times as many labels (95% interval ")
    back = label_multiplier(fits["quick"], fits["slow"], 50)
    assert back.value == pytest.approx(1 / 3, rel=0.1)
    with pytest.raises(BadRequest, match="between 10 and 200"):
        label_multiplier(fits["slow"], fits["quick"], 300)


def test_common_draws_make_differences_between_families_sure():
    """What patients add to both curves alike does not blur where they stand to one another."""
    shape = power(0.95, 0.25, 0.8)
    fits = fit_curves({"a": measured(shape, 0.01, 1, seeds=1), "b": measured(shape, 0.01, 1, seeds=1)})
    found = label_multiplier(fits["a"], fits["b"], 50)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))


def test_a_crossover_is_found_with_its_interval():
    steep, flat = power(0.95, 0.35, 0.9), power(0.90, 0.15, 0.7)  # flat leads first
    grid = np.geomspace(10, 200, 2000)
    true = grid[np.argmax(steep(grid) > flat(grid))]
    fits = fit_curves({"steep": measured(steep, 0.002, 1), "flat": measured(flat, 0.002, 2)})
    found = crossover(fits["steep"], fits["flat"])
    assert found.detected
    assert found.ahead == 0
    assert found.size.low < true < found.size.high
    assert found.size.value == pytest.approx(true, rel=0.15)
    said = found.verdict("Fine-tuning", "the frozen head")
    assert said.startswith("From about ")
    assert "images per class (95% interval" in said
    assert said.endswith("Fine-tuning overtakes the frozen head.")
    assert crossover(fits["flat"], fits["steep"]).ahead == 1
    few = fit_curves({"steep": measured(steep, 0.002, 1, seeds=4), "flat": measured(flat, 0.002, 2, seeds=4)})
    found = crossover(few["steep"], few["flat"])
    assert not found.detected  # fewer than five seeds: nothing is claimed
    assert found.verdict("A", "B").endswith("The crossover itself is not certain.")


def test_an_absent_or_uncertain_crossover_is_reported():
    better, worse = power(0.95, 0.2, 0.8), power(0.90, 0.2, 0.8)
    fits = fit_curves({"a": measured(better, 0.002, 1), "b": measured(worse, 0.002, 2)})
    assert crossover(fits["a"], fits["b"]).verdict("A", "B") == "No crossover: A is ahead of B throughout."
    close = fit_curves({"a": measured(better, 0.02, 1), "b": measured(better, 0.02, 2)})
    found = crossover(close["a"], close["b"])
    assert not found.detected
    assert "not certain" in found.verdict("A", "B") or "not detectably" in found.verdict("A", "B")


def test_curves_of_other_metrics_or_sizes_are_not_compared():
    one, other = measured(power(0.9, 0.2, 1)), measured(lambda n: 1 / n, metric="brier")
    with pytest.raises(BadRequest, match="several metrics"):
        fit_curves({"a": one, "b": other})
    fits = [fit_curves({"it": row})["it"] for row in (one, other, measured(power(0.9, 0.2, 1), sizes=(300, 400, 500)))]
    with pytest.raises(BadRequest, match="one metric"):
        crossover(fits[0], fits[1])
    with pytest.raises(BadRequest, match="do not overlap"):
        crossover(fits[0], fits[2])
    undefined = MeasuredCurve("auroc", {n: {0: np.full(5, np.nan)} for n in SIZES})
    with pytest.raises(BadRequest, match="undefined"):
        fit_curves({"it": undefined})
