"""The worked examples of CONTRIBUTING.md run as they are written, and what they add works."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.explain.methods import EXPLAINERS, ExplainerInput, explain
from core.metrics.grouped_bootstrap import measure_groups, resample_groups
from core.metrics.measures import COUNTED, METRICS
from core.metrics.scores import Scores
from core.models import MODELS
from core.runs import open_store
from tests import PATIENCE
from tests.random_weights import put_timm
from trainer.cli import main
from trainer.training.strategies import STRATEGIES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
EXAMPLES = dict(re.findall(r"### An? ([\w ]+)\n.*?```python\n(.*?)```", TEXT, flags=re.DOTALL))
FILES = dict(re.findall(r"### An? ([\w ]+)\n[^#]*?\nIt touches (.*)\n", TEXT))
NUMBERS = ("one file", "two files", "three files")


@pytest.fixture
def followed():
    """A function that runs an example by its title and returns its names; registries are put back afterwards."""
    changed = (DATASETS, EXPLAINERS, METRICS, MODELS, STRATEGIES, COUNTED)
    before = [dict(table) for table in changed]

    def follow(title):
        names = {}
        exec(compile(EXAMPLES[title], f"CONTRIBUTING.md, {title}", "exec"), names)
        return names

    yield follow
    for table, rows in zip(changed, before, strict=True):
        table.clear()
        table.update(rows)


def test_there_is_an_example_of_each_kind():
    assert set(EXAMPLES) == {"data set", "encoder", "training strategy", "explainer", "metric", "page"}


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_of_a_new_file_has_the_docstring_that_ruff_asks_for(title):
    assert EXAMPLES[title].startswith('"""') == ("(new)" in FILES[title])


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_names_the_few_files_it_touches(title):
    number, _, listed = FILES[title].partition(": ")
    files = re.findall(r"`(.+?)`( \(new\))?", listed)
    assert NUMBERS[len(files) - 1] == number
    for file, new in files:
        assert (ROOT / file).is_file() != bool(new)
        assert (ROOT / file).parent.is_dir()


def test_every_kind_of_entry_names_the_few_places_it_touches():
    table = TEXT.partition("| to add | write | where |")[2].partition("\n\n")[0]
    rows = [row.strip("|").split("|") for row in table.splitlines()[2:]]
    assert len(rows) > len(EXAMPLES)
    for kind, _, where in rows:
        places = re.findall(r"`(.+?)`", where)
        assert 1 <= len(places) <= len(NUMBERS), kind
        assert [place for place in places if not (ROOT / place).exists()] == [], kind


def test_a_data_set(followed, tmp_path, monkeypatch):
    followed("data set")
    spec = DATASETS["hand-fractures"]
    random = np.random.default_rng(0)
    for label in spec.labels:
        folder = tmp_path / "hand_fractures" / label
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 255, (64, 64), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path))
    dataset = load_dataset(spec)
    assert len(dataset.listing) == 40
    assert dataset.listing.labels.sum() == 20
    assert len(dataset.parts.test) > 0


def test_an_encoder(followed, tmp_path, monkeypatch):
    import timm

    facts = followed("encoder")["facts"]
    published = timm.get_pretrained_cfg(facts.timm)
    assert (facts.mean, facts.std, facts.interpolation) == (published.mean, published.std, published.interpolation)
    assert published.num_classes == facts.classes
    network = put_timm(tmp_path, facts)
    monkeypatch.setenv("LOWSHOT_WEIGHTS", str(tmp_path))
    model = MODELS[facts.name].build(2, "phantom", 0).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert model(images).shape == (2, 2)
        expected = network.forward_head(network.forward_features(images), pre_logits=True)
        assert torch.allclose(model.embed(images), expected, atol=1e-5)


def test_a_training_strategy(followed, runs):
    followed("training strategy")
    argv = ["--model", "control-random-frozen", "--strategy", "frozen-ridge", "--size", "4"]
    assert main(["run", "--dataset", "phantom", *argv]) == 0
    (meta,) = open_store(runs).metas("phantom")
    assert meta.strategy == "frozen-ridge"
    assert 0 <= meta.metrics["auroc"] <= 1


def test_an_explainer(followed):
    followed("explainer")
    model = MODELS["scratch-cnn"].build(2, "phantom", 0).eval()
    image = MODELS["scratch-cnn"].image
    images = torch.randn(2, image.channels, image.size, image.size)
    inputs = ExplainerInput(model, images, model.encoder(images), torch.tensor([0, 1]))
    found = explain(EXPLAINERS["saliency"], inputs)
    assert [one.heat.shape for one in found] == [(image.size, image.size)] * 2
    assert not any(one.degenerate for one in found)


def test_a_metric(followed):
    followed("metric")
    positive = np.array([0.1, 0.8, 0.7, 0.6])
    scores = Scores(np.stack([1 - positive, positive], axis=1), np.array([0, 1, 0, 1]), positive=1)
    value = METRICS["youden"](scores, np.ones((1, 4)))
    assert value == pytest.approx(1 + 0.5 - 1)  # sensitivity 1, specificity 1/2
    groups = np.arange(4)
    fast = measure_groups(scores, resample_groups(scores.labels, groups, 3))["youden"]
    assert fast[0] == pytest.approx(0.5)


def test_a_page(tmp_path, phantom_runs, monkeypatch):
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv("LOWSHOT_RUNS", str(phantom_runs))
    assert "app_frame.require(__file__)" in EXAMPLES["page"]
    app = AppTest.from_string(EXAMPLES["page"].replace("app_frame.require(__file__)", ""), default_timeout=PATIENCE)
    app.run()
    assert not app.exception
    assert app.title[0].value == "About"
    assert app.markdown[0].value == f"{len(open_store(phantom_runs).runs)} stored runs."
