"""Runs as files for other programs, the Python way in, and the notebook that walks through both."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.checkpoints import open_store, read_predictions
from core.data.phantom import phantom_at
from core.errors import CorruptRun, UnreadableImage
from core.metrics.calibration import probabilities_of
from core.predictor import load_run
from trainer import export as exports
from trainer.cli import FORMATS, build_parser, main

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def shipped(monkeypatch):
    """A shipped run on phantoms that keeps weights, by its model."""
    monkeypatch.delenv("LOWSHOT_RUNS", raising=False)

    def find(model):
        metas = [meta for meta in open_store().metas("phantom") if meta.model == model and meta.has_weights]
        return max(metas, key=lambda meta: (meta.per_class, -meta.seed))

    return find


@pytest.mark.parametrize("name", FORMATS)
def test_an_exported_file_answers_as_the_run_does(shipped, tmp_path, capsys, name):
    meta = shipped("scratch-cnn")
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


def test_formats_of_the_command_are_those_of_the_table(monkeypatch):
    assert tuple(exports.FORMATS) == FORMATS
    monkeypatch.setattr("trainer.cli.FORMATS", ("other",))
    assert build_parser().parse_args(["export", "run"]).format == "other"


def test_an_encoder_goes_with_its_head_into_onnx(shipped, tmp_path, capsys):
    """The file gives the probabilities that are stored, for a batch of any size."""
    import onnxruntime

    meta = shipped("imagenet-efficientnet-lite0")
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


def test_a_file_that_answers_otherwise_is_told(shipped, tmp_path, capsys, monkeypatch):
    row = exports.FORMATS["safetensors"]

    def wrong(path, meta, folder):
        return lambda pixels: row.read(path, meta, folder)(pixels) + 0.01

    monkeypatch.setitem(exports.FORMATS._rows, "safetensors", replace(row, read=wrong))
    assert main(["export", shipped("scratch-cnn").run, "--format", "safetensors", "--to", str(tmp_path)]) == 1
    assert "1.00e-02" in capsys.readouterr().out


def test_a_run_on_images_that_are_not_here_is_compared_on_generated_ones(class_folder, runs, tmp_path, capsys):
    argv = ["run", "--folder", str(class_folder({"a": 30, "b": 30, "c": 30})), "--model", "scratch-cnn"]
    assert main([*argv, "--strategy", "scratch", "--size", "4", "--epochs", "1", "--min-steps", "1"]) == 0
    (meta,) = open_store(runs).runs.values()
    capsys.readouterr()
    assert main(["export", meta.run, "--format", "torch-export", "--to", str(tmp_path)]) == 0
    assert "on 64 generated images" in capsys.readouterr().out


def test_runs_that_cannot_be_exported_are_refused(shipped, runs, tmp_path, capsys):
    assert main(["export", "nothing", "--to", str(tmp_path)]) == 2
    assert "no run named" in capsys.readouterr().err
    argv = ["curve", "--dataset", "phantom", "--models", "scratch-cnn", "--strategies", "scratch", "--sizes", "3"]
    assert main([*argv, "--seeds", "0", "--epochs", "1", "--min-steps", "1", "--keep-weights", "none"]) == 0
    (meta,) = open_store(runs).runs.values()
    assert main(["export", meta.run, "--to", str(tmp_path)]) == 2
    assert "keeps no weights" in capsys.readouterr().err
    with pytest.raises(CorruptRun, match="keeps no"):
        load_run(open_store(runs).folder_of(meta.run))


def test_the_python_way_in(shipped, tmp_path):
    meta = shipped("scratch-cnn")
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
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    printed = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "auroc" in printed
    assert "largest difference of a probability" in printed


def test_there_is_a_notebook():
    assert [path.stem for path in NOTEBOOKS] == ["from_a_folder_to_a_model"]
