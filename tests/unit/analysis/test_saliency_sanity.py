"""Heatmaps of randomized weights: layer by layer from the head down, stored with the runs, never reused for others."""

import copy
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from core.analysis.saliency_sanity import (
    FILE,
    caution_for,
    depends_on_weights,
    evidence_sentence,
    read_check,
    rows_of,
    save_check,
    sentence,
)
from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.datasets.phantom import phantom_at
from core.errors import BadRequest, CorruptRun
from core.explain import Explanation
from core.explain.randomization import (
    STEPS,
    MapSimilarity,
    PlantedHits,
    Randomized,
    _on_planted,
    check_randomized,
    from_the_head_down,
    near,
    peaks_on,
    randomize,
    rank_correlation,
)
from core.models import MODELS
from core.models.classifier import Classifier, Head, average_pool, linear_layers
from core.paths import PROJECT
from core.runs import open_store
from core.runs.sidecar import read_sidecar, save_sidecar
from tests.heatmap_peaks import peak_distance
from trainer.cli import main
from trainer.commands.sanity import check_run, rows_to_explain

GOOD = MapSimilarity(0.02, -0.05, 0.09, 0.1)
FOUND = Randomized(
    20,
    3,
    (MapSimilarity(0.6, 0.5, 0.7, 0.0), GOOD, GOOD, GOOD),
    MapSimilarity(0.4, 0.3, 0.5, 0.0),
    {"grad-cam": PlantedHits(16, 20, 5, 60, 0.11)},
)


def heat(values):
    values = np.asarray(values, np.float32)
    return Explanation(values, float(values.max()), 1, bool(np.ptp(values) == 0))


def looks_at_brightness():
    """A network whose evidence is known: what is bright speaks for class 1."""
    encoder = nn.Sequential(nn.Conv2d(3, 2, 4, stride=4, bias=False))
    head = linear_layers(2, 2)
    with torch.no_grad():
        encoder[0].weight.copy_(torch.stack([torch.full((3, 4, 4), 1 / 48), torch.full((3, 4, 4), -1 / 48)]))
        head[0].weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    return Classifier(encoder, Head(average_pool(), head)).eval()


def bright_squares(count=8):
    images, evidence = torch.zeros(count, 3, 32, 32), np.zeros((count, 32, 32), bool)
    for number in range(count):
        row, column = 4 * (number % 7), 4 * (3 * number % 7)
        images[number, :, row : row + 4, column : column + 4] = 1
        evidence[number, row : row + 4, column : column + 4] = True
    return images + 0.1 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0)), list(evidence)


def test_rank_correlation_is_spearmans():
    random = np.random.default_rng(0)
    one, other = random.random((6, 6)).round(1), random.random((6, 6)).round(1)
    assert rank_correlation(heat(one), heat(other)) == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic)
    assert rank_correlation(heat(one), heat(one**3)) == pytest.approx(1)
    assert math.isnan(rank_correlation(heat(one), heat(np.ones((6, 6)))))


def test_a_peak_on_the_evidence_has_distance_zero():
    random = np.random.default_rng(1)
    evidence = np.zeros((60, 60), bool)
    evidence[20:35, 10:25] = True
    for _ in range(200):
        one = heat(random.random((60, 60)))
        assert peaks_on(one, evidence) == (peak_distance(one, evidence) == pytest.approx(0))
    assert not peaks_on(heat(np.zeros((60, 60))), near(evidence, 1.0))
    beside = np.zeros((60, 60))
    beside[27, 29] = 1
    assert [peaks_on(heat(beside), near(evidence, reach / 60)) for reach in (4, 5)] == [False, True]


def test_chance_is_how_often_random_maps_fall_on_the_evidence_of_another_image():
    """Maps that all peak at one place, where the evidence of every other image lies, find it by chance alone."""
    evidence = [np.zeros((10, 10), bool) for _ in range(4)]
    for number, one in enumerate(evidence):
        one[(2, 8)[number // 2], 5] = True
    values = np.zeros((10, 10))
    values[2, 5] = 1
    planted = _on_planted([heat(values)] * 4, [[heat(values)] * 4] * 2, evidence)
    assert planted == PlantedHits(2, 4, 4, 8, 0.5)


@pytest.mark.parametrize("name", ["scratch-cnn", "scratch-groupnorm-cnn", "scratch-resnet18", "control-random-frozen"])
def test_every_layer_with_weights_is_made_random_once_the_last_one_first(name):
    model = MODELS[name].build(2, "", 0).eval()
    steps = from_the_head_down(model)
    assert len(steps) == len(STEPS)
    assert all(steps)
    layers = [layer for step in steps for layer in step]
    assert len(layers) == len(set(map(id, layers)))
    covered = sum(value.numel() for layer in layers for value in layer.parameters(recurse=False))
    assert covered == sum(value.numel() for value in model.parameters())
    before = copy.deepcopy(model.state_dict())
    for layer in steps[0]:
        randomize(layer, torch.Generator().manual_seed(0))
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith("tapped.head.") for key in changed)


def test_a_network_that_learned_points_at_its_evidence_and_a_random_one_does_not():
    model, (images, evidence) = looks_at_brightness(), bright_squares()
    before = copy.deepcopy(model.state_dict())
    found = check_randomized(model, images, [1] * len(images), 5, evidence)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert (found.images, found.draws, len(found.steps)) == (8, 5, 4)
    assert list(found.planted) == ["grad-cam"], "its encoder has no earlier stage"
    planted = found.planted["grad-cam"]
    assert (planted.hits, planted.of, planted.random_of) == (8, 8, 40)
    assert planted.random_hits < 40
    assert 0 <= planted.elsewhere < 1
    assert found.steps[-1].high < 0.9
    assert found == check_randomized(model, images, [1] * len(images), 5, evidence), "the draws are seeded"


def test_a_map_that_does_not_care_for_weights_is_found_out(monkeypatch):
    """An edge detector in place of Grad-CAM, as Adebayo et al. warn of."""
    from core.explain.methods import EXPLAINERS, Attribution

    row = replace(
        EXPLAINERS["grad-cam"], attribute=lambda asked: Attribution(asked.images.diff(dim=2).abs().mean(dim=1))
    )
    monkeypatch.setitem(EXPLAINERS, "grad-cam", row)
    images, _ = bright_squares()
    found = check_randomized(looks_at_brightness(), images, [1] * 8)
    assert [one.value for one in found.steps] == pytest.approx([1.0] * 4)
    assert depends_on_weights(found) is False
    assert "cautious" in sentence(found)


def test_results_are_reported_in_words():
    assert depends_on_weights(FOUND) is True
    assert "Check passed: the maps depend on what was learned" in sentence(FOUND)
    assert "0.02 (-0.05 to 0.09) over 20 test images, 3 random initializations" in sentence(FOUND)
    assert "16 of 20 heatmaps peak on the planted evidence" in evidence_sentence(FOUND.planted)
    assert "random weights 5 of 60, where 11% is chance" in evidence_sentence(FOUND.planted)
    assert [row["Random"] for row in rows_of(FOUND)][:4] == list(STEPS)
    flat = replace(FOUND, steps=(MapSimilarity(math.nan, math.nan, math.nan, 1.0),) * 4)
    assert depends_on_weights(flat) is None
    assert "proves little" in sentence(flat)
    silent = replace(flat, others=MapSimilarity(math.nan, math.nan, math.nan, 1.0))
    assert "trained network is flat" in sentence(silent)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A store of one shipped run that keeps weights, without the check that ships with it."""
    store = tmp_path / "store"
    shipped = next((PROJECT / "checkpoints" / "phantom").glob("scratch-cnn-64-scratch-n50-s0-*"))
    shutil.copytree(shipped, store / "phantom" / shipped.name)
    monkeypatch.setenv("LOWSHOT_RUNS", str(store))
    return store, next(iter(open_store(store).runs.items()))


def test_a_check_is_believed_of_the_weights_it_was_made_of_alone(stored):
    store, (folder, meta) = stored
    assert read_check(folder, meta) is None
    assert caution_for(folder, meta) == ""
    save_check(folder, meta, FOUND)
    assert caution_for(folder, meta) == sentence(FOUND)
    assert read_check(folder, meta) == FOUND
    other = replace(meta, hashes={**meta.hashes, "weights.safetensors": "0" * 64})
    assert read_check(folder, other) is None
    save_check(folder, meta, replace(FOUND, others=MapSimilarity(math.nan, math.nan, math.nan, 1.0), planted={}))
    again = read_check(folder, meta)
    assert math.isnan(again.others.value)
    assert again.planted == {}
    content = json.loads((store / "phantom" / FILE).read_text())
    content["content"]["runs"][meta.run]["found"]["images"] = 2000
    (store / "phantom" / FILE).write_text(json.dumps(content))
    with pytest.raises(CorruptRun, match="its hash differs"):
        read_check(folder, meta)
    save_check(folder, meta, FOUND)  # a damaged record is made again
    assert read_check(folder, meta) == FOUND


def test_of_older_records_what_was_counted_otherwise_is_left_out(stored):
    store, (folder, meta) = stored
    save_check(folder, meta, FOUND)
    rows = read_sidecar(store / "phantom", FILE)["runs"]
    counted = rows[meta.run]["found"]["planted"]
    older = {key: value for key, value in counted["grad-cam"].items() if key != "elsewhere"} | {"chance": 0.1}
    for planted in (older, {"grad-cam": older}):
        rows[meta.run]["found"]["planted"] = planted
        save_sidecar(store / "phantom", FILE, {"runs": rows})
        assert read_check(folder, meta) == replace(FOUND, planted={})
    rows[meta.run]["found"]["planted"] = {**counted, "of-another-version": counted["grad-cam"]}
    save_sidecar(store / "phantom", FILE, {"runs": rows})
    assert read_check(folder, meta) == FOUND


@pytest.mark.parametrize("text", ["[1]", "{", '{"sha256": "x", "content": []}', '{"content": {}}'])
def test_damaged_records_are_named(text, tmp_path):
    assert read_sidecar(tmp_path, FILE) is None
    (tmp_path / FILE).write_text(text)
    with pytest.raises(CorruptRun, match=FILE):
        read_sidecar(tmp_path, FILE)


def test_a_record_is_no_link_and_fits_what_it_names(stored, tmp_path):
    store, (folder, meta) = stored
    target = save_sidecar(tmp_path, "elsewhere.json", {"runs": {}})
    (store / "phantom" / FILE).symlink_to(target)
    with pytest.raises(CorruptRun, match="a link"):
        read_check(folder, meta)
    (store / "phantom" / FILE).unlink()
    found = {"images": 2, "draws": 1, "planted": None, "others": [], "steps": [{}]}
    weights = {"weights": meta.hashes["weights.safetensors"]}
    for runs in ([], {meta.run: 3}, *({meta.run: {**weights, "found": one}} for one in ({}, found, [], None))):
        save_sidecar(store / "phantom", FILE, {"runs": runs})
        with pytest.raises(CorruptRun, match="cannot be read"):
            read_check(folder, meta)
        assert "cannot be read" in caution_for(folder, meta)


def test_the_command_checks_runs_keeps_what_it_found_and_answers_from_it(stored, monkeypatch, capsys):
    _, (folder, meta) = stored
    argv = ["sanity", "--dataset", "phantom", "--images", "4", "--draws", "1"]
    assert main(argv) == 0
    first = capsys.readouterr().out
    assert meta.run in first
    assert "4 test images, 1 random initializations" in first
    assert {one.of for one in read_check(folder, meta).planted.values()} == {4}

    def never(*arguments):
        raise AssertionError("it was checked again")

    monkeypatch.setattr("trainer.commands.sanity.check_randomized", never)
    assert main(argv) == 0
    assert capsys.readouterr().out == first
    assert main(["sanity", "--dataset", "ham10000"]) == 2
    assert "has saved weights" in capsys.readouterr().err


def test_images_are_of_the_class_explained_and_of_different_patients(stored):
    _, (_, meta) = stored
    dataset = load_dataset(DATASETS["phantom"])
    rows = rows_to_explain(dataset, meta, 20)
    assert len(rows) == 20
    assert (dataset.listing.labels[rows] == 1).all()
    assert set(rows) <= set(dataset.parts.test)
    two = np.array(["a", "b"])[np.arange(len(dataset.listing)) // 2 % 2]
    same = replace(dataset, parts=replace(dataset.parts, groups=two))
    assert len(rows_to_explain(same, meta, 20)) == 2
    evidence = dataset.spec.evidence(dataset.listing.ids[rows[0]])
    np.testing.assert_array_equal(evidence, phantom_at(int(rows[0])).evidence)
    with pytest.raises(BadRequest, match="split hashes differ"):
        check_run(None, replace(meta, split_hash="x"), dataset, 2, 1, torch.device("cpu"))


@pytest.mark.parametrize("dataset", ["phantom", "kermany", "ham10000"])
def test_every_shipped_run_with_weights_has_a_check_that_fits_it(dataset):
    store = open_store(PROJECT / "checkpoints")
    runs = [(folder, meta) for folder, meta in store.runs.items() if meta.dataset == dataset and meta.has_weights]
    assert runs
    for folder, meta in runs:
        found = read_check(folder, meta)
        assert found is not None, f"python -m trainer sanity --dataset {dataset}"
        assert found.images >= 20
        assert bool(found.planted) == (dataset == "phantom")
        assert depends_on_weights(found) is (True if found.others.flat < 1 else None)
