"""Runs exported for other programs, the Python API, and the notebook that walks through both."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from core.data.datasets.phantom import phantom_at
from core.errors import CorruptRun, UnreadableImage
from core.inference.predictor import Predictor, load_run
from core.metrics.calibration import probabilities_of
from core.models import MODELS, xrv
from core.models.classifier import Classifier, Head, average_pool, linear_layers
from core.models.specs import ModelSpec, Weights
from core.models.volume_models import inflate, over_slices
from core.models.weights import weights_of
from core.runs import open_store, read_predictions, read_run, save_run
from core.types import ImageSpec
from tests import PATIENCE
from tests.unit.models.test_volume_models import put_medmnist
from tests.unit.runs.test_store import example_meta, example_predictions
from trainer.cli import main, parse
from trainer.commands import export as exports

ROOT = Path(__file__).parents[3]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def shipped(monkeypatch):
    """A shipped run on phantoms that keeps weights, by its model."""
    monkeypatch.delenv("LOWSHOT_RUNS", raising=False)

    def find(model):
        metas = [meta for meta in open_store().metas("phantom") if meta.model == model and meta.has_weights]
        return max(metas, key=lambda meta: (meta.per_class, -meta.seed))

    return find


@pytest.mark.parametrize("name", exports.FORMATS)
def test_an_exported_file_predicts_as_the_run_does(shipped, tmp_path, capsys, name):
    meta = shipped("scratch-cnn-64")
    assert main(["export", meta.run, "--format", name, "--to", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "on 64 test images of phantom" in said
    assert float(said.split("probability ")[1].split()[0]) < 1e-5
    path = tmp_path / f"{meta.run}{exports.FORMATS[name].suffix}"
    about = json.loads(Path(f"{path}.json").read_text())
    assert (about["labels"], about["threshold"]) == (list(meta.labels), meta.threshold)
    assert "Research use only" in about["use"]
    assert "phantom" in about["trained_on"]
    assert str(ROOT).encode() not in path.read_bytes()


def test_the_command_takes_every_format_of_the_table():
    for name in exports.FORMATS:
        assert parse(["export", "run", "--format", name]).format == name
    with pytest.raises(SystemExit):
        parse(["export", "run", "--format", "other"])


def test_an_encoder_goes_with_its_head_into_onnx(shipped, tmp_path, capsys):
    """Of the encoder that pools every stage, the file gives the stored probabilities, for a batch of any size."""
    import onnxruntime

    meta = shipped("imagenet-efficientnet-lite0-stages")
    assert main(["export", meta.run, "--to", str(tmp_path)]) == 0
    folder = open_store().folder_of(meta.run)
    stored = read_predictions(folder)
    session = onnxruntime.InferenceSession(str(tmp_path / f"{meta.run}.onnx"))
    pixels, _ = exports.comparison_images(meta)
    every = stored.ids.shape[0] // 64
    for rows in (slice(0, 1), slice(0, 7)):
        found = session.run(["probabilities"], {"pixels": pixels[rows].astype(np.float32) / 255})[0]
        expected = probabilities_of(stored.logits[::every][:64][rows], meta.temperature)
        assert np.allclose(found, expected, atol=2e-3)


def test_a_file_with_other_predictions_is_reported(shipped, tmp_path, capsys, monkeypatch):
    row = exports.FORMATS["safetensors"]

    def wrong(path, meta, folder):
        return lambda pixels: row.read(path, meta, folder)(pixels) + 0.01

    monkeypatch.setitem(exports.FORMATS, "safetensors", replace(row, read=wrong))
    assert main(["export", shipped("scratch-cnn-64").run, "--format", "safetensors", "--to", str(tmp_path)]) == 1
    assert "1.00e-02" in capsys.readouterr().out


def test_without_its_images_a_run_is_compared_on_generated_ones(class_folder, runs, tmp_path, capsys):
    argv = ["run", "--folder", str(class_folder({"a": 30, "b": 30, "c": 30})), "--model", "scratch-cnn"]
    assert main([*argv, "--strategy", "scratch", "--size", "4", "--epochs", "1", "--min-steps", "1"]) == 0
    (meta,) = open_store(runs).runs.values()
    capsys.readouterr()
    assert main(["export", meta.run, "--format", "torch-export", "--to", str(tmp_path)]) == 0
    assert "on 64 generated images" in capsys.readouterr().out


class Choosy(nn.Module):
    """Goes another way where an image is bright: no format that holds a graph can hold it."""

    def forward(self, images):
        return images if images.mean() > 0 else images + 1


def small(encoder, dims=2):
    """A classifier whose encoder is one convolution, so that translating it takes no time."""
    return lambda classes: Classifier(encoder(), Head(average_pool(dims), linear_layers(4, classes)))


def convolution(channels):
    return nn.Sequential(nn.Conv2d(channels, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(3, 2, 1))


KINDS = {
    "gray": (ImageSpec(40, channels=1), small(lambda: convolution(1))),
    "bicubic": (ImageSpec(40, interpolation="bicubic"), small(lambda: convolution(3))),
    "gray-volume": (ImageSpec(32, channels=1, dims=3), small(lambda: inflate(convolution(1)), 3)),
    "inflated": (ImageSpec(40, dims=3), small(lambda: inflate(convolution(3)), 3)),
    "slices": (ImageSpec(32, dims=3), lambda n: over_slices(small(lambda: convolution(3))(n), n, False)),
    "attention": (ImageSpec(32, dims=3), lambda n: over_slices(small(lambda: convolution(3))(n), n, True)),
    "choosy": (ImageSpec(40), small(lambda: nn.Sequential(convolution(3), Choosy()))),
}  # fmt: skip


@pytest.fixture
def kinds(monkeypatch):
    """A small model for every kind of input."""

    def drawn(build):
        def seeded(classes, dataset, seed):
            torch.manual_seed(seed)
            return build(classes)

        return seeded

    for name, (image, build) in KINDS.items():
        row = ModelSpec(name, name, "scratch", image, Weights("random"), ("scratch",), drawn(build))
        monkeypatch.setitem(MODELS, name, row)


@pytest.fixture
def stored(runs, tmp_path, monkeypatch):
    """Stores a run of a model with random values, on phantoms or on a few volumes; a handful is compared."""
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(exports, "IMAGES", 6)
    monkeypatch.setattr(exports, "VOLUMES", 6)
    put_medmnist(tmp_path / "data" / "medmnist", "nodulemnist3d", (20, 6, 6))

    def put(name, trained="all", temperature=1.5):
        spec = MODELS[name]
        dataset = "nodulemnist3d" if spec.image.dims == 3 else "phantom"
        state = spec.build(2, dataset, 1).state_dict()
        meta = replace(
            example_meta(f"run-{spec.slug}"), dataset=dataset, model=name, size=spec.image.size, mean=spec.image.mean,
            std=spec.image.std, trained=trained, temperature=temperature,
            encoder={"sha256": weights_of(spec, dataset).sha256},
        )  # fmt: skip
        kept = {key: value for key, value in state.items() if trained == "all" or not key.startswith("encoder.")}
        predictions = example_predictions(2), example_predictions(5)
        return save_run(meta, *predictions, [{"epoch": 0}], kept, runs)[0]

    return put


def exported(folder, name, tmp_path, capsys):
    """What is compared by the command, and the card."""
    meta = read_run(folder)
    assert main(["export", meta.run, "--format", name, "--to", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert float(said.split("probability ")[1].split()[0]) < 1e-5
    path = tmp_path / f"{meta.run}{exports.FORMATS[name].suffix}"
    return said.strip().partition(" on ")[2], json.loads(Path(f"{path}.json").read_text()), path


@pytest.mark.parametrize("name", exports.FORMATS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "choosy"])
@pytest.mark.filterwarnings("ignore:.*is not the file that MedMNIST publishes")
def test_every_kind_of_input_can_be_exported(kinds, stored, tmp_path, capsys, kind, name):
    image, _ = KINDS[kind]
    folder = stored(kind)
    what, about, path = exported(folder, name, tmp_path, capsys)
    if image.dims == 3:
        assert what == "6 test volumes of nodulemnist3d"
        assert about["input"].startswith(f"pixels: (B, 1, {image.size}, {image.size}, {image.size})")
        assert about["preparation"] == "resized to a cube, linearly"
    else:
        assert what == "6 test images of phantom"
        assert about["input"].startswith(f"pixels: (B, 1, {image.size}, {image.size})")
        assert about["preparation"] == f"resized to a square, {image.interpolation}"
    meta, pixels = read_run(folder), exports.comparison_images(read_run(folder))[0]
    found = exports.FORMATS[name].read(path, meta, folder)(pixels[:1].astype(np.float32) / 255)
    assert found.std() > 0
    if image.dims == 2:  # the program's own way to an answer, from the picture on
        picture = Image.fromarray(phantom_at(1400).pixels)
        wanted = Predictor(folder)([picture])[0].probabilities
        assert np.allclose(found[0], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "trained"),
    [
        (xrv.NAME, "head"),
        ("scratch-resnet18-3d", "all"),
        ("imagenet-resnet18-inflated", "head"),
        ("imagenet-efficientnet-lite0-slices", "head"),
        ("imagenet-efficientnet-lite0-slices-attention", "head"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is not the file that MedMNIST publishes")
def test_models_of_one_channel_and_of_volumes_can_be_exported(weights, stored, tmp_path, capsys, model, trained):
    """Their graphs take minutes to translate; that is looked at on small models of the same kinds."""
    folder = stored(model, trained, 100.0 if model == xrv.NAME else 1.5)  # its random logits are of hundreds
    what, about, path = exported(folder, "safetensors", tmp_path, capsys)
    meta, pixels = read_run(folder), exports.comparison_images(read_run(folder))[0]
    found = exports.FORMATS["safetensors"].read(path, meta, folder)(pixels[:1].astype(np.float32) / 255)
    assert 0.01 < found.min() < found.max() < 0.99, "else any file would seem to answer alike"
    shape = ", ".join(map(str, (1, *MODELS[model].image.shape[1:])))
    assert what.startswith("6 test volumes" if MODELS[model].image.dims == 3 else "6 test images")
    assert about["input"].startswith(f"pixels: (B, {shape})")


@pytest.mark.parametrize("name", ["onnx", "torch-export"])
def test_an_unsupported_network_is_refused_and_nothing_is_written(kinds, stored, tmp_path, capsys, name):
    meta, folder = read_run(stored("choosy")), tmp_path / "exported"
    assert main(["export", meta.run, "--format", name, "--to", str(folder)]) == 2
    assert f"The run {meta.run} cannot be converted to {name}; choose another format." in capsys.readouterr().err
    assert not folder.exists()
    assert main(["export", meta.run, "--format", "safetensors", "--to", str(folder)]) == 0


def test_a_network_too_large_for_onnx_is_refused(shipped, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exports, "ONNX_BYTES", 1000)
    assert main(["export", shipped("scratch-cnn-64").run, "--to", str(tmp_path / "exported")]) == 2
    assert "An ONNX file holds at most 2 GB" in capsys.readouterr().err
    assert not (tmp_path / "exported").exists()


@pytest.mark.filterwarnings("ignore:.*is not the file that MedMNIST publishes")
def test_without_its_volumes_a_run_is_compared_on_generated_ones(kinds, stored, tmp_path, capsys, monkeypatch):
    folder = stored("slices")
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "nothing"))
    assert exported(folder, "safetensors", tmp_path, capsys)[0] == "6 generated volumes"


def test_runs_that_cannot_be_exported_are_refused(shipped, runs, tmp_path, capsys):
    assert main(["export", "nothing", "--to", str(tmp_path)]) == 2
    assert "no run named" in capsys.readouterr().err
    argv = ["curve", "--dataset", "phantom", "--models", "scratch-cnn", "--strategies", "scratch", "--sizes", "3"]
    assert main([*argv, "--seeds", "0", "--epochs", "1", "--min-steps", "1", "--keep-weights", "none"]) == 0
    (meta,) = open_store(runs).runs.values()
    assert main(["export", meta.run, "--to", str(tmp_path)]) == 2
    assert "has no saved weights" in capsys.readouterr().err
    with pytest.raises(CorruptRun, match="has no"):
        load_run(open_store(runs).folder_of(meta.run))


def test_the_python_way_in(shipped, tmp_path):
    meta = shipped("scratch-cnn-64")
    folder = open_store().folder_of(meta.run)
    stored = read_predictions(folder)
    run = load_run(str(folder))
    files = []
    for name in stored.ids[:40]:
        files.append(tmp_path / name.replace("/", "-"))
        Image.fromarray(phantom_at(int(name[-9:-4])).pixels).save(files[-1])
    answers = run.predict([*files[:-1], Image.open(files[-1])])
    expected = probabilities_of(stored.logits[:40], meta.temperature)
    assert np.allclose([answer.probabilities for answer in answers], expected, atol=2e-3)
    assert run.meta.labels[answers[0].decided[0]] in meta.labels
    assert run.predict([]) == []
    (tmp_path / "text.png").write_text("no image")
    for bad, why in (("text.png", "not a PNG"), ("missing.png", "cannot be opened")):
        with pytest.raises(UnreadableImage, match=f"{bad}: .*{why}"):
            run.predict([tmp_path / bad])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_from_top_to_bottom(path, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)
    for cell in notebook.cells:  # the networks need not be good
        cell.source = cell.source.replace('"scratch-quick"', '"scratch-quick", "--epochs", "5", "--min-steps", "10"')
    NotebookClient(
        notebook, timeout=PATIENCE, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    printed = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "AUROC: no verdict: 2 seeds" in printed
    assert "largest difference of a probability" in printed


def test_there_is_a_notebook():
    assert [path.stem for path in NOTEBOOKS] == ["from_a_folder_to_a_model"]
