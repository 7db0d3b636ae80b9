"""Results that ship with the runs: the same numbers as computed, valid for exactly these runs, needed by no page."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest

from core.analysis import comparison
from core.analysis.precomputed_results import store_results
from core.metrics import METRICS
from core.runs import Run, metric_cache, open_store
from core.runs.series import estimate, has_intervals, runs_by_series, summarize
from core.runs.stored_results import FILE
from tests.synthetic_runs import STRONG, WEAK, make_run
from trainer.cli import main


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """Two families at three sizes, what is computed of them, and a store with that computed beforehand."""
    folder = tmp_path_factory.mktemp("shipped") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWSHOT_CACHE", str(folder.parent / "cache"))
        for seed in range(5):
            for step, size in enumerate((10, 20, 40)):
                make_run(folder, WEAK, size, seed, 0.3 + 0.3 * step)
                make_run(folder, STRONG, size, seed, 1.0 + 0.5 * step)
        store = open_store(folder)
        series = runs_by_series(store, store.metas())
        computed = results_of(series)
        path = store_results(store, "phantom", lambda done, total: None)
    return series, computed, path


def results_of(series):
    """Intervals, differences and fits of two series, as pages ask for them."""
    cells = [[run for run in runs if run.meta.train_size == 20] for runs in series.values()]
    return (
        [summarize(runs) for runs in cells],
        [estimate(runs) for runs in cells],
        comparison.compare_runs(*cells),
        comparison.stored_curves(series, "auroc") or comparison.learning_curves(series, "auroc")[1],
    )


def same(one, other):
    """Whether two results have equal types and numbers, to the last digit; NaN equals NaN."""
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=True)
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return all(same(*pair) for pair in zip(one, other, strict=True))
    if hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and all(
            same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)
        )
    return one == other


@pytest.fixture
def unmeasured(monkeypatch, tmp_path):
    """An empty cache, and a measurement that fails."""
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))

    def refuse(predictions):
        raise AssertionError("resampled test images were measured")

    monkeypatch.setattr(metric_cache, "_measure", refuse)


def test_stored_results_are_the_computed_ones_to_the_last_digit(shipped, unmeasured):
    series, computed, _ = shipped
    assert same(list(results_of(series)), list(computed))


def test_a_selection_of_the_series_has_its_stored_curve(shipped, unmeasured):
    series, (*_, fits), _ = shipped
    name = next(iter(series))
    assert same(comparison.stored_curves({name: series[name]}, "auroc"), {name: fits[name]})
    assert comparison.stored_curves(series, "brier") is None


def test_other_runs_and_other_findings_are_never_answered_from_it(shipped, monkeypatch, tmp_path):
    series, _, _ = shipped
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    runs = [run for run in next(iter(series.values())) if run.meta.train_size == 20]
    moved = [Run(folder, replace(meta, threshold=0.9)) for folder, meta in runs]
    assert has_intervals(runs)
    assert not has_intervals(runs[:4])
    assert not has_intervals(moved)
    assert not has_intervals(runs, 0)
    monkeypatch.setattr(metric_cache, "VERSION", metric_cache.VERSION + 1)
    assert not has_intervals(runs)


def test_a_damaged_file_is_ignored(shipped, monkeypatch, tmp_path):
    series, computed, path = shipped
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    content = path.read_text()
    runs = [run for run in next(iter(series.values())) if run.meta.train_size == 20]
    try:
        path.write_text(content.replace('"seeds":[0.', '"seeds":[1.', 1))
        assert not has_intervals(runs)
        assert same(summarize(runs), computed[0][0])
    finally:
        path.write_text(content)


def test_the_command_writes_the_same_file(shipped, monkeypatch):
    _, _, path = shipped
    monkeypatch.setenv("LOWSHOT_CACHE", str(path.parents[2] / "cache"))
    monkeypatch.setenv("LOWSHOT_RUNS", str(path.parents[1]))
    content = path.read_text()
    path.unlink()
    assert main(["report", "--dataset", "phantom", "--store-results"]) == 0
    assert path.read_text() == content


def test_the_file_is_small(shipped):
    series, _, path = shipped
    content = json.loads(path.read_text())["content"]
    cells = sum(len({run.meta.train_size for run in runs}) for runs in series.values())
    assert path.name == FILE
    assert len(content["intervals"]) == cells == 6
    assert len(content["differences"]) == 3
    assert all(row.keys() == METRICS.keys() for row in content["intervals"].values())
    assert len(json.dumps(content["intervals"])) < 3000 * cells
    assert len(json.dumps(content["curves"])) < 70_000 * len(content["curves"])
