"""Sentences about a task: the question that it answers and the limits of its answers."""

from dataclasses import replace

import pytest

from core.data import DATASETS
from core.inference.sentences import question_of, scope_of
from tests.unit.runs.test_store import example_meta


def meta_of(name):
    row = DATASETS[name]
    return replace(
        example_meta(), dataset=name, dataset_title=row.title, task=row.task, labels=row.labels, positive=row.positive
    )


@pytest.mark.parametrize(
    "name",
    ["kermany", "kermany-3", "ham10000", "covid-radiography", "nih-chestxray14", "nih-adult-pneumonia", "chexpert"],
)
def test_tasks_are_questions_with_a_stated_population(name):
    row = DATASETS[name]
    assert question_of(meta_of(name)) == f"{row.question} · {row.title}"
    assert row.question.endswith("?")
    assert row.population.endswith(".")
    assert f"images of {row.population[:1].lower()}" in scope_of(meta_of(name))


def test_classes_and_findings_state_what_they_leave_out():
    assert (
        "Possible answers: normal, pneumonia. Images of any other condition are still assigned to one of these classes."
        in scope_of(meta_of("kermany"))
    )
    assert "No other finding is reported." in scope_of(meta_of("nih-chestxray14"))


def test_a_set_without_a_question_keeps_its_title():
    own = replace(meta_of("kermany"), dataset="own-images", dataset_title="My images")
    assert question_of(own) == "My images"
    assert "Trained and tested" not in scope_of(own)
