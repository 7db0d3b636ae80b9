"""The load test on a small scale: two visitors at once, without a browser, each seeing their own results."""

import pytest

from core.data.datasets.phantom import phantom_at
from core.data.images import encode_png
from tests.browser.server import process
from tests.load.load import Images, crowd, is_copy, report, wrong_answers


@pytest.fixture(scope="module")
def found(phantom_runs):
    with process(phantom_runs) as (address, pid):
        return crowd(address, pid, "phantom", users=2, seconds=600, most=2)


def test_two_visitors_each_see_their_own(found, phantom_runs, monkeypatch):
    monkeypatch.setenv("LOWSHOT_RUNS", str(phantom_runs))
    wrong = wrong_answers(found, "phantom")
    figures = report(found, wrong)
    assert figures["errors"] == []
    assert figures["not_their_own"] == []
    assert figures["answers"] == 4
    assert sorted(one.number for one in found.answered) == [0, 1, 2, 3]
    assert all(len(one.metrics) == 2 for one in found.answered)
    assert figures["server_peak_mib"] > 100


def test_an_answer_to_another_image_is_noticed(found, phantom_runs, monkeypatch):
    monkeypatch.setenv("LOWSHOT_RUNS", str(phantom_runs))
    first, second = found.answered[:2]
    first.metrics, second.metrics = second.metrics, first.metrics
    assert set(wrong_answers(found, "phantom")) == {first.name, second.name}


def test_copies_of_an_image_are_recognized():
    images = Images("phantom")
    assert is_copy(images(0), images(0))
    assert not is_copy(images(1), images(0))
    assert images(3) == encode_png(phantom_at(6004).pixels)
