"""How long a job will take, judging by similar runs, and how long it has left."""

from dataclasses import replace

import pytest

from core.jobs import events
from core.jobs.catalog import read_catalog
from core.jobs.costs import Cost, cost_of, expected, time_left
from core.jobs.own_study import STUDY_MODELS, STUDY_SEEDS, STUDY_STRATEGIES
from core.paths import PROJECT
from core.runs import open_store
from tests.unit.runs.test_store import example_meta


def meta(size, seconds, **other):
    made = {"model": "m", "strategy": "s", "device": "here", "dataset": "d", "train_size": size, "seed": 0}
    return replace(example_meta(f"r{size}{seconds}"), seconds=seconds, **{**made, **other})


def test_costs_are_measured_never_guessed():
    stored = [meta(10, 2.0), meta(10, 4.0, seed=1), meta(10, 30.0, seed=2), meta(50, 8.0), meta(None, 99.0)]
    stored += [meta(10, 1000.0, device="there"), meta(20, 500.0, dataset="e"), meta(10, 700.0, failed="diverged")]

    def cost(size, **other):
        asked = {"model": "m", "strategy": "s", "dataset": "d", "device": "here", **other}
        return cost_of(stored, size=size, **asked)

    assert cost(10) == Cost(4.0, 4)
    assert cost(30).seconds == pytest.approx(6.0)
    assert cost(100).seconds == pytest.approx(16.0)
    assert cost(5).seconds == 4.0
    assert cost(None).seconds == 99.0
    assert cost(10, dataset="new") == Cost(4.0, 5, elsewhere=True)
    for unlike in ({"model": "other"}, {"strategy": "other"}, {"device": "elsewhere"}):
        assert cost(10, **unlike) is None
    assert cost(None, dataset="e") is None
    rows = expected(stored, [("m", "s")], [10, 50], [0, 7], "d", "here")
    assert [row.seconds for row in rows] == [0.0, 4.0, 0.0, 8.0]
    rows = expected(stored, [("m", "s")], [10, 50], [0, 7], "d", "here", ["lr"])
    assert [row.seconds for row in rows] == [4.0, 4.0, 8.0, 8.0]


def test_the_time_of_the_short_study_is_known_before_its_first_run():
    stored = open_store(PROJECT / "checkpoints").metas()
    pairs = read_catalog().pairs(STUDY_MODELS, STUDY_STRATEGIES)
    assert len(pairs) == len(STUDY_MODELS)
    costs = expected(stored, pairs, [12, 25, 50, 100], STUDY_SEEDS, "own-new-1", "2 CPU threads")
    assert all(cost and cost.seconds > 0 for cost in costs)


def test_runs_on_fewer_threads_give_an_upper_estimate():
    stored = [
        meta(10, 4.0, device="1 CPU thread"),
        meta(10, 3.0, device="2 CPU threads"),
        meta(10, 1.0, device="A GPU"),
    ]
    assert cost_of(stored, "m", "s", 10, "d", "2 CPU threads") == Cost(3.0, 1)
    assert cost_of(stored[:1], "m", "s", 10, "d", "2 CPU threads") == Cost(4.0, 1, slower=True)
    assert cost_of(stored[1:], "m", "s", 10, "d", "1 CPU thread") is None
    assert cost_of(stored[:2], "m", "s", 10, "d", "A GPU") is None


def test_settings_that_change_the_work_make_the_cost_unknown():
    stored = [meta(10, 4.0), meta(10, 900.0, seed=1, variant="epochs=1000"), meta(20, 900.0, variant="side=512")]
    assert cost_of(stored, "m", "s", 10, "d", "here") == Cost(4.0, 1)
    assert cost_of(stored, "m", "s", 20, "d", "here") == Cost(8.0, 1)
    assert cost_of(stored[1:], "m", "s", 10, "d", "here") is None
    for name in ("epochs", "min_steps", "batch_size", "side", "episodes", "augment", "imbalance", "patience", "depth"):
        assert expected(stored, [("m", "s")], [10, 20], [0], "d", "here", ["lr", name]) == [None, None]


def test_time_left_weighs_runs_by_what_they_take():
    followed = events.Progress(runs_done=1, runs_total=3)
    assert time_left(followed, [], 10.0) == pytest.approx(20.0)
    assert time_left(followed, [1.0, 1.0, 8.0], 10.0) == pytest.approx(90.0)
    assert time_left(replace(followed, runs_done=0), [5.0, 5.0, 5.0], 3.0) == pytest.approx(12.0)
    assert time_left(replace(followed, runs_done=0), [], 3.0) is None
    assert time_left(events.Progress(), [1.0], 3.0) is None
    half = replace(followed, title="one", doing="one", unit="step", done=5, total=10)
    assert time_left(half, [], 10.0) == pytest.approx(10.0)
    assert time_left(replace(followed, runs_done=3), [1.0, 1.0, 8.0], 10.0) == 0.0


def test_stored_runs_do_not_count_for_the_remaining_time():
    lines = []
    for place in range(8):  # the first was left out, so that it has no run
        lines.append({"kind": "bar", "unit": "run", "done": place, "total": 10})
        if place:
            lines.append({"kind": "run", "trained": False, "title": "one"})
    followed = events.progress_of([*lines, {"kind": "bar", "unit": "run", "done": 8, "total": 10}])
    assert followed.untrained == set(range(8))
    assert time_left(followed, [600.0] * 10, 20.0) == pytest.approx(1180.0)
    assert time_left(followed, [], 20.0) is None
    half = replace(followed, title="one", doing="one", unit="step", done=5, total=10)
    assert time_left(half, [], 20.0) == pytest.approx(60.0)
    assert time_left(replace(followed, runs_done=9), [600.0] * 10, 620.0) == pytest.approx(620.0)
    whole = replace(followed, runs_done=10, untrained=set(range(10)))
    assert time_left(whole, [600.0] * 10, 5.0) == 0.0


def test_skipped_runs_do_not_count_for_the_remaining_time():
    """Of four places the first was trained, the two after it left out, as their pair could not go on."""
    run = {"kind": "run", "trained": True, "title": "one"}
    bars = [{"kind": "bar", "unit": "run", "done": place, "total": 4} for place in range(4)]
    followed = events.progress_of([bars[0], run, *bars[1:]])
    assert (followed.trained, followed.untrained) == ({0}, {1, 2})
    assert time_left(followed, [10.0, 300.0, 300.0, 20.0], 10.0) == pytest.approx(20.0)
    assert time_left(followed, [], 10.0) == pytest.approx(10.0)
