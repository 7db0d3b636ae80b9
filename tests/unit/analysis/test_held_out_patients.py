"""What is fitted to stored runs is fitted on held-out images: operating points and conformal sets."""

from dataclasses import replace

import pytest

from core.analysis import comparison, operating_point
from core.errors import BadRequest, LeakFound
from core.metrics import measure
from core.metrics.operating_point import at_thresholds
from core.metrics.thresholds import Aim, fit_operating_point
from core.runs import Run, read_predictions, read_run, save_run, stored_parts
from tests.synthetic_runs import WEAK, make_families, make_run, of


def operation(runs, aim, target=None):
    series = operating_point.resample_series(runs, target)
    points = operating_point.fit_points(series, aim)
    thresholds = [point.threshold for point in points]
    performance = operating_point.evaluate_at_shift(series, thresholds, 0, aim.prevalence).performance
    return points, performance, at_thresholds(series.tests, thresholds)


def test_an_operating_point_does_not_know_the_test_images(runs):
    def turned(held_out, test):
        return held_out, replace(test, labels=1 - test.labels)

    run, other = of([make_run(runs, WEAK, 50, 0, 1.5), make_run(runs, WEAK, 50, 0, 1.5, change=turned, run="turned")])
    aim = Aim("sensitivity", 0.9, prevalence=0.1)
    points, worth, scores = operation([run], aim)
    turned_points, turned_worth, _ = operation([other], aim)
    assert points == turned_points == [fit_operating_point(comparison.load_part(run, "validation").scores, aim)]
    assert worth.sensitivity.value != turned_worth.sensitivity.value
    assert scores[0].threshold == points[0].threshold
    assert worth.sensitivity.value == pytest.approx(measure(scores[0])["sensitivity"])


def test_parts_are_distinguished_when_read(families):
    run = families[0][0]
    assert comparison.load_part(run).scores.part == "test"
    assert comparison.load_part(run, "validation").scores.part == "validation"
    with pytest.raises(BadRequest, match="these are test images"):
        fit_operating_point(comparison.load_part(run).scores, Aim())


def test_net_benefit_is_at_the_requested_prevalence(families):
    curve = operating_point.benefit_at(operating_point.resample_series(families[1]), 0.1)
    assert curve.act_on_all[0] == pytest.approx(0.1 - 0.9 * 0.01 / 0.99)
    assert len(curve.marks) == 3
    assert curve.benefit.max() <= 0.1


def test_one_class_of_several_is_evaluated_against_the_rest(runs):
    made = of(make_families(runs, sizes=(50,), task="multiclass"))[3:]
    points, worth, scores = operation(made, Aim("youden"), target=2)
    stored = read_predictions(made[0][0])
    assert scores[0].labels.tolist() == (stored.labels == 2).astype(int).tolist()
    assert worth.sensitivity.value > 0.6
    assert len(points) == 3
    with pytest.raises(BadRequest, match="binary task"):
        operation(made, Aim("youden"))


def test_calibration_images_are_used_where_a_run_stores_any(runs):
    with_part = of([make_run(runs, WEAK, 50, 0, 2.0, calibration=80)])[0]
    without = of([make_run(runs, WEAK, 50, 1, 2.0)])[0]
    assert stored_parts(with_part[0]) == ("validation", "test", "calibration")
    fitted, measured = comparison.conformal(with_part, 0.9)
    assert (fitted.kind, fitted.patients) == ("split", (20, 20))
    assert len(measured.by_class) == 2
    fitted, _ = comparison.conformal(without, 0.9)
    assert (fitted.kind, fitted.patients) == ("cross", (25, 25))
    with pytest.raises(BadRequest, match="at least 99 calibration patients"):
        comparison.conformal(without, 0.99)


@pytest.mark.parametrize("other", ["validation", "test"])
def test_calibration_patients_serve_nothing_else(runs, other):
    """A run whose calibration patients also trained, or are tested, is refused."""
    folder, meta = of([make_run(runs, WEAK, 50, 0, 2.0)])[0]
    held_out, test = read_predictions(folder, "validation"), read_predictions(folder)
    shared = held_out if other == "validation" else test
    stored = save_run(replace(meta, run="shared", hashes={}), held_out, test, [], None, runs, calibration=shared)[0]
    with pytest.raises(LeakFound, match="used for nothing else"):
        comparison.conformal(Run(stored, read_run(stored)), 0.9)


def test_held_out_patients_among_the_test_patients_stop_the_calibration(runs):
    def shared(held_out, test):
        return replace(held_out, groups=test.groups[: len(held_out.groups)]), test

    run = of([make_run(runs, WEAK, 50, 0, 2.0, change=shared)])[0]
    with pytest.raises(LeakFound, match="also in another part"):
        comparison.conformal(run, 0.9)
