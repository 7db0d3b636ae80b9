"""Every metric, whole, class by class and averaged, against scikit-learn: weighted, and masked for unknown labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from core.errors import BadRequest
from core.metrics import METRICS, Scores, between_seeds, measure, wilson
from core.metrics.bootstrap import bootstrap, interval
from core.metrics.calibration import calibration_gap, probabilities_of
from core.metrics.measures import support, unit_weights
from core.metrics.scores import refuse_test
from core.runs.series import class_report


def several(seed, n=150, classes=4):
    random = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), random.integers(0, classes, n - classes)]
    return Scores(probabilities_of(random.normal(size=(n, classes)) + 1.2 * np.eye(classes)[labels]), labels)


def binary(seed, n=120):
    random = np.random.default_rng(seed)
    labels = np.r_[0, 1, random.integers(0, 2, n - 2)]
    p = np.round(np.clip(0.3 * labels + 0.7 * random.random(n), 0, 1), 2)
    return Scores(np.stack([1 - p, p], axis=1), labels, positive=1, threshold=0.55)


def findings(seed, n=160, count=3):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (n, count)).astype(float)
    p = np.clip(0.3 * labels + 0.7 * random.random((n, count)), 0, 1)
    labels[random.random((n, count)) < 0.3] = np.nan
    return Scores(p, labels, thresholds=(0.4, 0.5, 0.6))


def one_vs_rest(truth, p, says, weight):
    """Each metric of one class by scikit-learn."""
    sensitivity = reference.recall_score(truth, says, sample_weight=weight)
    specificity = reference.recall_score(truth, says, pos_label=0, sample_weight=weight)
    return {
        "auroc": reference.roc_auc_score(truth, p, sample_weight=weight),
        "auprc": reference.average_precision_score(truth, p, sample_weight=weight),
        "accuracy": reference.accuracy_score(truth, says, sample_weight=weight),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": reference.precision_score(truth, says, sample_weight=weight, zero_division=0),
        "f1": reference.f1_score(truth, says, sample_weight=weight, zero_division=0),
        "mcc": reference.matthews_corrcoef(truth, says, sample_weight=weight),
        "brier": reference.brier_score_loss(truth, p, sample_weight=weight),
    }


weightings = pytest.mark.parametrize("weighted", [False, True])


def weights_for(scores, weighted):
    return np.random.default_rng(7).random(len(scores)) + 0.1 if weighted else np.ones(len(scores))


@weightings
@pytest.mark.parametrize("seed", range(3))
def test_every_metric_of_every_class_agrees_with_scikit_learn(seed, weighted):
    for scores in (several(seed), binary(seed)):
        weight = weights_for(scores, weighted)
        for c in range(scores.probabilities.shape[1]):
            expected = one_vs_rest(
                (scores.labels == c).astype(int),
                scores.probabilities[:, c],
                (scores.decisions == c).astype(int),
                weight,
            )
            assert expected.keys() | {"ece"} == METRICS.keys()
            for name, value in expected.items():
                found = METRICS[name].by_class(scores, weight[None])[c, 0]
                assert found == pytest.approx(value, abs=1e-9), (name, c)


@weightings
def test_whole_metrics_agree_with_scikit_learn(weighted):
    scores = several(5)
    weight, says = weights_for(scores, weighted), scores.decisions
    expected = {
        "auroc": np.mean(
            [reference.roc_auc_score(scores.labels == c, scores.probabilities[:, c], sample_weight=weight)
             for c in range(4)]
        ),
        "accuracy": reference.accuracy_score(scores.labels, says, sample_weight=weight),
        "balanced_accuracy": reference.balanced_accuracy_score(scores.labels, says, sample_weight=weight),
        "f1": reference.f1_score(scores.labels, says, average="macro", sample_weight=weight),
        "mcc": reference.matthews_corrcoef(scores.labels, says, sample_weight=weight),
        "brier": reference.brier_score_loss(
            scores.labels, scores.probabilities, sample_weight=weight, scale_by_half=False
        ),
    }  # fmt: skip
    for name, value in expected.items():
        assert METRICS[name](scores, weight[None])[0] == pytest.approx(value, abs=1e-9), name
    two = binary(5)
    weight = weights_for(two, weighted)
    found = METRICS["mcc"](two, weight[None])[0]
    assert found == pytest.approx(reference.matthews_corrcoef(two.labels, two.decisions, sample_weight=weight))


@weightings
@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_averages_agree_with_scikit_learn(average, weighted):
    scores = several(2)
    weight, says = weights_for(scores, weighted), scores.decisions
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        scores.labels, says, average=average, sample_weight=weight, zero_division=0
    )
    found = {
        name: METRICS[name].averaged(scores, weight[None], average)[0] for name in ("precision", "sensitivity", "f1")
    }
    assert found == pytest.approx({"precision": precision, "sensitivity": recall, "f1": f1})
    if not weighted:
        auroc = reference.roc_auc_score(scores.labels, scores.probabilities, multi_class="ovr", average=average)
        assert METRICS["auroc"].averaged(scores, weight[None], average)[0] == pytest.approx(auroc)


@weightings
def test_findings_are_masked_where_their_label_is_unknown(weighted):
    scores = findings(0)
    weight = weights_for(scores, weighted)
    for name in ("auroc", "auprc", "sensitivity", "specificity", "precision", "f1", "mcc", "brier", "accuracy"):
        values = []
        for k in range(3):
            known = ~np.isnan(scores.labels[:, k])
            p, truth = scores.probabilities[known, k], scores.labels[known, k].astype(int)
            values.append(one_vs_rest(truth, p, (p >= scores.thresholds[k]).astype(int), weight[known])[name])
        assert METRICS[name].by_class(scores, weight[None])[:, 0] == pytest.approx(values), name
        assert METRICS[name](scores, weight[None])[0] == pytest.approx(np.mean(values)), name
    positives = [(weight * (scores.labels[:, k] == 1)).sum() for k in range(3)]
    assert support(scores, weight[None])[:, 0] == pytest.approx(positives)
    by_hand = np.average(METRICS["f1"].by_class(scores, weight[None])[:, 0], weights=positives)
    assert METRICS["f1"].averaged(scores, weight[None], "weighted")[0] == pytest.approx(by_hand)


def test_what_is_undefined_does_not_count_in_an_average():
    scores = findings(0)
    labels = scores.labels.copy()
    labels[:, 2] = np.where(np.isnan(labels[:, 2]), np.nan, 0)  # a finding that no image shows
    lacking = Scores(scores.probabilities, labels, thresholds=scores.thresholds)
    values = METRICS["auroc"].by_class(lacking, unit_weights(lacking))[:, 0]
    assert np.isnan(values[2])
    assert measure(lacking, "auroc")["auroc"] == pytest.approx(values[:2].mean())
    assert METRICS["auroc"].averaged(lacking, np.ones((1, 160)), "macro")[0] == pytest.approx(values[:2].mean())


def test_correlation_without_variation_is_0_and_without_images_undefined():
    labels = np.array([0, 1, 1])
    always = Scores(np.tile([0.1, 0.9], (3, 1)), labels, 1)
    assert measure(always, "mcc")["mcc"] == reference.matthews_corrcoef(labels, always.decisions) == 0
    assert np.isnan(METRICS["mcc"](always, np.zeros((1, 3)))[0])
    assert METRICS["mcc"].by_class(always, unit_weights(always)).ravel().tolist() == [0, 0]


def test_calibration_of_a_class_is_that_of_its_probability_by_hand():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    scores = Scores(probabilities, np.array([0, 1, 1, 0]))
    stated, came = probabilities[:, 0], np.array([1, 0, 0, 1])
    bins = {0.7: [0, 1], 0.1: [2], 0.2: [3]}
    by_hand = sum(abs((came[rows] - stated[rows]).sum()) for rows in bins.values()) / 4
    assert METRICS["ece"].by_class(scores, unit_weights(scores))[0, 0] == pytest.approx(by_hand)
    assert calibration_gap(stated, came == 1, unit_weights(scores))[0] == pytest.approx(by_hand)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_classes_taken_together_keep_their_probability_and_truth(seed):
    scores = several(seed)
    both = scores.merged((1, 3))
    assert both.probabilities[:, 1] == pytest.approx(scores.probabilities[:, [1, 3]].sum(axis=1))
    assert np.array_equal(both.labels == 1, np.isin(scores.labels, (1, 3)))
    for wrong in ((), (0, 1, 2, 3), (4,)):
        with pytest.raises(BadRequest, match="some, not all"):
            scores.merged(wrong)


def test_test_images_are_refused_where_something_is_fitted():
    scores = binary(0)
    with pytest.raises(BadRequest, match="these are test images"):
        refuse_test(scores, "A threshold")
    refuse_test(Scores(scores.probabilities, scores.labels, 1, part="validation"), "A threshold")
    assert scores.of(np.arange(4)).part == "test"  # whatever is taken of test images stays so
    assert findings(0).known_finding(0).part == several(0).merged((1,)).part == "test"


# Intervals


def test_wilson_by_hand_and_at_the_edge():
    z = 1.959963984540054
    center, n = 8 / 10, 10
    middle = (center + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(center * (1 - center) / n + z**2 / (4 * n**2))
    found = wilson(8, 10)
    assert (found.value, found.low, found.high) == pytest.approx((0.8, middle - half, middle + half))
    assert wilson(10, 10).low < 1 == wilson(10, 10).high
    assert np.isnan(wilson(0, 0).value)


def test_seeds_have_an_interval_of_their_own():
    found = between_seeds([0.8, 0.9, 0.85])
    assert (found.mean, found.sd, found.lowest, found.highest) == pytest.approx((0.85, 0.05, 0.8, 0.9))
    assert found.high - found.mean == pytest.approx(4.302653 * 0.05 / np.sqrt(3), rel=1e-5)
    alone = between_seeds([0.8])
    assert (alone.mean, alone.seeds) == (0.8, 1)
    assert np.isnan([alone.sd, alone.low, alone.high]).all()
    with pytest.raises(ValueError, match="at least one seed"):
        between_seeds([])


def test_the_interval_of_a_calibration_error_lies_below_what_drawing_again_adds():
    """Perfectly calibrated probabilities: the measured error is chance, and its interval lies mostly below it."""
    random = np.random.default_rng(0)
    p = random.random(400)
    labels = (random.random(400) < p).astype(int)
    found = bootstrap([Scores(np.stack([1 - p, p], axis=1), labels, 1)], np.arange(400), ("ece",))["ece"]
    assert 0 <= found.low < found.value <= found.high
    assert found.value - found.low > 3 * (found.high - found.value)
    plain = interval(np.array([0.5, 0.4, 0.6, np.nan]), 10)
    assert (plain.low, plain.high) == pytest.approx((0.405, 0.595))
    assert np.isnan(interval(np.array([0.5, np.nan]), 10).low)


def test_a_finding_that_cannot_be_evaluated_has_no_value_and_no_part_in_an_average():
    labels = np.array([[0, 0], [1, 0], [1, np.nan], [0, 0]], float)
    scores = Scores(np.array([[0.2, 0.9], [0.8, 0.1], [0.7, 0.4], [0.6, 0.3]]), labels, thresholds=(0.5, 0.5))
    for name, metric in METRICS.items():
        values = metric.by_class(scores, np.ones((1, 4)))[:, 0]
        assert np.isfinite(values[0]), name
        assert np.isnan(values[1]), name
        assert metric.averaged(scores, np.ones((1, 4)), "macro")[0] == pytest.approx(values[0])
    rows = class_report(scores, ("one", "nobody has it"))
    assert [row["class"] for row in rows] == ["one", "macro average", "weighted average"]
