"""The contest: which series stands for a family, and the headline that learning curves support."""

import numpy as np
import pytest

from core.analysis import contest
from core.analysis.contest import (
    CONTRASTS,
    ENCODERS,
    LOOP,
    NAMED,
    PRIMARY,
    Sides,
    contestants,
    headline,
    plain_loop,
    planned,
    verdicts,
)
from core.metrics.learning_curves import MeasuredCurve, fit_curves
from core.models import MODELS
from core.runs import open_store
from core.runs.series import Series
from tests.synthetic_runs import STRONG, WEAK, make_families, make_run

SIZES = (10, 25, 50, 100, 200)


def curve(level, gain, metric="auroc"):
    random = np.random.default_rng(0)
    values = {
        size: {seed: level - gain * (size / 10) ** -0.5 + random.normal(0, 0.003, 101) for seed in range(5)}
        for size in SIZES
    }
    return MeasuredCurve(metric, values)


def test_the_named_series_stands_for_its_family():
    other = Series("imagenet-efficientnet-lite0-stages", "frozen-logistic")
    variant = NAMED["B"]._replace(variant="lr=0.1")
    stored = [other, NAMED["B"], variant, NAMED["A"], Series("control-random-frozen", "frozen"), NAMED[LOOP]]
    assert contestants(stored) == {"A": NAMED["A"], "B": NAMED["B"], LOOP: NAMED[LOOP]}


def test_where_the_named_series_is_not_stored_another_of_the_family_stands_for_it():
    other = Series("imagenet-efficientnet-lite0-stages", "frozen-logistic")
    assert contestants([other]) == {"B": other}
    assert contestants([Series("scratch-cnn-160", "plain-scratch")]) == {}


def test_b_and_c_and_the_plain_loop_share_an_encoder():
    (b, c), (named, _) = ENCODERS["EfficientNet-Lite0"], ENCODERS["DINOv2-S"]
    assert contestants([named, plain_loop(named), b, c, plain_loop(b)]) == {"B": b, "C": c, LOOP: plain_loop(b)}
    assert contestants([named, plain_loop(named), b, c]) == {"B": b, "C": c}, "of each, two are stored"
    assert contestants([named, plain_loop(named), b]) == {"B": named, LOOP: plain_loop(named)}


def test_a_frozen_encoder_stands_for_a_family_before_a_fine_tuned_one():
    frozen = Series("imagenet-efficientnet-lite0", "frozen")
    assert contestants([Series("imagenet-efficientnet-lite0", "finetune"), frozen]) == {"B": frozen}


def test_named_series_are_in_contrasts_of_models_that_exist():
    sides = {side for row in CONTRASTS.values() for side in row[:2]}
    assert set(NAMED.values()) <= sides
    assert all(side.model in MODELS for side in sides)


def test_contrasts_are_planned_at_primary_sizes_once():
    assert len(planned()) == len(set(planned()))
    assert all(at.size in PRIMARY[at.dataset] for at in planned())


def test_verdicts_are_corrected_over_all_planned_contrasts(runs, monkeypatch):
    sizes = {"phantom": (10,), "kermany": (10, 50)}
    monkeypatch.setattr(contest, "PRIMARY", sizes)
    monkeypatch.setattr(contest, "CONTRASTS", {"B against A": Sides(Series(*STRONG), Series(*WEAK), sizes)})
    for dataset, strength in (("phantom", 4.0), ("kermany", 1.1)):
        make_families(runs, (10,), range(5), {WEAK: 1.0, STRONG: strength}, dataset=dataset, variant="")
    make_run(runs, STRONG, 50, 0, 2.0, dataset="kermany")  # the other side failed
    make_run(runs, STRONG, 10, 5, -9.0, dataset="phantom")  # a seed beyond those of the protocol
    found = verdicts(open_store(runs))
    clear, close = (found[dataset, 10, "B against A"] for dataset in sizes)
    assert len(found) == 2
    assert (clear.seeds, clear.contrasts, clear.holm) == (5, 3, pytest.approx(3 * clear.p))
    assert clear.verdict == "different"
    assert close.holm == pytest.approx(min(1, max(2 * close.p, clear.holm)))


def test_every_curve_reaches_the_target_within_its_sizes_and_fewest_labels_come_first():
    fits = fit_curves({"A": curve(0.9, 0.2), "B": curve(0.95, 0.1)})
    found = headline(fits)
    assert list(found.needed) == ["B", "A"]
    assert found.needed["B"].value < found.needed["A"].value <= SIZES[-1]
    worst_end = min(fit.rising(np.array([SIZES[-1]]))[0, 0] for fit in fits.values())
    assert worst_end - 0.001 < found.target <= worst_end


def test_a_loss_counts_as_reached_from_above():
    fits = fit_curves({"A": curve(0.4, -0.5, "brier"), "B": curve(0.2, -0.5, "brier")})
    found = headline(fits)
    assert found.needed["A"].value <= SIZES[-1]
    assert found.target >= -min(fit.rising(np.array([SIZES[-1]]))[0, 0] for fit in fits.values())


@pytest.mark.parametrize("names", [(), ("A",)])
def test_no_headline_without_two_curves(names):
    assert headline(fit_curves({name: curve(0.9, 0.2) for name in names})) is None
