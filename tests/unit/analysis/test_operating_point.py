"""What a slider moves, against what is computed from the runs anew."""

import numpy as np
import pytest

from core.analysis import comparison, operating_point
from core.analysis.two_stage import joint, stage_candidates
from core.errors import BadRequest, CorruptRun
from core.metrics.operating_point import at_thresholds, operate
from core.metrics.thresholds import Aim, fit_operating_point
from core.runs import Run, open_store, read_history
from core.runs.scores import load_part
from core.runs.series import Series, runs_by_series
from tests.synthetic_runs import STRONG, WEAK, make_run
from trainer.reporting import sections


def series_of(folder, **made):
    for seed in range(3):
        make_run(folder, STRONG, 20, seed, 2.0, **made)
    store = open_store(folder)
    return next(iter(runs_by_series(store, store.metas()).values()))


def test_an_operating_point_is_worth_the_same_as_when_it_is_computed_anew(runs):
    family, aim = series_of(runs), Aim("youden", prevalence=0.2)
    series = operating_point.resample_series(family)
    points = operating_point.fit_points(series, aim)
    moved = operating_point.evaluate_at_shift(series, [point.threshold for point in points], 0.0, 0.2)
    assert points == [fit_operating_point(load_part(run, "validation").scores, aim) for run in family]
    tests = at_thresholds([load_part(run).scores for run in family], [point.threshold for point in points])
    alone = operate(tests, load_part(family[0]).groups, 0.2)
    assert moved.performance.ppv == alone.ppv
    assert (moved.performance.resamples == alone.resamples).all()
    shifted = operating_point.evaluate_at_shift(series, [point.threshold for point in points], 0.1, 0.2)
    again = at_thresholds(series.tests, [point.threshold + 0.1 for point in points])
    assert shifted.performance.sensitivity == operate(again, series.groups, 0.2, series.resamples).sensitivity
    assert shifted.decision_curve.marks != moved.decision_curve.marks


def test_curves_without_bands_are_those_with_bands(runs):
    series = operating_point.resample_series(series_of(runs))
    with_band, without = (operating_point.benefit_at(series, 0.2, banded) for banded in (True, False))
    assert without.benefit == pytest.approx(with_band.benefit)
    assert not np.isnan([with_band.low, with_band.high]).any()
    assert np.isnan([without.low, without.high]).all()
    moved = [
        operating_point.evaluate_at_shift(series, [0.5] * 3, 0.1, 0.2, curve) for curve in (None, with_band, without)
    ]
    assert moved[0].performance.sensitivity == moved[2].performance.sensitivity
    marks = [shifted.decision_curve.marks for shifted in moved]
    assert marks[0] == marks[1] == marks[2] != with_band.marks
    assert moved[1].decision_curve.low is with_band.low  # thresholds draw no band anew
    risks = [operating_point.risk_at(series, moved[0].thresholds, banded) for banded in (True, False)]
    assert risks[0].risk == pytest.approx(risks[1].risk)
    assert not np.isnan([risks[0].low, risks[0].high]).any()
    assert np.isnan([risks[1].low, risks[1].high]).all()


def test_a_shift_stays_between_never_and_always():
    assert operating_point.shift_thresholds([0.2, 0.9], -0.5) == (0.001, 0.4)
    assert operating_point.shift_thresholds([0.9], 0.5) == (0.999,)
    assert operating_point.shift_thresholds([0.0001], 0.0) == (0.0001,)


def test_precision_at_a_prevalence_by_hand():
    rates = operating_point.RocCurve(np.array([0.0, 0.0, 0.1, 1.0]), np.array([0.0, 0.5, 0.8, 1.0]))
    assert rates.precision(0.2) == pytest.approx([1.0, 1.0, 0.16 / (0.16 + 0.08), 0.2])


def test_the_mean_curve_lies_between_those_of_the_seeds(runs):
    mean, seeds = operating_point.roc_curves(operating_point.resample_series(series_of(runs)))
    assert len(seeds) == 3
    assert (np.diff(mean.sensitivity) >= 0).all()
    assert (mean.false_positive_rate[[0, -1]] == mean.sensitivity[[0, -1]]).all()
    assert mean.sensitivity[[0, -1]].tolist() == [0, 1]
    areas = [np.trapezoid(one.sensitivity, one.false_positive_rate) for one in seeds]
    assert min(areas) - 0.01 <= np.trapezoid(mean.sensitivity, mean.false_positive_rate) <= max(areas) + 0.01


def test_several_classes_need_one_to_be_named(runs):
    series = series_of(runs, task="multiclass")
    with pytest.raises(BadRequest, match="Choose one finding or class first"):
        operating_point.resample_series(series)
    assert operating_point.resample_series(series, 1).tests[0].positive == 1


def test_coverage_over_seeds_is_the_mean_of_the_seeds_and_lies_in_its_interval(runs):
    found, coverages = comparison.conformal_series(series_of(runs), 0.9)
    for c, one in enumerate(coverages):
        assert one.value == pytest.approx(np.mean([measured.by_class[c].value for _, measured in found]))
        assert one.low <= one.value <= one.high


def test_seeds_with_and_without_calibration_images_do_not_share_a_promise(runs):
    for seed in range(3):
        make_run(runs, STRONG, 20, seed, 3.0, calibration=80 if seed == 0 else 0)
    store = open_store(runs)
    series = runs_by_series(store, store.metas())
    with pytest.raises(BadRequest, match="seeds 1, 2 store none"):
        comparison.conformal_series(next(iter(series.values())), 0.9)
    (row,) = sections.conformal(series, 0.9, None)["series"]
    assert "seeds 1, 2 store none" in row["refused"]


def test_a_report_has_the_interval_of_the_mean_coverage(runs):
    series = series_of(runs)
    _, coverages = comparison.conformal_series(series, 0.9)
    (row,) = sections.conformal({Series(*STRONG, ""): series}, 0.9, None)["series"]
    assert row["coverage"] == [vars(one) for one in coverages]


def test_stages_are_offered_of_one_set_and_size_without_variants_and_leaks(runs):
    make_run(runs, WEAK, 20, 0, 1.0)
    make_run(runs, STRONG, 20, 0, 1.0, task="multiclass", dataset="kermany-3", run="three")
    make_run(runs, STRONG, 20, 0, 1.0, task="multiclass", dataset="kermany", run="of-kermany")
    make_run(runs, STRONG, 20, 1, 1.0, task="multiclass", dataset="kermany-3", run="leaky", leaks=3)
    make_run(runs, STRONG, 10, 1, 1.0, task="multiclass", dataset="kermany-3", run="smaller")
    store = open_store(runs)
    of = next(meta for meta in store.metas() if meta.run == "three")
    screens, confirmers = stage_candidates(store, of)
    assert set(screens) == set(confirmers) == {"kermany", "kermany-3"}
    assert [meta.run for runs in confirmers["kermany-3"].values() for _, meta in runs] == ["three"]
    binary = next(meta for meta in store.metas() if meta.positive is not None)
    assert stage_candidates(store, binary)[1] == {}


def test_of_a_related_set_one_split_is_offered_and_another_is_not_joined(runs):
    for seed in (0, 1):
        make_run(runs, STRONG, 20, seed, 1.0, task="multiclass", dataset="kermany-3", run=f"three-{seed}")
        make_run(runs, WEAK, 20, seed, 1.0, dataset="kermany", run=f"here-{seed}")
    make_run(runs, WEAK, 20, 1, 1.0, dataset="kermany", run="foreign", split_hash="0" * 64)
    store = open_store(runs)
    metas = {meta.run: meta for meta in store.metas()}
    screens = stage_candidates(store, metas["three-0"])[0]["kermany"]
    assert [meta.run for found in screens.values() for _, meta in found] == ["here-0", "here-1"]
    of = {run: Run(store.folder_of(run), meta) for run, meta in metas.items()}
    confirmers = [of["three-0"], of["three-1"]]
    with pytest.raises(BadRequest, match="different splits"):
        joint([of["here-0"], of["foreign"]], confirmers, confirmers, (1,), Aim("sensitivity", 0.9))


def test_training_curves_are_read_and_damage_is_named(tmp_path):
    assert read_history(tmp_path) == []
    path = tmp_path / "history.jsonl"
    path.write_text('{"epoch": 0, "train_loss": null}\n\n{"epoch": 1, "train_loss": 0.5}\n')
    assert [row["epoch"] for row in read_history(tmp_path)] == [0, 1]
    for damaged in ("{", "[1]"):
        path.write_text(damaged)
        with pytest.raises(CorruptRun, match=r"history\.jsonl cannot be read"):
            read_history(tmp_path)
