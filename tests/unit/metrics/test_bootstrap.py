"""Metrics, temperature, threshold and bootstrap intervals, against references."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics as reference

from core.metrics import METRICS, Estimate, Scores, bootstrap, measure
from core.metrics.bootstrap import resample_weights
from core.metrics.calibration import (
    calibration_gap,
    fit_temperature,
    negative_log_likelihood,
    probabilities_of,
)
from core.metrics.thresholds import fit_threshold


def binary(seed, n=200, ties=True):
    random = np.random.default_rng(seed)
    labels = np.r_[0, 1, random.integers(0, 2, n - 2)]
    p = np.clip(0.3 * labels + 0.7 * random.random(n), 0, 1)
    p = np.round(p, 1) if ties else p
    return Scores(np.stack([1 - p, p], axis=1), labels, positive=1, threshold=0.55)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.booleans())
def test_binary_metrics_agree_with_scikit_learn(seed, ties):
    scores = binary(seed, ties=ties)
    found, p, y, says = measure(scores), scores.probabilities[:, 1], scores.labels, scores.decisions
    expected = {
        "auroc": reference.roc_auc_score(y, p),
        "auprc": reference.average_precision_score(y, p),
        "accuracy": reference.accuracy_score(y, says),
        "balanced_accuracy": reference.balanced_accuracy_score(y, says),
        "sensitivity": reference.recall_score(y, says),
        "specificity": reference.recall_score(y, says, pos_label=0),
        "precision": reference.precision_score(y, says, zero_division=0),
        "f1": reference.f1_score(y, says),
        "brier": reference.brier_score_loss(y, p),
    }
    assert found.keys() == METRICS.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_multiclass_metrics_agree_with_scikit_learn():
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, 300)
    probabilities = probabilities_of(random.normal(size=(300, 3)) + 1.5 * np.eye(3)[labels])
    found = measure(Scores(probabilities, labels))
    says = probabilities.argmax(axis=1)
    assert found["auroc"] == pytest.approx(reference.roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert found["f1"] == pytest.approx(reference.f1_score(labels, says, average="macro"))
    assert found["sensitivity"] == pytest.approx(reference.recall_score(labels, says, average="macro"))
    assert found["precision"] == pytest.approx(reference.precision_score(labels, says, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, says))


def test_weights_count_images():
    scores = binary(5)
    weights = np.random.default_rng(0).integers(0, 3, (4, 200)).astype(float)
    for name, metric in METRICS.items():
        values = metric.compute(scores, weights)
        for row, value in zip(weights, values, strict=True):
            repeated = np.repeat(np.arange(200), row.astype(int))
            alone = Scores(scores.probabilities[repeated], scores.labels[repeated], 1, scores.threshold)
            assert measure(alone, name)[name] == pytest.approx(value), name


def test_ece_by_hand():
    probabilities = np.array([[0.1, 0.9], [0.1, 0.9], [0.4, 0.6], [0.4, 0.6]])
    labels = np.array([1, 0, 1, 1])  # confidence .9 is right half the time, .6 always
    confidence, is_correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    assert calibration_gap(confidence, is_correct, np.ones((1, 4)), bins=10)[0] == pytest.approx((0.4 + 0.4) / 2)
    assert METRICS["ece"].compute(Scores(probabilities, labels), np.ones((1, 4)))[0] == pytest.approx(0.4)
    with pytest.raises(ValueError, match="at least one image"):
        calibration_gap(confidence[:0], is_correct[:0], np.ones((1, 0)))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.3, 8))
def test_temperature_never_makes_the_fit_worse(seed, stretch):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, 60)
    logits = stretch * (random.normal(size=(60, 2)) + np.eye(2)[labels])
    fitted = fit_temperature(logits, labels)
    assert negative_log_likelihood(logits, labels, fitted) <= negative_log_likelihood(logits, labels) + 1e-12


def test_temperature_recovers_overconfidence():
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 2)) * 2
    labels = (random.random(20_000) < probabilities_of(logits)[:, 1]).astype(int)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("right", [True, False])
def test_temperature_of_four_images_does_not_run_away(right):
    labels = np.array([0, 1, 0, 1])
    logits = np.eye(2)[labels if right else 1 - labels]
    assert 0.5 < fit_temperature(logits, labels) < 2


def test_threshold_is_near_the_best_balanced_accuracy():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [8000, 2000])  # prevalence must not move it
    scores = random.normal(2.0 * labels - 3, 1)
    threshold = fit_threshold(1 / (1 + np.exp(-scores)), labels)
    assert np.log(threshold / (1 - threshold)) == pytest.approx(-2, abs=0.1)


def test_threshold_falls_back_where_nothing_can_be_fitted():
    assert fit_threshold(np.array([0.2, 0.4]), np.array([1, 1])) == 0.5
    assert fit_threshold(np.array([0.9, 0.8, 0.2, 0.1]), np.array([0, 0, 1, 1])) == pytest.approx(0.5)


def test_threshold_of_few_images_stays_near_the_share_of_positives():
    p, labels = np.array([0.2, 0.7, 0.75, 0.8, 0.9, 0.95]), np.array([0, 0, 0, 0, 1, 1])
    cautious, free = fit_threshold(p, labels), fit_threshold(p, labels, prior=100)
    assert 0.8 < free < 0.9
    assert 1 / 3 < cautious < 0.5
    assert fit_threshold(p, labels, prior=1e-3) == pytest.approx(1 / 3, abs=1e-3)
    many = fit_threshold(np.repeat(p, 1000), np.repeat(labels, 1000))
    assert many > cautious + 0.2


def test_bootstrap_draws_patients_whole_and_keeps_class_counts():
    labels, groups = np.repeat([0, 1], [30, 60]), np.arange(90) // 3
    weights = resample_weights(labels, groups, draws=50)
    assert np.array_equal(weights[:, ::3], weights[:, 1::3])
    assert (weights[:, :30].sum(axis=1) == 30).all()
    assert (weights[:, 30:].sum(axis=1) == 60).all()


def test_an_interval_over_patients_is_wider_than_one_that_takes_their_images_for_independent():
    once = binary(7, n=60, ties=False)
    copied = Scores(np.repeat(once.probabilities, 10, axis=0), np.repeat(once.labels, 10), 1, 0.55)
    naive = bootstrap([copied], np.arange(600), ("auroc",))["auroc"]
    honest = bootstrap([copied], np.arange(600) // 10, ("auroc",))["auroc"]
    assert naive.low < naive.value == honest.value < naive.high
    assert honest.high - honest.low > 2 * (naive.high - naive.low)


def test_the_mean_of_runs_has_one_interval_and_other_images_are_refused():
    first, second = binary(7), binary(8)
    second = Scores(second.probabilities, first.labels, 1, 0.5)
    both = bootstrap([first, second], np.arange(200), ("auroc",))["auroc"]
    assert both.value == pytest.approx(np.mean([measure(s, "auroc")["auroc"] for s in (first, second)]))
    with pytest.raises(ValueError, match="same test images"):
        bootstrap([first, binary(9)], np.arange(200))


def test_the_auroc_interval_covers_the_truth_at_its_nominal_rate():
    random = np.random.default_rng(0)
    truth = float(norm.cdf(1 / np.sqrt(2)))
    hits = 0
    for _ in range(200):
        labels = np.repeat([0, 1], 60)
        p = 1 / (1 + np.exp(-random.normal(labels, 1)))
        found = bootstrap([Scores(np.stack([1 - p, p], 1), labels, 1)], np.arange(120), ("auroc",), 300)["auroc"]
        hits += found.low <= truth <= found.high
    assert 0.89 <= hits / 200 <= 0.99


def test_an_estimate_is_formatted_with_its_interval():
    estimate = Estimate(0.81234, 0.79, 0.8333, 100)
    assert f"{estimate:.3f}" == f"{estimate}" == "0.812 (0.790 to 0.833)"
    assert f"{estimate:.0%}" == "81% (79 to 83%)"
    assert f"{Estimate(float('nan'), 0.0, 0.0, 0):.3f}" == "–"
