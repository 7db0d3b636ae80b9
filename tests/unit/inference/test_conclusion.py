"""One verdict a case: what the networks say, and whatever speaks against it."""

from dataclasses import replace

import numpy as np
import pytest

from core.inference import NetworkResult, PredictionSet
from core.inference.conclusion import conclude
from core.inference.two_stage import Stages, Verdict
from core.inference.uncertainty import interval_over_seeds
from core.metrics.thresholds import Aim, OperatingPoint
from tests.unit.inference.test_case import ADMITTED, REFUSED, case, result

CHECKED = "Image check passed: the image resembles the training data."


def retrained(*others):
    """The interval over a network with a probability of 0.9 and some retrained ones, with thresholds of 0.5."""
    return interval_over_seeds([0.9, *others], np.full(1 + len(others), 0.5))


def holding(*classes):
    return PredictionSet(classes, 0.9, "Measured.")


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        (
            case(result("scratch", 0.9), result("imagenet", 0.8), check=ADMITTED),
            "clear", f"Both networks say ill \u03b2. No probability is near its threshold. {CHECKED}",
        ),
        (
            case(result("scratch", 0.9), result("imagenet", 0.8), result("medical", 0.7)),
            "clear", "All three networks say ill \u03b2. No probability is near its threshold. This task has "
            "no image check; the image may be unsuitable.",
        ),
        (
            case(result("scratch", 0.9), result("imagenet", 0.45), check=ADMITTED),
            "disagree", "The networks disagree: A says ill \u03b2, B says normal. B is within 10 percentage points of "
            f"its threshold. {CHECKED}",
        ),
        (
            case(result("scratch", 0.9), result("imagenet", 0.8), check=REFUSED, overridden=True),
            "unchecked", "No result: the image check rejected this image (both networks say ill \u03b2). It was "
            "analyzed at your request; accuracy on such images is unknown.",
        ),
        (
            case(
                result("scratch", 0.9, prediction_set=holding("Normal", "Ill \u03b2")),
                result("imagenet", 0.8, prediction_set=holding("Normal", "Ill \u03b2")),
                result("medical", 0.8, prediction_set=holding()), check=ADMITTED,
            ),
            "unsure", "All three networks say ill \u03b2, with reservations. The prediction sets of A and B also "
            f"include normal; the prediction set of C contains no class. {CHECKED}",
        ),
        (
            case(result("scratch", 0.9, seed_interval=retrained(0.4)), check=ADMITTED),
            "unsure", "Only network A produced a prediction: ill \u03b2, with reservations. A may give a different "
            f"prediction when retrained on other samples. {CHECKED}",
        ),
        (
            case(result("scratch", 0.9, seed_interval=retrained(0.4, *[0.8] * 19)), check=ADMITTED),
            "clear", "Only network A produced a prediction: ill \u03b2. No probability is near its threshold. "
            f"{CHECKED}",
        ),
        (case(), "none", "No result: no network produced a prediction."),
        (
            replace(case(check=REFUSED), results={}),
            "none", "No result: the image check rejected this image. It is in color, but the training images are "
            "grayscale.",
        ),
    ],
)  # fmt: skip
def test_the_verdict_states_every_conflict_once(found, status, words):
    conclusion = conclude(found)
    assert (conclusion.status, conclusion.text) == (status, words)


def test_no_threshold_is_mentioned_where_the_most_likely_class_is_chosen():
    several = [
        replace(one, meta=replace(one.meta, positive=None, task="multiclass"))
        for one in (result("scratch", 0.9), result("imagenet", 0.8))
    ]
    assert conclude(case(*several, check=ADMITTED)).text == f"Both networks say ill \u03b2. {CHECKED}"


def test_a_network_without_a_prediction_is_named():
    failed = NetworkResult(result("medical", 0.5).meta, problem="Its encoder cannot be had.")
    conclusion = conclude(case(result("scratch", 0.9), result("imagenet", 0.8), failed))
    assert conclusion.status == "clear"
    assert "C produced no prediction" in conclusion.text


def test_two_stages_that_contradict_the_networks_are_part_of_the_verdict():
    stages = Stages("scratch", "imagenet", (1,), OperatingPoint(0.95, Aim("sensitivity", 0.95)), 1, "unknown")
    passed = Verdict(stages, ("Ill \u03b2",), 0.96, "Ill \u03b2", True)
    cleared = Verdict(stages, ("Ill \u03b2",), 0.9, "", False)
    agreeing = case(result("scratch", 0.9), result("imagenet", 0.8), check=ADMITTED)
    assert conclude(replace(agreeing, verdict=passed)).status == "clear"
    conclusion = conclude(replace(agreeing, verdict=cleared))
    assert conclusion.status == "unsure"
    assert conclusion.doubts == ("the two-stage procedure classifies it as not suspicious",)
    split = case(result("scratch", 0.9), result("imagenet", 0.2), check=ADMITTED, verdict=cleared)
    assert "the two-stage procedure classifies it as not suspicious" in conclude(split).doubts
