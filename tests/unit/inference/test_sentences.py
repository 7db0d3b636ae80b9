"""Sentences about a task: the question that it answers and the limits of its answers."""

from dataclasses import replace

import pytest

from core.data import DATASETS
from core.data.specs import find_dataset
from core.inference.sentences import in_sentence, question_of, scope_of
from tests.unit.runs.test_store import example_meta


def meta_of(name):
    row = find_dataset(name)
    return replace(
        example_meta(),
        dataset=row.name,
        dataset_title=row.title,
        task=row.task,
        labels=row.labels,
        positive=row.positive,
    )


@pytest.mark.parametrize("name", [row.name for row in DATASETS.values() if not row.corpus_only])
def test_tasks_are_questions_with_a_stated_population(name):
    row = DATASETS[name]
    assert question_of(meta_of(name)) == f"{row.question} · {row.title}"
    assert row.question.endswith("?")
    assert row.population.endswith(".")
    assert f"images of {in_sentence(row.population)}" in scope_of(meta_of(name))


def test_classes_and_findings_state_what_they_leave_out():
    assert (
        "Possible answers: normal, pneumonia. Images of any other condition are still assigned to one of these classes."
        in scope_of(meta_of("kermany"))
    )
    assert "No other finding is reported." in scope_of(meta_of("nih-chestxray14"))


def test_another_size_of_a_set_keeps_its_question():
    assert question_of(meta_of("pneumoniamnist@size=64")) == (
        "Pneumonia on a child's chest X-ray? · PneumoniaMNIST, size=64"
    )


def test_some_of_a_sets_findings_keep_its_population_and_not_its_count():
    two = meta_of("nih-chestxray14@findings=Edema+Hernia")
    assert question_of(two) == "Which findings? · NIH ChestX-ray14: Edema, Hernia"
    assert "Possible answers: edema, hernia." in scope_of(two)
    assert "Trained and tested on images of patients of one hospital" in scope_of(two)


def test_own_images_are_asked_about_by_their_classes():
    own = replace(meta_of("kermany"), dataset="own-images", dataset_title="My images", labels=("Mole", "Nevus", "DF"))
    assert question_of(own) == "Which of these: mole, nevus or DF? · My images"
    assert scope_of(own).endswith("Trained and tested on images that were brought to this server.")
    many = replace(own, labels=tuple(map(str, range(10))))
    assert question_of(many) == "Which class? · My images"


def test_a_set_that_no_longer_exists_has_no_population():
    gone = replace(meta_of("kermany"), dataset="gone")
    assert "Trained and tested" not in scope_of(gone)
    assert question_of(gone).startswith("Which of these: normal or pneumonia?")
