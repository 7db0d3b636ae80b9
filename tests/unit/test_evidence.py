"""What stored runs prove: pairing and its guards, content-keyed draws, fits on held-out images, stages of one set."""

import json
from dataclasses import replace

import numpy as np
import pytest

from core import evidence
from core.checkpoints import RUN_FILE, open_store, read_predictions, read_run, save_run, scores_of, stored_parts
from core.draws import drawn_run, weights_for
from core.errors import BadRequest, CorruptRun, LeakFound
from core.metrics import METRICS, bootstrap, measure, measure_by_class
from core.metrics.comparisons import compare
from core.metrics.thresholds import Aim, fit_operating_point
from core.results import by_series, check_comparable, difference, drawn_runs, estimate
from core.runtime import cache_folder
from core.stages import best_single, joint
from tests.made import STRONG, WEAK, make_families, make_run, predictions


def of(folders):
    return [(folder, read_run(folder)) for folder in folders]


@pytest.fixture
def families(runs):
    """(weak, strong) runs of three seeds at size 50."""
    made = of(make_families(runs, sizes=(50,)))
    return made[:3], made[3:]


# Comparisons and their guards


def test_stored_runs_are_compared_as_their_scores_are(families):
    weak, strong = families
    found = evidence.compare_runs(strong, weak, ("auroc", "brier", "mcc"))
    sides = [[evidence.judged(run).scores for run in side] for side in (strong, weak)]
    groups = evidence.judged(weak[0]).groups
    assert found == compare(*sides, groups, ("auroc", "brier", "mcc"))
    assert found["auroc"].winner == 0
    assert found["auroc"].groups == len(set(groups)) == 60


def test_runs_are_paired_by_seed_whatever_their_order(families):
    weak, strong = families
    straight = evidence.compare_runs(strong, weak, ("auroc",))["auroc"]
    assert evidence.compare_runs(strong, weak[::-1], ("auroc",))["auroc"] == straight
    fewer = evidence.compare_runs(strong, weak[:2], ("auroc",))["auroc"]
    assert fewer.seeds == 2
    assert fewer.by_seed == straight.by_seed[:2]


@pytest.mark.parametrize(
    ("field", "said"),
    [("split_hash", "different splits"), ("fingerprint", "fingerprints differ"), ("dataset", "different data sets"),
     ("subset_hash", "subset hashes differ")],
)  # fmt: skip
def test_a_run_of_another_split_or_other_images_is_never_compared(families, field, said):
    weak, strong = families
    other = [(folder, replace(meta, **{field: "other"})) for folder, meta in weak]
    for call in (evidence.compare_runs, evidence.seed_tests):
        with pytest.raises(BadRequest, match=said):
            call(strong, other)
    with pytest.raises(BadRequest, match=said):
        evidence.compare_all({"a": strong, "b": other})
    if field != "subset_hash":
        for call in (lambda: estimate([*strong, *other]), lambda: difference(strong, other, ("auroc",)),
                     lambda: evidence.learning_curves({"a": strong, "b": other}, "auroc"),
                     lambda: evidence.operation([*strong, *other], Aim())):  # fmt: skip
            with pytest.raises(BadRequest, match=said):
                call()


def test_runs_without_a_common_seed_or_with_other_test_images_are_refused(runs, families):
    weak, strong = families
    with pytest.raises(BadRequest, match="no run of the same size and seed"):
        evidence.compare_runs(strong[:1], weak[1:])
    random = np.random.default_rng(0)
    fewer = of([make_run(runs, WEAK, 50, 0, 1.0, test=predictions("test", "binary", 80, 1, random), run="fewer")])
    for call in (lambda: evidence.compare_runs(strong, fewer), lambda: drawn_runs([*strong, *fewer]),
                 lambda: evidence.seed_tests(strong, fewer)):  # fmt: skip
        with pytest.raises(BadRequest, match="different test images"):
            call()
    with pytest.raises(BadRequest, match="at least one run"):
        drawn_runs([])
    check_comparable([])


def test_every_pair_is_corrected_for_their_number(runs):
    made = of(
        make_families(runs, sizes=(50,), families={WEAK: 1.0, STRONG: 1.3, ("control-random-frozen", "frozen"): 0.6})
    )
    series = {"weak": made[:3], "strong": made[3:6], "control": made[6:]}
    found = evidence.compare_all(series, ("auroc",))
    alone = evidence.compare_runs(series["weak"], series["strong"], ("auroc",))["auroc"]
    assert len(found) == 3
    assert found["weak", "strong"]["auroc"].p == alone.p <= found["weak", "strong"]["auroc"].holm
    smallest = min((row["auroc"] for row in found.values()), key=lambda one: one.p)
    assert smallest.holm == pytest.approx(min(1, 3 * smallest.p))
    one = evidence.compare_all(series, ("auroc",), pairs=[("weak", "strong")])
    assert one["weak", "strong"]["auroc"].holm == alone.p


def test_seeds_and_images_have_intervals_of_their_own(families):
    weak, _ = families
    estimated, spread = evidence.summary(weak)["auroc"]
    values = [meta.metrics["auroc"] for _, meta in weak]
    assert (spread.lowest, spread.highest, spread.mean) == pytest.approx((min(values), max(values), np.mean(values)))
    assert estimated.value == pytest.approx(spread.mean)
    scores = [evidence.judged(run).scores for run in weak]
    assert estimated == bootstrap(scores, evidence.judged(weak[0]).groups, ("auroc",))["auroc"]
    assert estimate(weak)["auroc"] == estimated


def test_findings_are_compared_on_the_images_known_for_them(runs):
    made = of(make_families(runs, sizes=(50,), task="multilabel"))
    found = evidence.compare_runs(made[:3], made[3:], ("auroc",), finding=1)["auroc"]
    known = ~np.isnan(read_predictions(made[0][0]).labels[:, 1])
    assert found.n == known.sum() < 120
    tests = evidence.seed_tests(made[:3], made[3:], finding=1)
    assert [one.seed for one in tests] == [0, 1, 2]
    assert all(one.mcnemar for one in tests)
    assert [one.delong.effect for one in tests] == pytest.approx(found.by_seed)
    assert all(one.mcnemar is None for one in evidence.seed_tests(made[:3], made[3:]))


def test_classes_and_findings_have_intervals_of_their_own(runs):
    several = of(make_families(runs, sizes=(50,), task="multiclass"))[3:]
    found = evidence.by_class(several, "sensitivity")
    tests = [evidence.judged(run).scores for run in several]
    for c, one in enumerate(found):
        assert one.value == pytest.approx(np.mean([measure_by_class(scores, "sensitivity")[c] for scores in tests]))
        assert one.low < one.value < one.high
    findings = of(make_families(runs, sizes=(50,), task="multilabel"))[3:]
    alone = estimate(findings, ("auroc",), finding=1)["auroc"].value
    assert evidence.by_class(findings, "auroc")[1].value == pytest.approx(alone)


def test_delong_is_left_out_where_one_patient_is_all_there_is_of_a_class(runs):
    def lone(held_out, test):
        return held_out, replace(test, groups=np.where(test.labels == 1, "one", test.groups))

    weak, strong = (of([make_run(runs, kind, 50, 0, 2.0, change=lone)]) for kind in (WEAK, STRONG))
    (found,) = evidence.seed_tests(weak, strong)
    assert found.delong is None
    assert found.mcnemar.p <= 1


# Draws, kept by content


def stored_draws():
    return sorted((cache_folder() / "draws").glob("*.npz"))


def test_draws_are_kept_by_content_and_made_again_when_damaged(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    run = of([make_run(runs, WEAK, 50, 0, 1.0)])[0]
    first = drawn_run(*run)
    (place,) = stored_draws()
    written = place.stat().st_mtime_ns
    assert all(np.array_equal(drawn_run(*run).values[name], first.values[name]) for name in METRICS)
    assert place.stat().st_mtime_ns == written
    place.write_bytes(place.read_bytes()[:500])
    again = drawn_run(*run)
    assert all(np.array_equal(again.values[name], first.values[name], equal_nan=True) for name in METRICS)
    assert (again.images, again.n, again.groups) == (first.images, 120, 60)


def test_another_operating_point_or_other_predictions_are_never_answered_from_the_cache(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    folder, meta = of([make_run(runs, WEAK, 50, 0, 1.0)])[0]
    first = drawn_run(folder, meta)
    moved = drawn_run(folder, replace(meta, threshold=0.9))
    assert moved.values["sensitivity"][0] < first.values["sensitivity"][0]
    assert np.array_equal(moved.values["auroc"], first.values["auroc"])
    better = of([make_run(runs, WEAK, 50, 0, 4.0, run="better")])[0]
    assert drawn_run(*better).values["auroc"][0] > first.values["auroc"][0]
    assert len(stored_draws()) == 3


def test_draws_begin_with_the_images_as_they_are_and_are_the_same_for_every_run(families):
    weak, strong = families
    for run in (weak[0], strong[0]):
        for name, value in measure(evidence.judged(run).scores).items():
            assert drawn_run(*run).values[name][0] == pytest.approx(value)
    one, other = (evidence.judged(run) for run in (weak[0], strong[0]))
    assert weights_for(one.scores.labels, one.groups) is weights_for(other.scores.labels, other.groups)


# What is fitted is fitted on held-out images


def test_an_operating_point_does_not_know_the_test_images(runs):
    def turned(held_out, test):
        return held_out, replace(test, labels=1 - test.labels)

    run, other = of([make_run(runs, WEAK, 50, 0, 1.5), make_run(runs, WEAK, 50, 0, 1.5, change=turned, run="turned")])
    aim = Aim("sensitivity", 0.9, prevalence=0.1)
    points, worth, scores = evidence.operation([run], aim)
    turned_points, turned_worth, _ = evidence.operation([other], aim)
    assert points == turned_points == [fit_operating_point(evidence.judged(run, "validation").scores, aim)]
    assert worth.sensitivity.value != turned_worth.sensitivity.value
    assert scores[0].threshold == points[0].threshold
    assert worth.sensitivity.value == pytest.approx(measure(scores[0])["sensitivity"])


def test_parts_are_told_apart_when_read(families):
    run = families[0][0]
    assert evidence.judged(run).scores.part == "test"
    assert evidence.judged(run, "validation").scores.part == "validation"
    with pytest.raises(BadRequest, match="these are test images"):
        fit_operating_point(evidence.judged(run).scores, Aim())


def test_net_benefit_is_at_the_prevalence_asked_for(families):
    curve = evidence.decisions(families[1], 0.1)
    assert curve.act_on_all[0] == pytest.approx(0.1 - 0.9 * 0.01 / 0.99)
    assert len(curve.marks) == 3
    assert curve.benefit.max() <= 0.1


def test_one_class_of_several_is_judged_against_the_rest(runs):
    made = of(make_families(runs, sizes=(50,), task="multiclass"))[3:]
    points, worth, scores = evidence.operation(made, Aim("youden"), target=2)
    stored = read_predictions(made[0][0])
    assert scores[0].labels.tolist() == (stored.labels == 2).astype(int).tolist()
    assert worth.sensitivity.value > 0.6
    assert len(points) == 3
    with pytest.raises(BadRequest, match="binary task"):
        evidence.operation(made, Aim("youden"))


def test_curves_of_stored_runs(runs):
    series = {}
    for run in of(make_families(runs, tests=240)):
        series.setdefault(run[1].model, []).append(run)
    measured, fits = evidence.learning_curves(series, "auroc")
    assert measured["scratch-cnn"].sizes == (10, 25, 50, 100)
    values = [meta.metrics["auroc"] for _, meta in series["scratch-cnn"] if meta.train_size == 25]
    assert fits["scratch-cnn"].means[1] == pytest.approx(np.mean(values))
    assert fits["scratch-cnn"].level.shape == fits["imagenet-efficientnet-lite0"].level.shape == (2001,)


# Conformal calibration


def test_calibration_images_are_used_where_a_run_stores_any(runs):
    with_part = of([make_run(runs, WEAK, 50, 0, 2.0, calibration=80)])[0]
    without = of([make_run(runs, WEAK, 50, 1, 2.0)])[0]
    assert stored_parts(with_part[0]) == ("validation", "test", "calibration")
    fitted, measured = evidence.conformal(with_part, 0.9)
    assert (fitted.kind, fitted.patients) == ("split", (20, 20))
    assert len(measured.holds) == 2
    fitted, _ = evidence.conformal(without, 0.9)
    assert (fitted.kind, fitted.patients) == ("cross", (25, 25))
    with pytest.raises(BadRequest, match="at least 99 calibration patients"):
        evidence.conformal(without, 0.99)


@pytest.mark.parametrize("other", ["validation", "test"])
def test_calibration_patients_serve_nothing_else(runs, other):
    """A run whose calibration patients also trained, or are tested, is refused."""
    folder, meta = of([make_run(runs, WEAK, 50, 0, 2.0)])[0]
    held_out, test = read_predictions(folder, "validation"), read_predictions(folder)
    shared = held_out if other == "validation" else test
    stored = save_run(replace(meta, run="shared", hashes={}), held_out, test, [], None, runs, calibration=shared)
    with pytest.raises(LeakFound, match="serve nothing else"):
        evidence.conformal((stored, read_run(stored)), 0.9)


def test_held_out_patients_among_the_test_patients_stop_the_calibration(runs):
    def shared(held_out, test):
        return replace(held_out, groups=test.groups[: len(held_out.groups)]), test

    run = of([make_run(runs, WEAK, 50, 0, 2.0, change=shared)])[0]
    with pytest.raises(LeakFound, match="also in another part"):
        evidence.conformal(run, 0.9)


# Metrics added since a run was stored


def test_an_older_record_is_completed_from_its_predictions(runs):
    folder = make_run(runs, WEAK, 50, 0, 1.0)
    whole = read_run(folder)
    record = json.loads((folder / RUN_FILE).read_text())
    for name in ("metrics", "metrics_at_half"):
        del record[name]["mcc"]
        record[name]["auroc"] = 0.5  # what is stored stays
    (folder / RUN_FILE).write_text(json.dumps(record))
    older = read_run(folder)
    assert older.metrics["mcc"] == pytest.approx(whole.metrics["mcc"], abs=1e-6)
    assert older.metrics_at_half["mcc"] == pytest.approx(whole.metrics_at_half["mcc"], abs=1e-6)
    assert older.metrics["auroc"] == 0.5
    record["labels"] = ["No", "Yes", "Else"]
    record["task"], record["positive"] = "multiclass", None
    (folder / RUN_FILE).write_text(json.dumps(record))
    with pytest.raises(CorruptRun, match="does not fit the record"):
        read_run(folder)


def test_shipped_runs_have_every_metric(monkeypatch):
    monkeypatch.delenv("LOWSHOT_RUNS", raising=False)
    store = open_store()
    assert store.problems == {}
    assert all(meta.metrics.keys() >= set(METRICS) for meta in store.runs.values())
    folder, meta = next(iter(store.runs.items()))
    assert meta.metrics["mcc"] == pytest.approx(measure(scores_of(meta, read_predictions(folder)))["mcc"], abs=1e-6)


def test_no_shipped_run_learnt_from_a_test_image_or_patient(monkeypatch):
    monkeypatch.delenv("LOWSHOT_RUNS", raising=False)
    for folder, meta in open_store().runs.items():
        held_out, test = read_predictions(folder, "validation"), read_predictions(folder)
        assert not meta.leaks
        assert not set(held_out.ids) & set(test.ids)
        assert not set(held_out.groups) & set(test.groups)


# Two stages


def stages(runs, order=None):
    """Screens of two classes and second stages of three, of one set, judged on the same images."""
    random = np.random.default_rng(0)
    several = of([make_run(runs, STRONG, 50, seed, 2.5, task="multiclass", dataset="kermany-3") for seed in (0, 1)])
    screens = []
    for seed in (0, 1):
        answers = predictions("test", "binary", 120, 0, random)
        truth = np.isin(read_predictions(several[0][0]).labels, (1, 2)).astype(int)
        groups = read_predictions(several[0][0]).groups
        logits = 2.5 * np.eye(2)[truth] + np.random.default_rng(seed).normal(size=(120, 2))
        answers = replace(answers, labels=truth, groups=groups, logits=logits)
        if order is not None:
            answers = replace(
                answers, **{name: getattr(answers, name)[order] for name in ("ids", "groups", "labels", "logits")}
            )
        name = f"screen{seed}{order is not None}"
        screens.append(make_run(runs, WEAK, 50, seed, 2.0, test=answers, dataset="kermany", run=name))
    return of(screens), several


def test_stages_are_joined_by_image_whatever_their_order(runs):
    aim = Aim("sensitivity", 0.9)
    screens, several = stages(runs)
    found = joint(screens, several, several, (1, 2), aim, 100)
    shuffled, _ = stages(runs, np.random.default_rng(5).permutation(120))
    assert joint(shuffled, several, several, (1, 2), aim, 100) == found
    assert 0.5 < found.workload.value < 1
    of_one_model = joint(several, several, several, (1, 2), aim, 100)
    assert of_one_model.sensitivity.value > 0.7


def test_stages_of_two_sets_without_common_seeds_or_with_learnt_test_images_are_refused(runs):
    screens, several = stages(runs)
    aim = Aim("sensitivity", 0.9)
    with pytest.raises(BadRequest, match="one data set"):
        joint([(folder, replace(meta, dataset="ham10000")) for folder, meta in screens], several, several, (1, 2), aim)
    with pytest.raises(BadRequest, match="no seed in common"):
        joint(screens[:1], several[1:], several, (1, 2), aim)
    learnt = read_predictions(several[0][0], "validation")
    held_out = replace(learnt, ids=np.r_[read_predictions(several[0][0]).ids[:1], learnt.ids[1:]])
    leaking = make_run(runs, STRONG, 50, 0, 2.0, task="multiclass", dataset="kermany-3", run="leaking",
                       change=lambda _, test: (held_out, test))  # fmt: skip
    with pytest.raises(LeakFound, match="1 test images of one stage were learnt"):
        joint(screens, of([leaking]), several, (1, 2), aim)
    fewer = of([make_run(runs, STRONG, 50, 0, 2.0, task="multiclass", tests=60, dataset="kermany-3", run="fewer")])
    with pytest.raises(BadRequest, match="different test images"):
        joint(screens, fewer, fewer, (1, 2), aim)
    renamed = [(folder, replace(meta, labels=("c", "b", "a"))) for folder, meta in several]
    with pytest.raises(BadRequest, match="same classes"):
        joint(several, renamed, several, (1, 2), aim)


def test_the_best_single_model_is_chosen_without_the_test_images(runs):
    """The better of two on held-out images is the worse on the test images."""

    def hopeless(held_out, test):
        return held_out, replace(test, logits=-test.logits)

    good = of([make_run(runs, STRONG, 50, 0, 3.0, task="multiclass", change=hopeless)])
    poor = of([make_run(runs, WEAK, 50, 0, 1.0, task="multiclass")])
    assert best_single({"good": good, "poor": poor}, (1,)) == "good"
    with pytest.raises(BadRequest, match="at least one series"):
        best_single({}, (1,))


def test_series_come_in_the_order_of_the_registry(runs):
    metas = [meta for _, meta in of(make_families(runs, sizes=(10,), seeds=(0,)))]
    assert [series.model for series in by_series(metas[::-1])] == ["scratch-cnn", "imagenet-efficientnet-lite0"]
