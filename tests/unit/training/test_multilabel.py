"""Tasks of several findings with unknown labels, from the subset to the prediction."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics as reference

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.datasets.phantom import findings_of, make_phantom_of_findings
from core.data.splits import nested_subset, strata_of
from core.errors import BadRequest
from core.inference.predictor import Predictor
from core.metrics import Scores, bootstrap, measure
from core.metrics.calibration import fit_temperature, negative_log_likelihood, probabilities_of
from core.metrics.thresholds import fit_threshold, fit_thresholds
from core.runs import Run, open_store, read_predictions, read_run
from core.runs.metric_cache import resampled_run
from core.runs.series import estimate
from tests.synthetic_runs import STRONG, make_run
from tests.unit.training.test_run_cell import CPU
from trainer.cli import parse
from trainer.commands.report import report_on
from trainer.reporting.markdown_report import as_markdown
from trainer.training.folds import validation_folds
from trainer.training.run_cell import run_cell
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell

RANDOM = np.random.default_rng(5)
TRUTH = (RANDOM.random((300, 3)) < [0.5, 0.3, 0.1]).astype(float)
PROBABILITIES = np.clip(0.5 * RANDOM.random((300, 3)) + 0.3 * TRUTH, 0, 1)
MASKED = np.where(RANDOM.random((300, 3)) < 0.2, np.nan, TRUTH)
THRESHOLDS = (0.4, 0.5, 0.6)


def macro(of_finding):
    found = []
    for k in range(3):
        known = ~np.isnan(MASKED[:, k])
        found.append(of_finding(MASKED[known, k].astype(int), PROBABILITIES[known, k], THRESHOLDS[k]))
    return np.mean(found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auroc", lambda y, p, t: reference.roc_auc_score(y, p)),
        ("auprc", lambda y, p, t: reference.average_precision_score(y, p)),
        ("accuracy", lambda y, p, t: reference.accuracy_score(y, p >= t)),
        ("balanced_accuracy", lambda y, p, t: reference.balanced_accuracy_score(y, p >= t)),
        ("sensitivity", lambda y, p, t: reference.recall_score(y, p >= t)),
        ("specificity", lambda y, p, t: reference.recall_score(y, p >= t, pos_label=0)),
        ("precision", lambda y, p, t: reference.precision_score(y, p >= t)),
        ("f1", lambda y, p, t: reference.f1_score(y, p >= t)),
        ("brier", lambda y, p, t: reference.brier_score_loss(y, p)),
    ],
)
def test_metrics_are_the_mean_over_findings_on_known_labels(name, expected):
    scores = Scores(PROBABILITIES, MASKED, thresholds=THRESHOLDS)
    assert measure(scores, name)[name] == pytest.approx(macro(expected), abs=1e-9)
    alone = measure(scores.known_finding(1), name)[name]
    known = ~np.isnan(MASKED[:, 1])
    assert alone == pytest.approx(expected(MASKED[known, 1].astype(int), PROBABILITIES[known, 1], 0.5), abs=1e-9)


def test_calibration_error_of_findings_is_the_mean_of_each_finding_alone():
    def by_hand(truth, p, threshold):
        confidence, right = np.maximum(p, 1 - p), ((p >= 0.5) == truth).astype(float)
        which = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
        return sum(abs((right - confidence)[which == b].sum()) for b in range(15)) / len(p)

    scores = Scores(PROBABILITIES, MASKED, thresholds=THRESHOLDS)
    assert measure(scores, "ece")["ece"] == pytest.approx(macro(by_hand), abs=1e-9)


def test_a_finding_that_nobody_has_is_left_out_of_the_mean():
    none = np.column_stack([MASKED, np.zeros(300)])
    scores = Scores(np.column_stack([PROBABILITIES, np.full(300, 0.1)]), none, thresholds=(*THRESHOLDS, 0.5))
    assert scores.evaluable == [0, 1, 2]
    before = measure(Scores(PROBABILITIES, MASKED, thresholds=THRESHOLDS))
    assert measure(scores) == pytest.approx(before)


def test_a_finding_with_few_positive_test_images_is_trained_but_not_evaluated():
    plain = load_dataset(DATASETS["phantom-multilabel"])
    shown = (plain.listing.labels[plain.parts.test] > 0.5).sum(axis=0)
    few = int(shown.argmin())
    some = load_dataset(replace(DATASETS["phantom-multilabel"], min_positives=int(shown[few]) + 1))
    assert (some.split_hash, some.fingerprint) == (plain.split_hash, plain.fingerprint)
    assert np.isnan(some.listing.labels[some.parts.test, few]).all()
    rest = np.setdiff1d(np.arange(len(some.listing)), some.parts.test)
    assert np.array_equal(some.listing.labels[rest], plain.listing.labels[rest], equal_nan=True)
    others = [k for k in range(len(shown)) if k != few and shown[k] > shown[few]]
    assert np.array_equal(some.listing.labels[:, others], plain.listing.labels[:, others], equal_nan=True)
    assert f"{some.labels[few]} ({shown[few]})" in some.parts.notes[-1]
    every = load_dataset(replace(DATASETS["phantom-multilabel"], min_positives=int(shown[few])))
    assert every.parts.notes == plain.parts.notes


def test_nih_evaluates_findings_with_a_hundred_positives_outside_training():
    spec = DATASETS["nih-chestxray14"]
    assert (spec.min_positives, spec.test_share, spec.group_key) == (100, 2, "patient")


def test_findings_not_evaluated_are_refused_alone_and_excluded_from_the_mean(runs):
    def forget(held_out, test):
        return held_out, replace(test, labels=np.where(np.arange(2) == 1, np.nan, test.labels))

    for seed in (0, 1):
        make_run(runs, STRONG, 20, seed, 2.0, task="multilabel", change=forget)
    store = open_store(runs)
    run = Run(*next(iter(store.runs.items())))
    assert run.meta.metrics["auroc"] == pytest.approx(resampled_run(run, 0).values["auroc"][0])
    with pytest.raises(BadRequest, match="y cannot be evaluated"):
        resampled_run(run, 1)
    with pytest.raises(BadRequest, match="y cannot be evaluated"):
        report_on(store, parse(["report", "--dataset=phantom", "--size=20", "--target=y"]))
    content = report_on(store, parse(["report", "--dataset=phantom", "--size=20"]))
    assert content["by_class"][0]["classes"]["auroc"][1]["value"] is None
    assert content["by_class"][0]["macro_auroc"] == pytest.approx(
        content["by_class"][0]["classes"]["auroc"][0]["value"]
    )
    assert "–" in as_markdown(content)


def test_intervals_hold_the_value_and_findings_have_their_own():
    scores = Scores(PROBABILITIES, MASKED, thresholds=THRESHOLDS)
    found = bootstrap([scores], np.arange(300), draws=200)
    assert all(one.low <= one.value <= one.high for one in found.values())
    known = scores.known(2)
    alone = bootstrap([scores.known_finding(2)], np.arange(300)[known], draws=200)
    assert alone["auroc"].n == known.sum()
    assert alone["auroc"].value != pytest.approx(found["auroc"].value, abs=1e-6)


def test_likelihood_and_temperature_count_known_labels_only():
    logits = np.log(PROBABILITIES.clip(0.01, 0.99) / (1 - PROBABILITIES.clip(0.01, 0.99)))
    known = ~np.isnan(MASKED)
    expected = reference.log_loss(MASKED[known], probabilities_of(logits, multilabel=True)[known])
    assert negative_log_likelihood(logits, MASKED) == pytest.approx(expected)
    sharp = 4 * np.where(RANDOM.random(TRUTH.shape) < 0.25, 1 - TRUTH, TRUTH) - 2
    fitted = fit_temperature(3 * sharp, MASKED)
    assert fitted > 1.5
    assert negative_log_likelihood(3 * sharp, MASKED, fitted) < negative_log_likelihood(3 * sharp, MASKED)


def test_each_finding_has_the_threshold_of_its_known_images():
    known = ~np.isnan(MASKED[:, 1])
    found = fit_thresholds(PROBABILITIES, MASKED)
    assert found[1] == fit_threshold(PROBABILITIES[known, 1], MASKED[known, 1] == 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 5))
def test_subsets_hold_enough_of_every_finding_and_are_nested(size, more, seed):
    ids, pool, names = np.array([f"{i:03d}" for i in range(300)]), np.arange(250), ("a", "b", "c")
    small = nested_subset(ids, MASKED, pool, names, size, seed)
    large = nested_subset(ids, MASKED, pool, names, size + more, seed)
    assert set(small.indices) <= set(large.indices) <= set(pool)
    assert len(np.unique(small.indices)) == len(small.indices)
    for k, name in enumerate(names):
        have = int((MASKED[pool, k] == 1).sum())
        assert (MASKED[small.indices, k] == 1).sum() >= min(size, have)
        assert (name in small.short) == (have < size)
    without = (MASKED[small.indices] == 0).all(axis=1).sum()
    assert without == min(size, int((MASKED[pool] == 0).all(axis=1).sum()))


def test_strata_are_the_rarest_finding_and_none_is_too_small():
    groups = np.arange(300)
    strata = strata_of(TRUTH, groups, 10)
    assert (strata[TRUTH[:, 2] == 1] == 2).all()
    assert (strata[~TRUTH.any(axis=1)] == 3).all()
    few = strata_of(TRUTH, groups, 60)
    assert min(np.unique(few, return_counts=True)[1]) >= 60
    assert np.array_equal(strata_of(groups % 2, groups, 5), groups % 2)


def test_folds_of_findings_hold_out_every_image_once():
    folds = validation_folds(MASKED, np.arange(300) // 3, 5, 0)
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(300))
    assert all(not set(trained_on // 3) & set(held // 3) for trained_on, held in folds)


def test_findings_are_learned_stored_and_answered(runs):
    data = load_dataset(DATASETS["phantom-multilabel"])
    prepared = plan_run(Cell("phantom-multilabel", "imagenet-efficientnet-lite0", "frozen", 40, 0), data)
    folder, _ = run_cell(prepared, data, "all", CPU, runs)
    meta, stored = read_run(folder), read_predictions(folder)
    assert meta.multilabel
    assert meta.metrics["auroc"] > 0.8
    assert len(meta.thresholds) == 3
    assert not np.isnan(stored.labels).any()
    assert np.isnan(read_predictions(folder, "validation").labels).any()
    rows = [int(name[-9:-4]) for name in stored.ids[:6]]
    images = [Image.fromarray(make_phantom_of_findings(row, findings_of(row))[0]) for row in rows]
    answers = Predictor(folder)(images, "grad-cam")
    expected = probabilities_of(stored.logits[:6], meta.temperature, multilabel=True)
    for answer, row in zip(answers, expected, strict=True):
        assert np.allclose(answer.probabilities, row, atol=2e-3)
        assert answer.decided == tuple(np.flatnonzero(answer.probabilities >= meta.thresholds))
        assert answer.explanation.target == answer.target
    assert Predictor(folder)(images[:1], "grad-cam", target=2)[0].explanation.target == 2
    one = estimate([Run(folder, open_store(runs).runs[folder])], ("auroc",), finding=0)["auroc"]
    assert one.low <= one.value <= one.high
