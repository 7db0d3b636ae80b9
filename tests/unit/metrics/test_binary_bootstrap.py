"""Binary metrics from sums within groups, against the table of metrics on weighted images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.metrics import METRICS, Scores
from core.metrics.bootstrap import measure_resamples
from core.metrics.grouped_bootstrap import measure_groups, resample_groups, supports
from core.metrics.measures import Metric
from core.runs import Run, open_store
from core.runs.metric_cache import resampled_run
from tests.synthetic_runs import STRONG, make_run


def binary(random, n, ties, positive=1):
    p = random.random(n).round(1) if ties else random.random(n)
    labels = np.r_[0, 1, random.integers(0, 2, n - 2)]
    columns = [p, 1 - p] if positive == 0 else [1 - p, p]
    return Scores(np.stack(columns, axis=1), labels, positive, float(random.random()))


def findings(random, n, ties):
    p = random.random((n, 4)).round(1) if ties else random.random((n, 4))
    labels = random.choice([0.0, 1.0, np.nan], size=(n, 4), p=[0.6, 0.2, 0.2])
    labels[:2, 0] = 0, 1
    labels[:, 3] = 0  # nobody has it: not evaluated
    return Scores(p, labels, thresholds=(0.5, 0.2, 0.8, 0.5))


def same(scores, groups, draws=40):
    drawn = resample_groups(scores.labels, groups, draws)
    with np.errstate(invalid="ignore"):
        wanted = measure_resamples(scores, drawn.weights().astype(float))
    found = measure_groups(scores, drawn)
    assert set(found) == set(METRICS)
    for name, values in wanted.items():
        assert found[name].shape == (draws + 1,)
        assert found[name] == pytest.approx(values, abs=1e-12, nan_ok=True), name


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans(), many=st.booleans(), n=st.integers(2, 80), first=st.booleans())
def test_yes_or_no_is_measured_as_image_by_image(seed, ties, many, n, first):
    random = np.random.default_rng(seed)
    groups = random.integers(0, max(1, n // 4), n) if many else np.arange(n)
    same(binary(random, n, ties, positive=0 if first else 1), groups)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans(), n=st.integers(2, 60))
def test_findings_are_measured_as_image_by_image(seed, ties, n):
    random = np.random.default_rng(seed)
    scores = findings(random, n, ties)
    same(scores, random.integers(0, max(1, n // 3), n))
    finding = scores.evaluable[0]
    known = scores.known(finding)
    same(scores.known_finding(finding), np.arange(n)[known])


def test_undefined_metrics_are_nan():
    nobody = Scores(np.full((5, 2), 0.4), np.zeros((5, 2)), thresholds=(0.5, 0.5))
    found = measure_groups(nobody, resample_groups(nobody.labels, np.arange(5), 3))
    assert all(np.isnan(values).all() and values.shape == (4,) for values in found.values())
    only = Scores(np.tile([0.6, 0.4], (5, 1)), np.zeros(5, int), 1)
    same(only, np.arange(5), 3)


def test_a_metric_that_is_new_is_measured_image_by_image(runs, monkeypatch):
    make_run(runs, STRONG, 20, 0, 2.0)
    run = Run(*next(iter(open_store(runs).runs.items())))
    share = Metric("share", "Share", lambda scores, weights: weights.sum(axis=1), lambda s, w, c: w[:, 0], True, "New.")
    monkeypatch.setitem(METRICS, "share", share)
    assert resampled_run(run).values["share"][0] == resampled_run(run).n
    many = findings(np.random.default_rng(0), 9, False)
    assert "share" not in measure_groups(many, resample_groups(many.labels, np.arange(9), 3))


def test_several_classes_are_not_taken_and_neither_is_what_is_slower_so():
    assert not supports(Scores(np.full((3, 3), 1 / 3), np.arange(3)), 3)
    assert supports(Scores(np.full((3, 2), 0.5), np.array([0, 1, 1]), 1), 3)
    assert supports(findings(np.random.default_rng(0), 9, False), 9)
    many = Scores(np.full((6000, 2), 0.5), np.arange(6000) % 2, 1)
    assert supports(many, 100)
    assert not supports(many, 6000)
