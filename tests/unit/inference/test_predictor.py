"""The predictor of a stored run: probabilities, heatmaps, thresholds and threads."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.datasets.phantom import phantom_at
from core.errors import CorruptRun
from core.inference.predictor import Predictor
from core.models import MODELS
from core.runs import read_run, save_run
from tests.unit.runs.test_store import example_meta, example_predictions


@pytest.fixture
def stored(runs):
    """A scratch-cnn with random weights, stored as a run."""
    model = MODELS["scratch-cnn"].build(2, "phantom", 0)
    meta = replace(example_meta(), size=64)
    return save_run(meta, example_predictions(), example_predictions(), [], model.state_dict(), runs)[0]


IMAGES = [Image.fromarray(phantom_at(index).pixels) for index in range(4)]


def test_batches_and_single_images_agree(stored):
    predictor = Predictor(stored)
    together = predictor(IMAGES, "grad-cam")
    for image, expected in zip(IMAGES, together, strict=True):
        alone = predictor([image], "grad-cam")[0]
        assert np.allclose(alone.probabilities, expected.probabilities, atol=1e-5)
        assert np.allclose(alone.explanation.heat, expected.explanation.heat, atol=1e-4)
        assert alone.explanation.target == 1
    assert predictor(IMAGES)[0].explanation is None


def test_the_decision_follows_the_stored_threshold(stored):
    predictor = Predictor(stored)
    p = predictor(IMAGES[:1])[0].probabilities[1]
    for threshold, decision in ((p - 0.01, 1), (p + 0.01, 0)):
        predictor.meta = replace(predictor.meta, threshold=float(threshold))
        assert predictor(IMAGES[:1])[0].decided == (decision,)


class Slow(torch.nn.Module):
    """Lets other threads in where captum's hooks would get mixed up."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        time.sleep(0.02)
        return self.inner(x)


def test_threads_that_predict_and_explain_do_not_disturb_each_other(stored):
    predictor = Predictor(stored)
    predictor._model.tapped.head.layers = Slow(predictor._model.tapped.head.layers)
    expected = predictor(IMAGES[:1], "grad-cam")[0]
    wrong = []

    def work(explainer):
        for _ in range(5):
            try:
                found = predictor(IMAGES[:1], explainer)[0]
                if not np.allclose(found.probabilities, expected.probabilities):
                    wrong.append("probabilities")
                if explainer and not np.allclose(found.explanation.heat, expected.explanation.heat):
                    wrong.append("heat")
            except Exception as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("grad-cam", None, "grad-cam", None)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_run_without_weights_or_with_foreign_ones_is_refused(runs, stored):
    bare = save_run(replace(example_meta("bare")), example_predictions(), example_predictions(), [], None, runs)[0]
    with pytest.raises(CorruptRun, match="has no"):
        Predictor(bare)
    foreign = {"tapped.head.layers.0.weight": torch.zeros(2, 2)}
    odd = save_run(replace(example_meta("odd")), example_predictions(), example_predictions(), [], foreign, runs)[0]
    with pytest.raises(CorruptRun, match="other tensors"):
        Predictor(odd)
    assert read_run(odd).has_weights
