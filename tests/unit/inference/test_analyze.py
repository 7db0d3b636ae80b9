"""From an uploaded image to its case, without a browser."""

from dataclasses import replace

import numpy as np
import pytest

from core.data.datasets.phantom import phantom_at
from core.data.images import encode_png
from core.data.uploads import Upload
from core.errors import CorruptRun
from core.inference.analyze import Network, Settings, analyze, is_known
from core.inference.image_check import CheckResult
from core.inference.predictor import Predictor
from core.models import MODELS
from core.runs import Run, save_run
from tests.unit.runs.test_store import example_meta, example_predictions

REJECTED = CheckResult(False, ("It is upside down.",), 2.5, 1.25)


@pytest.fixture
def predictor(runs):
    """The predictor of a scratch-cnn with random weights, stored as a run."""
    weights = MODELS["scratch-cnn"].build(2, "phantom", 0).state_dict()
    meta = replace(example_meta(), size=64)
    return Predictor(save_run(meta, example_predictions(), example_predictions(), [], weights, runs)[0])


def settings_of(predictor, **more):
    networks = {
        name: Network([Run("folder", predictor.meta)], lambda run: predictor) for name in ("scratch", "imagenet")
    }
    return Settings(networks, **more)


def phantom():
    return Upload("phantom.png", encode_png(phantom_at(7).pixels))


def test_a_case_has_the_predictions_and_heatmaps_of_the_predictor(predictor):
    case = analyze(phantom(), settings_of(predictor, explainer="grad-cam"))
    expected = predictor([phantom().decode()], "grad-cam")[0]
    assert (case.task, case.explainer, case.name) == (predictor.meta.dataset_title, "Grad-CAM", "phantom.png")
    assert (case.width, case.height) == phantom().decode().size
    for result in case.results.values():
        assert np.array_equal(result.prediction.probabilities, expected.probabilities)
        assert np.array_equal(result.explanation.heat, expected.explanation.heat)
        assert result.seed_interval == result.prediction_set == ""
    assert case.overlaps == ({} if expected.explanation.degenerate else {("scratch", "imagenet"): 1.0})


def test_a_rejected_image_gets_predictions_only_if_the_user_overrides_the_check(predictor):
    settings = settings_of(predictor, image_checker=lambda image: REJECTED)
    case = analyze(phantom(), settings)
    assert case.rejected
    assert not case.results
    assert not case.overridden
    case = analyze(phantom(), settings, overridden=True)
    assert case.overridden
    assert len(case.predictions) == 2


def test_a_file_that_is_no_image_is_a_problem_of_the_case(predictor):
    assert "not a PNG" in analyze(Upload("x.png", b"hello"), settings_of(predictor)).problem
    assert analyze(Upload("x.zip", problem="It is too large."), settings_of(predictor)).problem == "It is too large."


def test_a_network_that_fails_does_not_affect_the_others(predictor, caplog):
    def missing(run):
        raise CorruptRun("The run is damaged.")

    def broken(run):
        raise ZeroDivisionError("pixel 17")

    loaders = {"scratch": missing, "imagenet": broken, "medical": lambda run: predictor}
    networks = {
        name: Network([Run("folder", replace(predictor.meta, run=name))], load) for name, load in loaders.items()
    }
    case = analyze(phantom(), replace(settings_of(predictor), networks=networks))
    assert case.results["scratch"].problem == "The run is damaged."
    assert "This network failed (ZeroDivisionError)" in case.results["imagenet"].problem
    assert "ZeroDivisionError in broken" in caplog.text
    assert "pixel 17" not in caplog.text
    assert len(case.predictions) == 1


def test_an_explainer_that_does_not_support_a_network_says_why(predictor):
    case = analyze(phantom(), settings_of(predictor, explainer="hires-cam"))
    prediction = case.results["scratch"].prediction
    assert prediction.explanation is None
    assert "no earlier stage" in prediction.unexplained
    assert case.overlaps == {}


def test_known_results_are_not_computed_again(predictor):
    known, settings = {}, settings_of(predictor, image_checker=lambda image: replace(REJECTED, admitted=True))
    assert not is_known(settings, False, known)
    first = analyze(phantom(), settings, known=known)
    assert len(known) == 3  # the image, its check and the one run
    assert is_known(settings, False, known)
    again = analyze(Upload("renamed.png", b"is not decoded"), settings, known=known)
    assert (again.name, again.results) == ("renamed.png", first.results)
    assert not is_known(replace(settings, explainer="grad-cam"), False, known)


def test_a_rejected_image_is_known_unless_the_check_is_overridden(predictor):
    known, settings = {}, settings_of(predictor, image_checker=lambda image: REJECTED)
    analyze(phantom(), settings, known=known)
    assert is_known(settings, False, known)
    assert not is_known(settings, True, known)


def test_a_file_that_cannot_be_read_is_known(predictor):
    known = {}
    analyze(Upload("x.png", b"hello"), settings_of(predictor), known=known)
    assert is_known(settings_of(predictor), False, known)
