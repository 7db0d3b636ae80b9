"""Two-stage diagnosis: joint figures by hand and by the product law, and a fair comparison with one model."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from core.errors import BadRequest
from core.metrics import Scores
from core.metrics.calibration import probabilities_of
from core.metrics.comparisons import bonferroni_corrected
from core.metrics.two_stage import specificity_at, two_stage

SUSPICIOUS = (1, 2)


def stages(seed, n=600, screen=2.0, confirm=2.0):
    """A binary screen and a classifier of three classes that err independently, given the truth."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    truth = np.isin(labels, SUSPICIOUS).astype(int)
    logits = random.normal(size=n) + screen * (truth - 0.5)
    p = 1 / (1 + np.exp(-2 * logits))
    several = probabilities_of(random.normal(size=(n, 3)) + confirm * np.eye(3)[labels])
    return Scores(np.stack([1 - p, p], axis=1), truth, 1, threshold=0.2), Scores(several, labels)


def test_joint_figures_by_hand():
    labels = np.array([0, 0, 1, 1, 2, 2])
    screened = np.array([0.9, 0.1, 0.9, 0.1, 0.9, 0.9])
    screen = Scores(np.stack([1 - screened, screened], axis=1), np.isin(labels, SUSPICIOUS).astype(int), 1)
    confirmer = Scores(np.eye(3)[[0, 1, 2, 1, 2, 0]], labels)
    found = two_stage([screen], [confirmer], [confirmer], SUSPICIOUS, np.arange(6), draws=20)
    assert found.sensitivity.value == pytest.approx(2 / 4)  # one screened out, one taken back
    assert found.named.value == pytest.approx(1 / 4)  # one suspicious image got the other suspicious class
    assert found.specificity.value == 1  # the alarm was taken back, the other one never seen
    assert found.workload.value == pytest.approx(4 / 6)


def test_joint_sensitivity_is_the_product_of_both_where_they_err_independently():
    screen, confirmer = stages(0, 30_000)
    found = two_stage([screen], [confirmer], [confirmer], SUSPICIOUS, np.arange(30_000), draws=20)
    truth = screen.labels == 1
    first = (screen.decisions == 1)[truth].mean()
    second = np.isin(confirmer.decisions, SUSPICIOUS)[truth].mean()
    assert found.sensitivity.value == pytest.approx(first * second, abs=0.01)


def test_the_single_model_is_read_off_its_roc_curve_at_the_same_sensitivity():
    _, confirmer = stages(1)
    alone = confirmer.merged(SUSPICIOUS)
    alarms, hits, _ = roc_curve(alone.labels, alone.probabilities[:, 1], drop_intermediate=False)
    wanted = np.array([0.0, 0.5, 0.9, 0.951234, 1.0])
    found = specificity_at(alone, wanted, np.ones((5, 600)))
    for sensitivity, specificity in zip(wanted, found, strict=True):
        first = int(np.argmax(hits >= sensitivity - 1e-9))  # the fewest alarms at which so many are found
        if first == 0:
            assert specificity == 1
        else:
            part = (sensitivity - hits[first - 1]) / (hits[first] - hits[first - 1])
            assert specificity == pytest.approx(1 - alarms[first - 1] - part * (alarms[first] - alarms[first - 1]))


def test_a_model_compared_with_itself_gains_nothing():
    """A screen that lets all pass: both stages are the second one, and the comparison is fair to it."""
    _, confirmer = stages(2)
    alone = confirmer.merged(SUSPICIOUS)
    everything = replace(alone, threshold=0.0)
    decided = np.isin(confirmer.decisions, SUSPICIOUS).astype(float)
    by_decision = replace(alone, probabilities=np.stack([1 - decided, decided], axis=1))
    found = two_stage([everything], [confirmer], [by_decision], SUSPICIOUS, np.arange(600), draws=100)
    assert found.workload.value == 1
    assert (found.gain.effect, found.gain.low, found.gain.high) == pytest.approx((0, 0, 0), abs=1e-9)
    assert not found.helps
    assert found.verdict().startswith(
        "Whether two stages help is open (no verdict: 1 seed, at least 5 needed): specificity +0.000"
    )
    assert found.record()["gain"]["p"] is None
    five = two_stage([everything] * 5, [confirmer] * 5, [by_decision] * 5, SUSPICIOUS, np.arange(600), draws=100)
    assert five.verdict().startswith("Two stages do as well as one model, within 0.01: specificity +0.000")


def test_the_verdict_tells_whether_two_stages_help():
    pairs = [stages(seed, screen=4.0) for seed in range(3, 8)]
    screens, confirmers = [one[0] for one in pairs], [one[1] for one in pairs]
    helps = two_stage(screens, confirmers, confirmers, SUSPICIOUS, np.arange(600), draws=200)
    assert helps.helps
    assert helps.verdict().startswith("Two stages help: specificity +0.")
    assert helps.sensitivity.low < helps.sensitivity.value < helps.sensitivity.high
    assert helps.gain.varies == "seeds and test patients"
    assert "95% interval over seeds and test patients" in helps.verdict()
    two = two_stage(screens[:2], confirmers[:2], confirmers[:2], SUSPICIOUS, np.arange(600), draws=200)
    assert not two.helps
    assert two.gain.low > 0
    assert "no verdict: 2 seeds, at least 5 needed" in two.verdict()
    unsure = replace(helps, gain=bonferroni_corrected(helps.gain, 10**9))
    assert not unsure.helps
    assert unsure.verdict().startswith("Whether two stages help is undecided: specificity +0.")
    weak = [stages(seed, screen=0.3)[0].at(0.5) for seed in range(3, 8)]
    harms = two_stage(weak, confirmers, confirmers, SUSPICIOUS, np.arange(600), draws=200)
    assert not harms.helps
    assert harms.verdict().startswith("Two stages do worse: specificity -0.")


def test_stages_of_other_images_or_meanings_are_refused():
    screen, confirmer = stages(0)
    with pytest.raises(BadRequest, match="as many screens"):
        two_stage([screen], [], [confirmer], SUSPICIOUS, np.arange(600))
    with pytest.raises(BadRequest, match="contradict"):
        two_stage([screen], [confirmer], [confirmer], (1,), np.arange(600))
    with pytest.raises(BadRequest, match="contradict"):
        two_stage([replace(screen, labels=1 - screen.labels)], [confirmer], [confirmer], SUSPICIOUS, np.arange(600))
    with pytest.raises(BadRequest, match="multiclass second stage"):
        two_stage([screen], [screen], [confirmer], SUSPICIOUS, np.arange(600))
