"""Metrics in the records of runs, also those added since a run was stored; and what shipped runs learnt from."""

import json

import pytest

from core.checkpoints import RUN_FILE, open_store, read_predictions, read_run, scores_of
from core.errors import CorruptRun
from core.metrics import METRICS, measure
from tests.made import WEAK, make_run


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
