"""Grouped resamples, against tables of images and plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.metrics import Scores
from core.metrics.bootstrap import prepend_ones, resample_weights
from core.metrics.grouped_bootstrap import resample_groups
from core.metrics.operating_point import decision_curve, net_benefit, operate, shift_prevalence
from core.metrics.selective import decision_certainty, risk_curve


def made(seed, n=60, ties=False):
    random = np.random.default_rng(seed)
    labels = np.r_[0, 1, random.integers(0, 2, n - 2)]
    groups = np.array([f"p{one}" for one in random.integers(0, n // 2, n)])
    p = random.random(n)
    p = np.round(p, 1) if ties else p
    return Scores(np.stack([1 - p, p], axis=1), labels, 1, 0.4), groups


@pytest.mark.parametrize("findings", [False, True])
def test_groups_are_drawn_as_images_are(findings):
    scores, groups = made(0)
    labels = np.stack([scores.labels, np.full(60, np.nan)], axis=1) if findings else scores.labels
    drawn = resample_groups(labels, groups, 50)
    assert drawn.counts.dtype == np.uint8
    assert (drawn.weights() == prepend_ones(resample_weights(labels, groups, 50))).all()
    assert (drawn.first(3).weights() == drawn.weights()[:4]).all()


def test_sums_over_draws_are_exact():
    drawn = resample_groups(np.zeros(9, int), np.arange(9), 30)
    values = np.arange(27).reshape(9, 3) * 1000
    assert (drawn.sum_counts(values) == drawn.counts.astype(int) @ values).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), ties=st.booleans())
def test_what_a_slider_moves_is_what_weights_of_images_give(seed, ties):
    runs, groups = [], None
    first, groups = made(seed, ties=ties)
    runs = [first, Scores(first.probabilities[::-1].copy(), first.labels, 1, 0.7)]
    drawn = resample_groups(first.labels, groups, 20)
    weights, truth = drawn.weights().astype(float), first.labels == 1

    with np.errstate(invalid="ignore"):  # a class may be drawn not at all
        called = np.mean([run.probabilities[:, 1] >= run.threshold for run in runs], axis=0)
        sensitivity = weights @ (truth * called) / (weights @ truth)
        specificity = weights @ (~truth * (1 - called)) / (weights @ ~truth)
        found = operate(runs, groups, 0.2, drawn)
        assert found.resamples == pytest.approx(np.stack([sensitivity, specificity]), nan_ok=True)

        acting = np.array([0.05, 0.3, 0.6])
        curve = decision_curve(runs, groups, 0.2, 0.5, acting, drawn)
    acts = np.mean([shift_prevalence(run.probabilities[:, 1], 0.5, 0.2)[:, None] >= acting for run in runs], axis=0)
    benefit = net_benefit(acts[truth].mean(axis=0), 1 - acts[~truth].mean(axis=0), 0.2, acting)
    assert curve.benefit == pytest.approx(benefit)

    shares = np.array([0.1, 0.33, 0.5, 1.0])
    risks = risk_curve(runs, groups, shares, resamples=drawn.first(5))
    rows = [np.mean([risk_by_hand(run, row, shares) for run in runs], axis=0) for row in weights[:6]]
    assert risks.risk == pytest.approx(rows[0])
    assert risks.low == pytest.approx(np.percentile(rows[1:], 2.5, axis=0))


def risk_by_hand(scores, weight, shares):
    """Image by image, the surest first; images equally sure share what is answered of them."""
    sure, wrong = decision_certainty(scores), scores.decisions != scores.labels
    found = []
    for share in shares:
        left, errors = share * weight.sum(), 0.0
        for level in sorted(set(sure), reverse=True):
            here = sure == level
            part = min(1.0, left / weight[here].sum()) if weight[here].sum() else 0.0
            errors, left = errors + part * weight[here & wrong].sum(), left - part * weight[here].sum()
        found.append(errors / (share * weight.sum()))
    return np.array(found)
