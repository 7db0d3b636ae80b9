"""Where heatmaps of the shipped phantom runs peak, against the planted evidence, and those of random weights."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from scipy.stats import binomtest

from core.analysis.contest import default_networks
from core.analysis.saliency_sanity import read_check
from core.data.datasets.phantom import SIDE, phantom_at
from core.explain.randomization import from_the_head_down, randomize
from core.inference.predictor import Predictor
from core.paths import PROJECT
from core.runs import open_store, read_run
from tests.heatmap_peaks import peak_distance

PHANTOMS = [phantom_at(index) for index in range(1401, 1521, 2)]  # test images with an opacity
STORE = PROJECT / "checkpoints" / "phantom"
PRETRAINED = ("imagenet", "medical")


def found_at(predictor, explainer="grad-cam", phantoms=PHANTOMS):
    """For each phantom, whether the peak lies on the evidence or within half a cell of the feature map."""
    side = predictor.meta.size
    half = 0.5 / predictor._model.encoder(torch.zeros(1, 3, side, side)).shape[-1]
    answers = predictor([Image.fromarray(one.pixels) for one in phantoms], explainer, 1)
    hits = [
        not one.explanation.degenerate and peak_distance(one.explanation, phantom.evidence) <= half
        for one, phantom in zip(answers, phantoms, strict=True)
    ]
    near = [(distance_transform_edt(~one.evidence) <= half * SIDE).mean() for one in phantoms]
    return int(sum(hits)), float(np.mean(near))


@pytest.mark.parametrize(
    "series", ["scratch-cnn-64-scratch", *(f"{way}-efficientnet-lite0-stages-frozen-logistic" for way in PRETRAINED)]
)
def test_trained_maps_find_the_evidence_more_often_than_chance_and_random_ones_do_not(series):
    (folder,) = STORE.glob(f"{series}-n50-s0-*")
    predictor = Predictor(folder)
    hits, chance = found_at(predictor)
    assert binomtest(hits, len(PHANTOMS), chance, "greater").pvalue < 0.001, (hits, chance)
    random = torch.Generator().manual_seed(0)
    for layers in from_the_head_down(predictor._model):
        for layer in layers:
            randomize(layer, random)
    maps = predictor([Image.fromarray(one.pixels) for one in PHANTOMS], "grad-cam", 1)
    assert not any(one.explanation.degenerate for one in maps), "a flat map is no answer"
    blind, _ = found_at(predictor)
    assert binomtest(blind, len(PHANTOMS), chance, "greater").pvalue > 0.01, (blind, chance)


@pytest.mark.parametrize("model", ["imagenet-efficientnet-lite0-stages", "medical-efficientnet-lite0-stages"])
def test_the_networks_that_answer_for_phantoms_point_at_what_was_planted(model):
    """By the check that ships with them: four maps of five, and those of random weights no more often than chance."""
    (folder,) = (path for path in STORE.glob(f"{model}-frozen-logistic-n200-s0-*"))
    assert folder in [one for one, _ in default_networks(open_store(STORE.parent), "phantom").values()]
    found = read_check(folder, read_run(folder)).planted["hires-cam-shifted"]
    assert found.of == 100
    assert found.hits >= 80
    assert binomtest(found.random_hits, found.random_of, found.elsewhere, "greater").pvalue > 0.01


def test_shifts_find_the_evidence_where_one_pass_misses_it():
    predictor = Predictor(next(STORE.glob("imagenet-efficientnet-lite0-stages-frozen-logistic-n50-s0-*")))
    some = PHANTOMS[:16]
    assert found_at(predictor, "grad-cam-shifted", some)[0] > found_at(predictor, "grad-cam", some)[0]
