"""Cached resamples of test images: keyed by content, recomputed when damaged, the same for every run."""

from dataclasses import replace

import numpy as np
import pytest

from core.analysis import comparison
from core.metrics import METRICS, measure
from core.paths import cache_folder
from core.runs import Run
from core.runs.metric_cache import resampled_run, weights_for
from tests.synthetic_runs import WEAK, make_run, of


def stored_draws():
    return sorted((cache_folder() / "draws").glob("*.npz"))


def test_draws_are_kept_by_content_and_made_again_when_damaged(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    run = of([make_run(runs, WEAK, 50, 0, 1.0)])[0]
    first = resampled_run(run)
    (place,) = stored_draws()
    written = place.stat().st_mtime_ns
    assert all(np.array_equal(resampled_run(run).values[name], first.values[name]) for name in METRICS)
    assert place.stat().st_mtime_ns == written
    place.write_bytes(place.read_bytes()[:500])
    again = resampled_run(run)
    assert all(np.array_equal(again.values[name], first.values[name], equal_nan=True) for name in METRICS)
    assert (again.images, again.n, again.groups) == (first.images, 120, 60)


def test_another_operating_point_or_other_predictions_are_never_answered_from_the_cache(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    folder, meta = of([make_run(runs, WEAK, 50, 0, 1.0)])[0]
    first = resampled_run(Run(folder, meta))
    moved = resampled_run(Run(folder, replace(meta, threshold=0.9)))
    assert moved.values["sensitivity"][0] < first.values["sensitivity"][0]
    assert np.array_equal(moved.values["auroc"], first.values["auroc"])
    better = of([make_run(runs, WEAK, 50, 0, 4.0, run="better")])[0]
    assert resampled_run(better).values["auroc"][0] > first.values["auroc"][0]
    assert len(stored_draws()) == 3


def test_draws_begin_with_the_images_as_they_are_and_are_the_same_for_every_run(families):
    weak, strong = families
    for run in (weak[0], strong[0]):
        for name, value in measure(comparison.load_part(run).scores).items():
            assert resampled_run(run).values[name][0] == pytest.approx(value)
    one, other = (comparison.load_part(run) for run in (weak[0], strong[0]))
    assert weights_for(one.scores.labels, one.groups) is weights_for(other.scores.labels, other.groups)
