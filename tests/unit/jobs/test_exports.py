"""The download of a trained network: real files from the real command."""

import io
import json
import zipfile

import pytest

from core.errors import LowshotError
from core.jobs.exports import export_network
from core.runs import open_store


def test_a_network_is_packed_with_its_cards(phantom_runs, monkeypatch):
    monkeypatch.setenv("LOWSHOT_RUNS", str(phantom_runs))
    meta = next(row for row in open_store(phantom_runs).metas() if row.has_weights and row.model == "scratch-cnn")
    with zipfile.ZipFile(io.BytesIO(export_network(meta.run))) as archive:
        names = [f"{meta.run}{suffix}" for suffix in (".onnx", ".onnx.json", ".safetensors", ".safetensors.json")]
        assert sorted(archive.namelist()) == sorted(names)
        assert json.loads(archive.read(f"{meta.run}.onnx.json"))["labels"] == list(meta.labels)


def test_a_run_that_is_gone_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path))
    with pytest.raises(LowshotError, match=r"could not be written as onnx: .*gone"):
        export_network("gone")
