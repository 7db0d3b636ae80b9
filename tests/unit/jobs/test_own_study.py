"""The study of own images: its sizes, whose jobs are whose, and what deletion takes."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from core.data import own_images
from core.errors import BadRequest
from core.jobs import own_study, records
from core.jobs.own_study import LARGEST, study_sizes
from core.jobs.queue import Queue
from core.jobs.records import State
from core.jobs.request import Request
from core.paths import embeddings_folder
from tests.uploaded_files import class_files

REQUEST = Request("Mine", ("scratch-cnn",), ("scratch-quick",), (2,), (0,), dataset="phantom")


def split_of(*counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    return SimpleNamespace(
        listing=SimpleNamespace(labels=labels), parts=SimpleNamespace(train=np.arange(len(labels))),
        labels=tuple(map(str, range(len(counts)))),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [((80, 300), (10, 20, 40, 80)), ((8, 9), (2, 4, 8)), ((500, 900, 201), (25, 50, 100, LARGEST))],
)
def test_sizes_double_up_to_the_smallest_class(counts, sizes):
    assert study_sizes(split_of(*counts)) == sizes


def test_too_few_images_for_a_curve_are_refused():
    with pytest.raises(BadRequest, match="7 images of the smallest class are left"):
        study_sizes(split_of(7, 50))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A stored set, a run on it and a queue at which nobody works."""
    for name in ("DATA", "RUNS", "JOBS", "CACHE"):
        monkeypatch.setenv(f"LOWSHOT_{name}", str(tmp_path / name.lower()))
    monkeypatch.setattr(Queue, "wake", lambda self: "")
    stored, _ = own_images.store("a", "Mine", own_images.file_entries(class_files({"ill": 13, "well": 13}).items()))
    (tmp_path / "runs" / stored.name / "run").mkdir(parents=True)
    return stored


def test_deletion_takes_images_runs_and_jobs_but_never_under_a_job(own, tmp_path):
    queue = Queue()
    embeddings = [embeddings_folder() / name / "key-view0" for name in (own.name, "kermany")]
    for folder in embeddings:
        folder.mkdir(parents=True)
    job = queue.submit(replace(REQUEST, dataset="", folder=str(own.path)))
    other = queue.submit(REQUEST)
    assert own_study.is_of_another(job, "b")
    assert not own_study.is_of_another(job, "a")
    assert not own_study.is_of_another(other, "b")
    with pytest.raises(BadRequest, match="Cancel it first"):
        own_study.delete(own, queue)
    assert own.path.is_dir()
    records.write_state(job, State("done"))
    own_study.delete(own, queue)
    assert not own.path.exists()
    assert not (tmp_path / "runs" / own.name).exists()
    assert [folder.exists() for folder in embeddings] == [False, True]
    assert [left.request for left in queue.jobs()] == [REQUEST]


def test_sets_past_their_time_are_deleted_unless_a_job_uses_them(own, monkeypatch):
    queue = Queue()
    own_study.delete_expired(queue)
    assert own.path.is_dir()
    job = queue.submit(replace(REQUEST, dataset="", folder=str(own.path)))
    monkeypatch.setattr(time, "time", lambda: own.until + 1)
    own_study.delete_expired(queue)
    assert own.path.is_dir()
    records.write_state(job, State("done"))
    own_study.delete_expired(queue)
    assert not own.path.exists()
