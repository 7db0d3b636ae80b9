"""Operating points: fitted on held-out images for an aim, measured on test images at a prevalence."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import beta
from sklearn.metrics import confusion_matrix, roc_curve

from core.errors import BadRequest, UnknownName
from core.metrics import Scores
from core.metrics.operating_point import (
    at_thresholds,
    decision_curve,
    net_benefit,
    operate,
    predictive_values,
    resample_images,
    shift_cost,
    shift_prevalence,
)
from core.metrics.thresholds import RULES, Aim, fit_operating_point
from trainer.cli import parse


def held_out(seed, n=200, prevalence=0.5, part="validation"):
    random = np.random.default_rng(seed)
    labels = np.r_[0, 1, (random.random(n - 2) < prevalence).astype(int)]
    p = expit(random.normal(1.8 * labels - 0.9, 1))
    return Scores(np.stack([1 - p, p], axis=1), labels, 1, part=part)


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_takes_test_images(rule):
    scores = held_out(0)
    point = fit_operating_point(scores, Aim(rule))
    assert 0 < point.threshold < 1
    with pytest.raises(BadRequest, match="these are test images"):
        fit_operating_point(replace(scores, part="test"), Aim(rule))
    assert parse(["report", "--rule", rule]).rule == rule


def test_a_wanted_sensitivity_leaves_the_next_positive_its_chance_by_hand():
    """Of 19 held-out positives all must lie above for 95%, of 39 one may lie below."""
    for count, below in ((19, 0), (39, 1)):
        p = np.arange(1, count + 1) / 100
        scores = Scores(np.stack([1 - p, p], axis=1), np.ones(count, int), 1, part="validation")
        both = Scores(np.vstack([scores.probabilities, [[0.99, 0.01]]]), np.r_[scores.labels, 0], 1, part="validation")
        point = fit_operating_point(both, Aim("sensitivity", sensitivity=0.95))
        assert point.threshold == pytest.approx(p[below])
        assert point.caution == ""
    few = Scores(both.probabilities[-11:], both.labels[-11:], 1, part="validation")
    assert "at most 90.9%" in fit_operating_point(few, Aim("sensitivity", sensitivity=0.95)).caution


def test_new_positives_are_found_as_often_as_wanted():
    found = []
    for seed in range(300):
        point = fit_operating_point(held_out(seed, 60), Aim("sensitivity", sensitivity=0.9))
        p, truth = held_out(10_000 + seed, 400).positives()
        found.append((p[truth] >= point.threshold).mean())
    assert 0.9 <= np.mean(found) <= 0.93


def test_youden_and_cost_are_the_best_cuts_of_the_roc_curve():
    scores = held_out(3)
    p, truth = scores.positives()
    alarms, hits, _ = roc_curve(truth, p)
    point = fit_operating_point(scores, Aim("youden"))
    says = p >= point.threshold
    assert says[truth].mean() - says[~truth].mean() == pytest.approx((hits - alarms).max())

    def cost(says, aim):
        return aim.prevalence * aim.ratio * (1 - says[truth].mean()) + (1 - aim.prevalence) * says[~truth].mean()

    for aim in (Aim("cost", ratio=20, prevalence=0.1), Aim("cost", ratio=1, prevalence=0.02)):
        point = fit_operating_point(scores, aim)
        assert cost(p >= point.threshold, aim) == pytest.approx(min(cost(p >= cut, aim) for cut in np.r_[p, 2]))
    cheap, dear = (fit_operating_point(scores, Aim("cost", ratio=ratio)).threshold for ratio in (0.2, 20))
    assert dear < cheap


def test_what_cannot_be_aimed_at_is_refused():
    with pytest.raises(BadRequest, match="between 0 and 1"):
        Aim(sensitivity=1.0)
    with pytest.raises(BadRequest, match="both classes"):
        fit_operating_point(held_out(0).of(np.zeros(200, bool) | (held_out(0).labels == 1)), Aim())
    with pytest.raises(UnknownName, match="Did you mean"):
        fit_operating_point(held_out(0), Aim("yuden"))
    three = Scores(np.full((4, 3), 1 / 3), np.arange(4) % 3, part="validation")
    with pytest.raises(BadRequest, match="binary task"):
        fit_operating_point(three, Aim())


def test_sensitivity_specificity_and_predictive_values_by_hand():
    test = held_out(1, part="test")
    found = operate([test], np.arange(200), 0.02)
    (tn, fp), (fn, tp) = confusion_matrix(test.labels, test.decisions)
    sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
    assert (found.sensitivity.value, found.specificity.value) == pytest.approx((sensitivity, specificity))
    assert found.ppv.value == pytest.approx(sensitivity * 0.02 / (sensitivity * 0.02 + (1 - specificity) * 0.98))
    assert found.npv.value == pytest.approx(specificity * 0.98 / (specificity * 0.98 + (1 - sensitivity) * 0.02))
    for one in (found.sensitivity, found.specificity, found.ppv, found.npv):
        assert one.low < one.value < one.high
    thousand = found.per_thousand()
    assert sum(thousand.values()) == pytest.approx(1000)
    assert thousand["found"] == pytest.approx(20 * sensitivity)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_predictive_values_rise_and_fall_with_the_prevalence(sensitivity, specificity, prevalence):
    ppv, npv = predictive_values(np.array(sensitivity), np.array(specificity), prevalence)
    assert 0 <= ppv <= 1
    assert 0 <= npv <= 1
    more, less = predictive_values(np.array(sensitivity), np.array(specificity), (1 + prevalence) / 2)
    assert more >= ppv - 1e-12
    assert less <= npv + 1e-12


def test_the_mean_of_runs_is_taken_at_each_runs_own_threshold():
    runs = at_thresholds([held_out(1, part="test")] * 2, [0.3, 0.7])
    found = operate(runs, np.arange(200), 0.1)
    each = [operate([one], np.arange(200), 0.1).sensitivity.value for one in runs]
    assert found.sensitivity.value == pytest.approx(np.mean(each))


def test_no_miss_in_100_positives_is_no_proof_of_none():
    """Drawing again shows no doubt there; the exact bound of Clopper and Pearson takes its place."""
    p = np.r_[np.full(100, 0.9), np.linspace(0, 1, 100)]
    scores = Scores(np.stack([1 - p, p], axis=1), np.repeat([1, 0], 100), 1)
    found = operate([scores], np.arange(200), 0.1)
    assert (found.sensitivity.value, found.sensitivity.high) == (1, 1)
    assert found.sensitivity.low == pytest.approx(beta.ppf(0.025, 100, 1), abs=1e-3)
    assert found.npv.low < 1
    pairs = operate([scores], np.arange(200) // 2, 0.1)
    assert pairs.sensitivity.low == pytest.approx(beta.ppf(0.025, 50, 1), abs=1e-3)
    none = operate([scores.at(0.95)], np.arange(200), 0.1).sensitivity
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - beta.ppf(0.025, 100, 1), abs=1e-3)


def test_a_shift_of_the_threshold_changes_cost_by_the_counts():
    test = held_out(2, part="test")
    groups, drawn = np.arange(200), resample_images([test], np.arange(200))
    low, high = (operate([test.at(cut)], groups, 0.1, drawn) for cut in (0.3, 0.6))
    cost = shift_cost(low, high, 200)
    before, after = low.per_thousand(), high.per_thousand()
    for name in ("missed", "false_alarms"):
        assert cost[name].value == pytest.approx(after[name] - before[name])
        assert cost[name].low <= cost[name].value <= cost[name].high
    assert cost["missed"].value > 0 > cost["false_alarms"].value


def test_the_cost_of_a_shift_from_all_found_is_that_of_the_images_lost():
    """The exact bound of a share of all belongs to its own interval; subtracted, it would make the cost negative."""
    p = np.r_[0.62, np.full(59, 0.9), np.linspace(0, 0.55, 60)]
    scores = Scores(np.stack([1 - p, p], axis=1), np.repeat([1, 0], 60), 1)
    groups, drawn = np.arange(120), resample_images([scores], np.arange(120))
    every, but_one, same = (operate([scores.at(cut)], groups, 0.1, drawn) for cut in (0.58, 0.63, 0.575))
    assert every.sensitivity.low < every.sensitivity.value == 1
    lost = shift_cost(every, but_one, 120)["missed"]
    weights = drawn.weights()
    drawn = 100 * weights[1:, 0] / weights[1:, :60].sum(axis=1)
    assert lost.value == pytest.approx(100 / 60)
    assert (lost.low, lost.high) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))))
    for nothing in shift_cost(same, every, 120).values():
        assert [f"{one:+.1f}" for one in (nothing.value, nothing.low, nothing.high)] == ["+0.0"] * 3


def test_net_benefit_by_hand_and_of_those_who_treat_all_or_none():
    """Vickers and Elkin: true positives less false positives at the odds of the threshold, a person."""
    assert net_benefit(np.array(0.8), np.array(0.9), 0.2, np.array(0.25)) == pytest.approx(0.16 - 0.08 / 3)
    test = held_out(4, 1000, part="test")
    curve = decision_curve([test], np.arange(1000), 0.3, 0.5)
    w = curve.thresholds / (1 - curve.thresholds)
    assert curve.act_on_all == pytest.approx(0.3 - 0.7 * w)
    assert (curve.low <= curve.benefit + 1e-9).all()
    assert (curve.benefit <= curve.high + 1e-9).all()
    p, truth = test.positives()
    moved = shift_prevalence(p, 0.5, 0.3)
    for index in (5, 20, 40):
        acts = moved >= curve.thresholds[index]
        by_hand = 0.3 * acts[truth].mean() - 0.7 * acts[~truth].mean() * w[index]
        assert curve.benefit[index] == pytest.approx(by_hand)
    ((acting, benefit),) = curve.marks
    assert acting == pytest.approx(0.3)  # one half, fitted at one half, is the prevalence itself
    assert benefit == pytest.approx(0.3 * (p >= 0.5)[truth].mean() - 0.7 * (p >= 0.5)[~truth].mean() * 0.3 / 0.7)


def test_shifted_probabilities_come_true_at_the_other_prevalence():
    random = np.random.default_rng(0)
    labels = (random.random(200_000) < 0.1).astype(int)
    score = random.normal(2.0 * labels, 1)
    at_half = expit(2 * score - 2)  # right where both classes are as frequent
    here = shift_prevalence(at_half, 0.5, 0.1)
    for low, high in ((0.05, 0.15), (0.4, 0.6)):
        inside = (here > low) & (here < high)
        assert labels[inside].mean() == pytest.approx(here[inside].mean(), abs=0.01)
    assert shift_prevalence(here, 0.1, 0.5) == pytest.approx(at_half)


def test_a_prevalence_of_0_and_other_images_are_refused():
    test = held_out(0, part="test")
    with pytest.raises(BadRequest, match="prevalence"):
        operate([test], np.arange(200), 0.0)
    with pytest.raises(BadRequest, match="prevalence"):
        decision_curve([test], np.arange(200), 0.1, 1.0)
    with pytest.raises(BadRequest, match="same test images"):
        operate([test, held_out(9, part="test")], np.arange(200), 0.1)
