"""Episodes sampled from other data sets: support and query kept apart, labels correct."""

import numpy as np
import pytest

from core.errors import BadRequest
from tests.small_tasks import CPU, IMAGE, NAN, pool, rows_of
from trainer.meta_learning.episodes import Tasks, TaskSpec


def test_support_and_query_share_no_patient_and_labels_are_true():
    labels, groups = np.arange(90) % 3, np.arange(90) // 5
    usable = np.arange(5, 80)
    tasks = Tasks([pool(labels, groups, usable)], TaskSpec(2, False, 3, 4), IMAGE, CPU)
    random, columns, classes = np.random.default_rng(0), set(), set()
    for _ in range(100):
        task = tasks.next(random)
        support, query = rows_of(task.support), rows_of(task.query)
        assert not set(groups[support]) & set(groups[query])
        assert set(support) | set(query) <= set(usable)
        assert np.bincount(task.support_targets).tolist() == [3, 3]
        assert set(np.bincount(task.query_targets)) <= {1, 2, 3, 4}
        of = {int(t): set(labels[support[task.support_targets.numpy() == t]]) for t in (0, 1)}
        assert [len(found) for found in of.values()] == [1, 1]
        assert of[0] != of[1]
        for t in (0, 1):
            assert set(labels[query[task.query_targets.numpy() == t]]) == of[t]
        columns.add(tuple(task.columns.tolist()))
        classes.add(frozenset(of[0] | of[1]))
    assert columns == {(0, 1), (1, 0)}
    assert len(classes) == 3


def test_tasks_of_findings_leave_the_rest_unknown():
    random = np.random.default_rng(0)
    labels = (random.random((200, 3)) < 0.3).astype(float)
    labels[random.random(labels.shape) < 0.1] = NAN
    groups = np.arange(200) // 2
    tasks = Tasks([pool(labels, groups)], TaskSpec(2, True, 3, 3), IMAGE, CPU)
    wide = Tasks([pool(labels[:, :1], groups)], TaskSpec(4, True, 3, 3), IMAGE, CPU)
    for _ in range(40):
        task = tasks.next(random)
        support, query = rows_of(task.support), rows_of(task.query)
        assert task.columns is None
        assert not set(groups[support]) & set(groups[query])
        match = [
            [np.array_equal(labels[support, f], column, equal_nan=True) for f in range(3)]
            for column in task.support_targets.numpy().T
        ]
        assert all(any(row) for row in match)
        assert ((task.support_targets > 0.5).sum(0) >= 3).all()
        assert ((task.support_targets == 0).sum(0) >= 3).all()
        known = ~wide.next(random).support_targets.isnan()
        assert known.any(dim=0).sum() == 1


def test_a_finding_is_a_task_of_two_classes():
    labels = np.array([[0, 1], [1, NAN], [0, 0], [1, 1]] * 10)
    tasks = Tasks([pool(labels)], TaskSpec(2, False, 2, 2), IMAGE, CPU)
    random = np.random.default_rng(0)
    for _ in range(20):
        task = tasks.next(random)
        rows, side = rows_of(task.support), task.support_targets.numpy()
        assert any(set(labels[rows[side == 0], f]) == {1} and set(labels[rows[side == 1], f]) == {0} for f in (0, 1))
    with pytest.raises(BadRequest, match="No task can be drawn from other"):
        Tasks([pool(labels)], TaskSpec(3, False, 2, 2), IMAGE, CPU)


def test_too_few_patients_are_refused():
    with pytest.raises(BadRequest, match="more than 5 patients"):
        Tasks([pool(np.arange(20) % 2, np.arange(20) // 4)], TaskSpec(2, False, 5, 5), IMAGE, CPU)
    shared = Tasks([pool(np.arange(60) % 6, np.arange(60) // 6)], TaskSpec(6, False, 9, 1), IMAGE, CPU)
    with pytest.raises(BadRequest, match="Lower --shots"):
        shared.next(np.random.default_rng(0))
