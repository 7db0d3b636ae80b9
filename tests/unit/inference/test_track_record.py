"""How often a network is right: counts of the stored predictions, external ones too, and Bayes at a prevalence."""

from dataclasses import replace

import pytest

from core.inference.track_record import Rates, track_record
from core.runs import ExternalRecord, Run, read_run
from core.runs.scores import load_part
from tests.synthetic_runs import STRONG, make_run


def run_of(folder):
    return Run(folder, read_run(folder))


def test_rates_are_those_of_the_stored_predictions_and_of_external_sets(tmp_path):
    run = run_of(make_run(tmp_path, STRONG, 20, 0, 2.0))
    metrics = {"sensitivity": 0.4, "specificity": 0.9}
    evaluated = ExternalRecord("Adults", run.meta.labels, metrics=metrics)
    refused = ExternalRecord("Others", refused="its encoder saw them")
    meta = replace(run.meta, external={"adults": evaluated, "others": refused})
    own, elsewhere = track_record(Run(run.folder, meta), 1)
    assert own.title == ""
    assert own.sensitivity == pytest.approx(meta.metrics["sensitivity"])
    assert own.specificity == pytest.approx(meta.metrics["specificity"])
    assert elsewhere == Rates("Adults", 0.4, 0.9)
    assert len(track_record(Run(run.folder, meta), 0)) == 1  # external rates are those of the positive class


def test_each_of_several_classes_counts_against_the_rest(tmp_path):
    run = run_of(make_run(tmp_path, STRONG, 20, 0, 3.0, task="multiclass"))
    scores = load_part(run).scores
    decided = scores.probabilities.argmax(axis=1)
    (rates,) = track_record(run, 2)
    assert rates.sensitivity == pytest.approx((decided == 2)[scores.labels == 2].mean())
    assert rates.specificity == pytest.approx((decided != 2)[scores.labels != 2].mean())


def test_texts_state_natural_frequencies():
    rates = Rates("", 0.97, 0.69)
    assert rates.text("pneumonia", True) == (
        "Of 100 test images with pneumonia, it finds 97; of 100 without, it raises a false alarm in 31."
    )
    assert rates.text("melanoma", False).endswith("of 100 others, it misclassifies 31 as melanoma.")
    assert Rates("adults", 1.0, 1.0).text("pneumonia", True).startswith("On adults: of 100 images")


def test_predictive_values_follow_from_the_prevalence():
    text = Rates("", 0.9, 0.9).predictive_text("pneumonia", True, 0.5)
    assert "of 100 positive predictions, 90 are right; of 100 negative predictions, 90 are right" in text
    positive = 0.9 * 0.01 / (0.9 * 0.01 + 0.1 * 0.99)
    rare = Rates("", 0.9, 0.9).predictive_text("x", True, 0.01)
    assert f"of 100 positive predictions, {round(100 * positive)} are right" in rare
    never = Rates("", 0.0, 1.0).predictive_text("pneumonia", True, 0.1)
    assert "positive predictions" not in never
    assert "of 100 negative predictions, 90 are right" in never


def test_predictive_values_name_the_set_of_their_rates_and_do_not_call_classes_positive():
    adults = Rates("Adults", 0.9, 0.9).predictive_text("pneumonia", True, 0.5)
    assert "by the rates on Adults: of 100 positive predictions" in adults
    assert "of 100 such predictions, 90 are right" in Rates("", 0.9, 0.9).predictive_text("nevus", False, 0.5)
