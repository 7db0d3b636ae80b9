"""Comparisons of stored runs: pairing and its guards, for every class and finding."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from core.analysis import comparison, operating_point
from core.errors import BadRequest
from core.metrics import METRICS, bootstrap
from core.metrics.measures import unit_weights
from core.runs import Run, read_predictions
from core.runs.series import by_series, check_comparable, estimate, resampled_runs, summarize
from tests.synthetic_runs import STRONG, WEAK, compare, make_families, make_run, of, predictions


def test_stored_runs_are_compared_as_their_scores_are(families):
    weak, strong = families
    found = comparison.compare_runs(strong, weak, ("auroc", "brier", "mcc"))
    sides = [[comparison.load_part(run).scores for run in side] for side in (strong, weak)]
    groups = comparison.load_part(weak[0]).groups
    for name, one in compare(*sides, groups, ("auroc", "brier", "mcc")).items():
        for place, value in asdict(one).items():
            wanted = value if isinstance(value, str) else pytest.approx(value, nan_ok=True)
            assert asdict(found[name])[place] == wanted, (name, place)  # added up in another order
    assert found["auroc"].verdict == "no verdict"
    assert found["auroc"].groups == len(set(groups)) == 60


def test_runs_are_paired_by_seed_whatever_their_order(families):
    weak, strong = families
    straight = comparison.compare_runs(strong, weak, ("auroc",))["auroc"]
    assert comparison.compare_runs(strong, weak[::-1], ("auroc",))["auroc"].record() == straight.record()
    fewer = comparison.compare_runs(strong, weak[:2], ("auroc",))["auroc"]
    assert fewer.seeds == 2
    assert fewer.by_seed == straight.by_seed[:2]


@pytest.mark.parametrize(
    ("field", "said"),
    [("split_hash", "different splits"), ("fingerprint", "fingerprints differ"), ("dataset", "different data sets"),
     ("subset_hash", "subset hashes differ")],
)  # fmt: skip
def test_a_run_of_another_split_or_other_images_is_never_compared(families, field, said):
    weak, strong = families
    other = [Run(folder, replace(meta, **{field: "other"})) for folder, meta in weak]
    for call in (comparison.compare_runs, comparison.seed_tests):
        with pytest.raises(BadRequest, match=said):
            call(strong, other)
    with pytest.raises(BadRequest, match=said):
        comparison.compare_all({"a": strong, "b": other})
    if field != "subset_hash":
        for call in (lambda: estimate([*strong, *other]), lambda: summarize([*strong, *other], ("auroc",)),
                     lambda: comparison.learning_curves({"a": strong, "b": other}, "auroc"),
                     lambda: operating_point.resample_series([*strong, *other])):  # fmt: skip
            with pytest.raises(BadRequest, match=said):
                call()


def test_runs_without_a_common_seed_or_with_other_test_images_are_refused(runs, families):
    weak, strong = families
    with pytest.raises(BadRequest, match="no run of the same size and seed"):
        comparison.compare_runs(strong[:1], weak[1:])
    random = np.random.default_rng(0)
    fewer = of([make_run(runs, WEAK, 50, 0, 1.0, test=predictions("test", "binary", 80, 1, random), run="fewer")])
    for call in (lambda: comparison.compare_runs(strong, fewer), lambda: resampled_runs([*strong, *fewer]),
                 lambda: comparison.seed_tests(strong, fewer)):  # fmt: skip
        with pytest.raises(BadRequest, match="different test images"):
            call()
    with pytest.raises(BadRequest, match="at least one run"):
        resampled_runs([])
    check_comparable([])


def test_every_pair_is_corrected_for_their_number(runs):
    families = {WEAK: 1.0, STRONG: 1.3, ("control-random-frozen", "frozen"): 0.6}
    made = of(make_families(runs, sizes=(50,), seeds=range(5), families=families))
    series = {"weak": made[:5], "strong": made[5:10], "control": made[10:]}
    found = comparison.compare_all(series, ("auroc",))
    alone = comparison.compare_runs(series["weak"], series["strong"], ("auroc",))["auroc"]
    assert len(found) == 3
    assert found["weak", "strong"]["auroc"].p == alone.p <= found["weak", "strong"]["auroc"].holm
    smallest = min((row["auroc"] for row in found.values()), key=lambda one: one.p)
    assert smallest.holm == pytest.approx(min(1, 3 * smallest.p))
    one = comparison.compare_all(series, ("auroc",), pairs=[("weak", "strong")])
    assert one["weak", "strong"]["auroc"].holm == alone.p
    assert {row["auroc"].contrasts for row in found.values()} == {3}


def test_seeds_and_images_have_intervals_of_their_own(families):
    weak, _ = families
    found = summarize(weak)["auroc"]
    estimated, spread = found.patients, found.seeds
    values = [meta.metrics["auroc"] for _, meta in weak]
    assert (spread.lowest, spread.highest, spread.mean) == pytest.approx((min(values), max(values), np.mean(values)))
    assert estimated.value == pytest.approx(spread.mean)
    scores = [comparison.load_part(run).scores for run in weak]
    assert estimated == bootstrap(scores, comparison.load_part(weak[0]).groups, ("auroc",))["auroc"]
    assert estimate(weak)["auroc"] == estimated
    half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)  # Student's t of two degrees of freedom
    assert (spread.low, spread.high) == pytest.approx((spread.mean - half, min(1, spread.mean + half)))
    assert found.both.low == pytest.approx(
        spread.mean - np.hypot(spread.mean - estimated.low, spread.mean - spread.low)
    )
    assert found.both.low < min(estimated.low, spread.low)
    assert found.text() == (
        f"{spread.mean:.3f}; test patients {estimated.low:.3f} to {estimated.high:.3f}; seeds {spread.low:.3f} to "
        f"{spread.high:.3f}"
    )
    alone = summarize(weak[:1])["auroc"]
    assert alone.text().endswith("; one seed")
    assert np.isnan([alone.both.low, alone.both.high]).all()


def test_findings_are_compared_on_the_images_known_for_them(runs):
    made = of(make_families(runs, sizes=(50,), task="multilabel"))
    found = comparison.compare_runs(made[:3], made[3:], ("auroc",), finding=1)["auroc"]
    known = ~np.isnan(read_predictions(made[0][0]).labels[:, 1])
    assert found.n == known.sum() < 120
    tests = comparison.seed_tests(made[:3], made[3:], finding=1)
    assert [one.seed for one in tests] == [0, 1, 2]
    assert all(one.mcnemar for one in tests)
    assert [one.delong.effect for one in tests] == pytest.approx(found.by_seed)
    assert all(one.mcnemar is None for one in comparison.seed_tests(made[:3], made[3:]))


def test_classes_and_findings_have_intervals_of_their_own(runs):
    several = of(make_families(runs, sizes=(50,), task="multiclass"))[3:]
    found = comparison.by_class(several, "sensitivity")
    tests = [comparison.load_part(run).scores for run in several]
    by_class = np.mean([METRICS["sensitivity"].by_class(one, unit_weights(one))[:, 0] for one in tests], axis=0)
    for c, one in enumerate(found):
        assert one.value == pytest.approx(by_class[c])
        assert one.low < one.value < one.high
    findings = of(make_families(runs, sizes=(50,), task="multilabel"))[3:]
    alone = estimate(findings, ("auroc",), finding=1)["auroc"].value
    assert comparison.by_class(findings, "auroc")[1].value == pytest.approx(alone)


def test_delong_is_left_out_where_one_patient_is_all_there_is_of_a_class(runs):
    def lone(held_out, test):
        return held_out, replace(test, groups=np.where(test.labels == 1, "one", test.groups))

    weak, strong = (of([make_run(runs, kind, 50, 0, 2.0, change=lone)]) for kind in (WEAK, STRONG))
    (found,) = comparison.seed_tests(weak, strong)
    assert found.delong is None
    assert found.mcnemar.p <= 1


def test_curves_of_stored_runs(runs):
    series = {}
    for run in of(make_families(runs, tests=240)):
        series.setdefault(run[1].model, []).append(run)
    measured, fits = comparison.learning_curves(series, "auroc")
    assert measured["scratch-cnn"].sizes == (10, 25, 50, 100)
    values = [meta.metrics["auroc"] for _, meta in series["scratch-cnn"] if meta.train_size == 25]
    assert fits["scratch-cnn"].means[1] == pytest.approx(np.mean(values))
    assert fits["scratch-cnn"].level.shape == fits["imagenet-efficientnet-lite0"].level.shape == (2001,)


def test_series_come_in_the_order_of_the_registry(runs):
    metas = [meta for _, meta in of(make_families(runs, sizes=(10,), seeds=(0,)))]
    assert [series.model for series in by_series(metas[::-1])] == ["scratch-cnn", "imagenet-efficientnet-lite0"]
