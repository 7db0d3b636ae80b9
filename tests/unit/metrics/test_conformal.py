"""Uncertainty: conformal sets, the reliability diagram, and selective prediction."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from core.errors import BadRequest, LeakFound
from core.metrics import Scores, measure
from core.metrics.bootstrap import prepend_ones, resample_weights
from core.metrics.calibration import probabilities_of
from core.metrics.conformal import (
    Conformal,
    Coverage,
    calibrate,
    check_calibration_disjoint,
    coverage,
    required_patients,
    sets_of,
)
from core.metrics.reliability import chance_error, reliability
from core.metrics.selective import decision_certainty, risk_curve


def several(seed, n, part="calibration", classes=3, shift=0.0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    logits = random.normal(size=(n, classes)) + (1.5 - shift) * np.eye(classes)[labels]
    return Scores(probabilities_of(logits), labels, part=part)


# Conformal sets


def test_the_number_of_patients_needed():
    assert [required_patients(level) for level in (0.9, 0.95, 0.99, 0.5, 0.8)] == [9, 19, 99, 1, 4]
    with pytest.raises(BadRequest, match="between 0 and 1"):
        required_patients(1.0)


@pytest.mark.parametrize(("level", "enough"), [(0.9, 9), (0.95, 19)])
def test_too_few_calibration_patients_are_refused_with_the_number_needed(level, enough):
    calibrate(several(0, 3 * enough), np.arange(3 * enough), level)
    with pytest.raises(BadRequest, match=f"at least {enough} calibration patients of every class.*class number 2"):
        calibrate(several(0, 3 * enough - 1), np.arange(3 * enough - 1), level)
    many = several(0, 300)  # enough images, but of too few patients
    with pytest.raises(BadRequest, match=f"at least {enough}"):
        calibrate(many, many.labels * 100 + np.arange(300) % (3 * (enough - 1)), level)


@pytest.mark.parametrize(
    ("patients", "advice"),
    [(0, r"has 0\. Label more\.$"), (2, "has 2. Label more, or choose a level of at most 66%"), (7, "at most 87%")],
)
def test_the_level_that_is_recommended_is_possible(patients, advice):
    scores = several(0, 300)
    kept = np.flatnonzero((scores.labels != 2) | (np.cumsum(scores.labels == 2) <= patients))
    few = replace(scores, probabilities=scores.probabilities[kept], labels=scores.labels[kept])
    with pytest.raises(BadRequest, match=advice):
        calibrate(few, np.arange(len(kept)), 0.9)
    if patients:
        calibrate(few, np.arange(len(kept)), int(advice[-3:-1]) / 100)


def test_the_least_probability_by_hand():
    p = np.arange(1, 20) / 100
    scores = Scores(np.stack([1 - p, p], axis=1), np.ones(19, int), 1, part="calibration")
    both = Scores(
        np.vstack([scores.probabilities, scores.probabilities[:, ::-1]]), np.repeat([1, 0], 19), 1, part="calibration"
    )
    assert calibrate(both, np.arange(38), 0.95).least == pytest.approx((0.01, 0.01))  # the first of 19
    assert calibrate(both, np.arange(38), 0.9).least == pytest.approx((0.02, 0.02))  # the second
    assert calibrate(both, np.arange(38), 0.9).patients == (19, 19)
    assert sets_of(calibrate(both, np.arange(38), 0.9), np.array([[0.99, 0.01], [0.98, 0.02]])).tolist() == [
        [True, False],
        [True, True],
    ]


def test_test_images_and_several_findings_are_refused():
    with pytest.raises(BadRequest, match="these are test images"):
        calibrate(several(0, 60, "test"), np.arange(60), 0.9)
    labels = np.zeros((30, 2))
    with pytest.raises(BadRequest, match="choose one of the findings first"):
        calibrate(Scores(labels + 0.5, labels, thresholds=(0.5, 0.5), part="calibration"), np.arange(30), 0.9)


@pytest.mark.parametrize(("level", "patients"), [(0.9, 9), (0.9, 25), (0.8, 14)])
def test_every_class_is_covered_as_often_as_promised_for_any_number_of_patients(level, patients):
    """The guarantee is over calibration and new patients together; it is exact to 1 / (patients + 1)."""
    holds = np.zeros(3)
    repeats = 400
    for seed in range(repeats):
        fitted = calibrate(several(seed, 3 * patients), np.arange(3 * patients), level)
        new = several(1_000_000 + seed, 300)
        sets = sets_of(fitted, new.probabilities)[np.arange(300), new.labels]
        holds += [sets[new.labels == c].mean() for c in range(3)]
    noise = 3 * np.sqrt(level * (1 - level) / patients / repeats)
    assert (holds / repeats >= level - noise).all()
    assert (holds / repeats <= level + 1 / (patients + 1) + noise).all()


def test_images_of_one_patient_do_not_count_as_several():
    """Patients whose images are all alike: taking every image would promise too much."""
    once = several(1, 60)
    copied = once.of(np.repeat(np.arange(60), 5))
    assert calibrate(copied, np.repeat(np.arange(60), 5), 0.9) == calibrate(once, np.arange(60), 0.9)


def test_a_temperature_does_not_change_the_sets_of_two_classes():
    """So that a temperature fitted on the same held-out images takes nothing from a binary task's sets."""
    random = np.random.default_rng(0)
    labels = np.arange(80) % 2
    logits, new = random.normal(size=(80, 2)) + np.eye(2)[labels], random.normal(size=(300, 2))
    found = [
        sets_of(
            calibrate(Scores(probabilities_of(logits, t), labels, 1, part="validation"), np.arange(80), 0.9),
            probabilities_of(new, t),
        )
        for t in (1.0, 2.5)
    ]
    assert np.array_equal(*found)


def covered(fitted: Conformal, scores: Scores, groups: np.ndarray) -> Coverage:
    return coverage(fitted, scores, groups, prepend_ones(resample_weights(scores.labels, groups)))


def test_coverage_is_measured_not_promised():
    fitted = calibrate(several(0, 3000), np.arange(3000), 0.9)
    assert "at least 90% of sets contain the true class" in fitted.guarantee
    assert "used for nothing else" in fitted.guarantee
    same, elsewhere = (covered(fitted, several(1, 600, "test", shift=s), np.arange(600)) for s in (0, 1.2))
    assert all(one.low <= 0.93 and one.high >= 0.87 for one in same.by_class)
    assert all(one.high < 0.9 for one in elsewhere.by_class)
    cross = calibrate(several(0, 300, "validation"), np.arange(300), 0.9)
    assert cross.kind == "cross"
    assert "no guarantee" in cross.guarantee


def test_coverage_by_hand_and_by_patients():
    fitted = replace(calibrate(several(0, 60), np.arange(60), 0.9), least=(0.5, 0.5, 0.2))
    p = np.array([[0.6, 0.2, 0.2], [0.4, 0.5, 0.1], [0.45, 0.45, 0.1], [0.1, 0.6, 0.3]])
    found = covered(fitted, Scores(p, np.array([0, 1, 2, 2])), np.arange(4))
    assert [one.value for one in found.by_class] == [1, 1, 0.5]
    assert (found.size, found.single, found.empty) == (5 / 4, 0.25, 0.25)
    many = several(2, 300, "test")
    wide, narrow = (covered(fitted, many, groups).by_class[0] for groups in (np.arange(300) // 30, np.arange(300)))
    assert wide.value == narrow.value
    absent = covered(fitted, Scores(p[:2], np.array([0, 0])), np.arange(2))
    assert np.isnan(absent.by_class[1].value)


def test_a_calibration_patient_in_another_part_stops_everything():
    check_calibration_disjoint(np.array([1, 2]), [np.array([3]), np.array([4, 5])])
    with pytest.raises(LeakFound, match="1 calibration patients are also in another part"):
        check_calibration_disjoint(np.array([1, 2]), [np.array([3]), np.array([2, 5])])


# Reliability


def test_the_diagram_agrees_with_scikit_learn_and_counts_every_image():
    random = np.random.default_rng(0)
    p = random.random(300)
    labels = (random.random(300) < p**2).astype(int)
    found = reliability(Scores(np.stack([1 - p, p], axis=1), labels, 1))
    frequency, mean_probability = calibration_curve(labels, p, n_bins=10)
    assert [one.frequency.value for one in found] == pytest.approx(frequency)
    assert [one.mean_probability for one in found] == pytest.approx(mean_probability)
    assert sum(one.n for one in found) == 300
    assert all(one.low < one.mean_probability <= one.high and one.frequency.low < one.frequency.high for one in found)


def test_the_diagram_of_several_classes_is_that_of_the_decision():
    scores = several(0, 300)
    top = reliability(scores)
    assert sum(one.n * one.frequency.value for one in top if one.n) == pytest.approx(
        300 * measure(scores, "accuracy")["accuracy"]
    )
    assert top[0].n == 0
    assert np.isnan(top[0].mean_probability)
    with pytest.raises(BadRequest, match="choose one of the findings first"):
        reliability(Scores(np.full((4, 2), 0.5), np.zeros((4, 2)), thresholds=(0.5, 0.5)))


def test_chance_alone_shows_an_error_that_shrinks_with_the_images():
    def measured(seed, n):
        random = np.random.default_rng(seed)
        p = random.random(n)
        return Scores(np.stack([1 - p, p], axis=1), (random.random(n) < p).astype(int), 1)

    few, many = (chance_error(measured(0, n)) for n in (100, 2000))
    assert few.mean > 3 * many.mean
    assert many.mean < many.high
    errors = [measure(measured(seed, 100), "ece")["ece"] for seed in range(200)]
    assert np.mean(errors) == pytest.approx(few.mean, rel=0.1)
    assert 0.02 <= np.mean(np.array(errors) > few.high) <= 0.09


# Selective prediction


def test_risk_against_coverage_by_hand():
    p = np.array([0.99, 0.02, 0.9, 0.2, 0.55])  # surest first: by log odds 0.99, 0.02, 0.9, 0.2, 0.55
    labels = np.array([1, 0, 0, 0, 0])
    scores = Scores(np.stack([1 - p, p], axis=1), labels, 1)
    assert np.argsort(-decision_certainty(scores)).tolist() == [0, 1, 2, 3, 4]
    found = risk_curve([scores], np.arange(5), np.array([0.2, 0.4, 0.6, 0.8, 1.0]))
    assert found.risk == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])
    assert risk_curve([scores], np.arange(5), np.array([0.5])).risk == pytest.approx([0.5 / 2.5])  # half an image


def test_sureness_is_measured_from_the_threshold():
    p = np.array([0.5, 0.2, 0.35])
    scores = Scores(np.stack([1 - p, p], axis=1), np.array([1, 0, 0]), 1, threshold=0.2)
    assert np.argsort(-decision_certainty(scores)).tolist() == [0, 2, 1]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_all_answered_is_the_error_rate_and_the_band_holds_it(seed):
    scores = several(seed, 90, "test")
    found = risk_curve([scores], np.arange(90), draws=50)
    assert found.risk[-1] == pytest.approx(1 - measure(scores, "accuracy")["accuracy"])
    assert (found.low <= found.high).all()


def test_risk_needs_runs_of_one_class_an_image():
    with pytest.raises(BadRequest, match="at least one run"):
        risk_curve([], np.arange(3))
    with pytest.raises(BadRequest, match="choose one of the findings first"):
        decision_certainty(Scores(np.full((4, 2), 0.5), np.zeros((4, 2)), thresholds=(0.5, 0.5)))
