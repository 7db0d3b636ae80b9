"""The load test on a small scale: a few concurrent visitors without a browser each see only their own work."""

from dataclasses import replace

import pytest
from streamlit.proto.Alert_pb2 import Alert
from streamlit.proto.Element_pb2 import Element

from benchmarks import visitors
from core.data.datasets.phantom import phantom_at
from core.data.images import encode_png
from tests.load.load import Crowd, Images, crowded, diagnose, is_copy, record_of, server, train, walk, wrong_predictions
from tests.load.visitor import Shown


@pytest.fixture(scope="module")
def result(phantom_runs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWSHOT_RUNS", str(phantom_runs))
        before = set(phantom_runs.rglob("*"))
        with server() as (address, pid):
            visits = [diagnose, diagnose, walk, train, train]
            made = crowded(address, pid, "phantom", visits, seconds=600, most=1, looks=1)
        assert set(phantom_runs.rglob("*")) == before
    return made


def test_each_visitor_sees_only_their_own_work(result, phantom_runs, monkeypatch):
    monkeypatch.setenv("LOWSHOT_RUNS", str(phantom_runs))
    assert result.errors == []
    assert result.not_their_own == []
    assert wrong_predictions(result, "phantom") == []
    unanswered = replace(result, answered=[replace(result.answered[0], metrics=[], refused=True)])
    assert wrong_predictions(unanswered, "phantom") == [result.answered[0].name]
    assert sorted(one.number for one in result.answered) == [0, 1]
    assert all(len(one.metrics) == 2 for one in result.answered)
    assert result.studies == ["cancelled"] * 2
    assert {page for (page, _, _), tables in result.tables.items() if tables} == {"compare", "learning_curves"}


def test_measurements_become_rows(result):
    *taken, memory = visitors.rows(record_of(result))
    assert all(row["times"] > 0 and row["errors"] == 0 and row["p95"] >= row["median"] > 0 for row in taken)
    assert {row["what"].partition(":")[0] for row in taken} == {"Diagnose", "Compare", "Learning curves", "Train"}
    assert memory["peak_with_jobs"] >= memory["last"] > 100


def test_predictions_of_another_image_are_detected(result, phantom_runs, monkeypatch):
    monkeypatch.setenv("LOWSHOT_RUNS", str(phantom_runs))
    first, second = result.answered[:2]
    first.metrics, second.metrics = second.metrics, first.metrics
    assert set(wrong_predictions(result, "phantom")) == {first.name, second.name}


def test_images_of_another_visitor_and_errors_are_detected():
    crowd = Crowd("", "phantom", 2, 0)
    shown = Shown([Element(), Element()], seconds=1.0, problem="the page shows an error")
    shown.elements[0].markdown.body = "**Visitor 1 study 0** · queued"
    shown.elements[1].alert.body, shown.elements[1].alert.format = "The disk is full.", Alert.ERROR
    crowd.took(0, "Train: open", shown)
    assert crowd.result.not_their_own == ["visitor 0: Train: open: images of visitor 1"]
    assert [text for _, text in crowd.result.errors] == ["the page shows an error", "The disk is full."]
    crowd.took(1, "Train: open", Shown(shown.elements[:1]))
    assert len(crowd.result.not_their_own) == 1


def test_copies_of_an_image_are_recognized():
    images = Images("phantom")
    assert is_copy(images(0), images(0))
    assert not is_copy(images(1), images(0))
    assert images(3) == encode_png(phantom_at(6004).pixels)
