"""Metrics in records: shipped ones agree with their predictions, older records are completed."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from core.errors import CorruptRun
from core.metrics import METRICS, Scores, measure
from core.metrics.calibration import probabilities_of
from core.metrics.measures import COUNTED
from core.paths import PROJECT
from core.runs import open_store, read_predictions, read_run, scores_of
from core.runs.store import RUN_FILE
from tests.synthetic_runs import WEAK, make_run

ROUNDED = 0.51e-6  # records have six digits


@pytest.fixture
def shipped(monkeypatch):
    """The run store that comes with the program."""
    monkeypatch.delenv("LOWSHOT_RUNS", raising=False)
    return open_store()


def disagreements(folder):
    """Metrics of a record that are not what its predictions give: (where, name) -> recorded and recomputed."""
    meta, record = read_run(folder), json.loads((folder / RUN_FILE).read_text())
    scores = scores_of(meta, read_predictions(folder))
    given = measure(scores)
    at_half = given | {name: measure(scores.at(0.5), name)[name] for name in COUNTED}  # the others know no threshold
    found = {}
    for where, values in (("metrics", given), ("metrics_at_half", at_half)):
        for name, value in values.items():
            if name in record[where] and not abs(record[where][name] - value) <= ROUNDED:
                found[where, name] = (record[where][name], value)
    return found


@pytest.mark.parametrize(
    "dataset", sorted({path.parent.parent.name for path in (PROJECT / "checkpoints").glob(f"*/*/{RUN_FILE}")})
)
def test_every_metric_of_a_shipped_run_is_what_its_predictions_give(shipped, dataset):
    folders = [folder for folder, meta in shipped.runs.items() if meta.dataset == dataset]
    assert folders
    assert {folder.name: found for folder in folders if (found := disagreements(folder))} == {}


def test_a_record_that_disagrees_with_its_predictions_is_noticed(runs):
    folder = make_run(runs, WEAK, 50, 0, 1.0)
    record = json.loads((folder / RUN_FILE).read_text())
    record["metrics"] = {name: round(value, 6) for name, value in record["metrics"].items()}
    (folder / RUN_FILE).write_text(json.dumps(record))
    assert disagreements(folder) == {}
    record["metrics"]["auroc"] += 2e-6
    (folder / RUN_FILE).write_text(json.dumps(record))
    assert disagreements(folder).keys() == {("metrics", "auroc")}


def test_shipped_aurocs_of_binary_runs_are_those_of_the_stored_logits(shipped):
    """An independent reference: probabilities so close to 1 that they round to it must not tie images."""
    checked = 0
    for folder, meta in shipped.runs.items():
        if meta.task == "binary":
            stored = read_predictions(folder)
            margin = stored.logits[:, meta.positive] - stored.logits[:, 1 - meta.positive]
            expected = roc_auc_score(stored.labels == meta.positive, margin)
            # Equal margins of very large logits may differ in the last bit once divided by the temperature.
            assert meta.metrics["auroc"] == pytest.approx(expected, abs=2e-5), meta.run
            checked += 1
    assert checked


@pytest.mark.parametrize("temperature", [0.25, 1.0, 20.0])
def test_no_temperature_changes_a_ranking(temperature):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    logits = random.normal(size=(400, 2)) * 30 + 20 * np.eye(2)[labels]
    scores = Scores(probabilities_of(logits, temperature), labels, 1)
    assert (scores.probabilities[:, 1] == 1).any() == (temperature < 20)
    assert measure(scores)["auroc"] == pytest.approx(roc_auc_score(labels, logits[:, 1] - logits[:, 0]), abs=1e-12)


def test_odds_order_as_probabilities_do_and_are_infinite_at_certainty():
    scores = Scores(np.array([[0.0, 1.0], [0.25, 0.75], [1e-20, 1.0], [0.5, 0.5]]), np.array([1, 1, 0, 0]), 1)
    assert scores.odds(1).tolist() == [np.inf, 3.0, 1e20, 1.0]
    several = Scores(np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]), np.array([0, 0]))
    assert several.odds(0) == pytest.approx([0.25, np.inf])
    assert several.merged((0, 1)).odds(1) == pytest.approx([1.0, np.inf])


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


def test_shipped_runs_have_every_metric(shipped):
    assert shipped.problems == {}
    assert all(meta.metrics.keys() >= set(METRICS) for meta in shipped.runs.values())


def test_no_shipped_run_learned_from_a_test_image_or_patient(shipped):
    for folder, meta in shipped.runs.items():
        held_out, test = read_predictions(folder, "validation"), read_predictions(folder)
        assert not meta.leaks
        assert not set(held_out.ids) & set(test.ids)
        assert not set(held_out.groups) & set(test.groups)
