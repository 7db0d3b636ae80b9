"""Downloading weights, against a server that behaves like the hub, and the commands on models."""

import http.server
import json
import threading
from types import SimpleNamespace

import pytest
import requests
import torch
from PIL import Image

from core.data import DATASETS
from core.data.listing import TEST, TRAIN, VALIDATION
from core.errors import BadRequest, UnknownName, WeightsUnavailable
from core.files import sha256_of_file
from core.inference.predictor import Predictor
from core.models import MODELS, xrv
from core.models.weight_downloads import download_weights, find_weights
from core.models.weights import FILE, state_of
from core.runs import open_store
from core.runs.series import Series, by_series
from tests.random_weights import build, example, file_of, put_xrv
from trainer.cli import main
from trainer.training.sweep import available_pairs

RESNET = MODELS["imagenet-resnet18"].weights
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers for files of a folder, or with a status and the hub's own error code."""

    folder, status, code = None, 200, ""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        path = self.folder / repository / rest.partition("/")[2] if self.folder else None
        status, code = (self.status, self.code) if path is None else (200, "")
        if path is not None and not path.is_file():
            status, code = 404, "EntryNotFound"
        content = path.read_bytes() if status == 200 else b""
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        if status == 200:
            self.send_header("ETag", f'"{sha256_of_file(path)}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr(Hub, "folder", None)
    yield Hub
    server.shutdown()
    server.server_close()


def test_what_is_fetched_is_what_a_model_starts_from(hub, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "folder", weights)
    path = download_weights(RESNET, tmp_path)
    assert path == tmp_path / "timm" / "resnet18.tv_in1k" / FILE
    assert path.read_bytes() == file_of(weights, "imagenet-resnet18").read_bytes()
    wanted = build("imagenet-resnet18").embed(example("imagenet-resnet18"))
    monkeypatch.setenv("LOWSHOT_WEIGHTS", str(tmp_path))
    assert build("imagenet-resnet18").embed(example("imagenet-resnet18")).shape == wanted.shape


def test_a_tower_comes_with_its_configuration(hub, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "folder", weights)
    download_weights(MODELS["medical-medsiglip"].weights, tmp_path)
    monkeypatch.setenv("LOWSHOT_WEIGHTS", str(tmp_path))
    with torch.no_grad():
        assert build("medical-medsiglip").embed(example("medical-medsiglip")).shape == (2, 8)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "GatedRepo", "accept the terms, create an access token, run hf auth login"),
        (403, "GatedRepo", "accept the terms, create an access token, run hf auth login"),
        (401, "RepoNotFound", "token is missing or invalid"),
        (404, "EntryNotFound", "has no model.safetensors"),
    ],
)
def test_refusals_of_the_hub_name_the_steps(hub, tmp_path, monkeypatch, status, code, said):
    monkeypatch.setattr(hub, "status", status)
    monkeypatch.setattr(hub, "code", code)
    with pytest.raises(WeightsUnavailable, match=said):
        download_weights(MODELS["medical-medsiglip"].weights, tmp_path)


def test_without_a_connection_the_manual_download_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailable, match=r"cannot be reached.*on another machine hf download timm/resnet18"):
        download_weights(RESNET, tmp_path)

    def refused(*_, **__):
        raise requests.ConnectionError

    monkeypatch.setattr("pooch.retrieve", refused)
    with pytest.raises(WeightsUnavailable, match="convert-xrv FILE"):
        download_weights(MODELS[xrv.NAME].weights, tmp_path)


def test_weights_are_named_by_model_or_repository():
    assert find_weights("imagenet-resnet18") == find_weights("timm/resnet18.tv_in1k") == RESNET
    with pytest.raises(BadRequest, match="needs no download"):
        find_weights("scratch-cnn")
    with pytest.raises(UnknownName, match="Did you mean"):
        find_weights("imagenet-resnet19")


def test_the_commands(weights, tmp_path, capsys, monkeypatch):
    assert main(["weights", "list", "--json"]) == 0
    rows = {row["model"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows.keys() == set(MODELS)
    assert rows["imagenet-resnet18"]["state"] == "here"
    assert rows["imagenet-resnet18"]["sha256"] == sha256_of_file(file_of(weights, "imagenet-resnet18"))
    assert rows["imagenet-vgg16"]["state"] == "not here"
    assert rows["scratch-cnn"]["state"] == "random"

    put_xrv(tmp_path, file := tmp_path / "published.pt")
    argv = ["weights", "convert-xrv", str(file), "--to", str(tmp_path / "there")]
    assert main(argv) == 2
    assert "It was not opened" in capsys.readouterr().err
    assert main([*argv, "--sha256", sha256_of_file(file)]) == 0
    assert file_of(tmp_path / "there", xrv.NAME).is_file()
    capsys.readouterr()

    assert main(["describe", "imagenet-vgg16", "--svg", str(tmp_path / "vgg.svg")]) == 0
    shown = capsys.readouterr()
    assert "features.4 to features.8" in shown.out
    assert "136,359,234" in shown.out
    assert "15.5 G multiply-adds" in shown.err
    assert (tmp_path / "vgg.svg").read_text().startswith("<svg")
    assert main(["describe", "scratch-cnn", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 93506
    assert main(["describe", "scratch-cn"]) == 2


def test_a_run_from_weights_by_path_is_recorded_and_shown(weights, runs, monkeypatch, capsys):
    monkeypatch.setattr("core.data.datasets.phantom.COUNTS", {TRAIN: 40, VALIDATION: 20, TEST: 8})
    path = file_of(weights, "imagenet-resnet18")
    name = f"medical:resnet18@{path}"
    argv = ["run", "--dataset", "phantom", "--model", name, "--strategy", "frozen", "--size", "3", "--json"]
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out)["model"] == name
    (folder, meta), *_ = open_store(runs).runs.items()
    assert meta.run.startswith("medical-resnet18-model-frozen-n3-s0-")
    assert (meta.encoder["kind"], meta.encoder["sha256"]) == ("file", sha256_of_file(path))
    assert any("is not known" in note for note in meta.notes)
    assert Predictor(folder)([Image.new("L", (64, 64))], "grad-cam")[0].probabilities.sum() == pytest.approx(1)
    assert list(by_series([meta])) == [Series(name, "frozen")]
    assert main(["results", "--dataset", "phantom"]) == 0
    assert name in capsys.readouterr().out


def test_a_sweep_over_all_models_leaves_out_what_is_not_here_a_line_each(no_weights, capsys):
    dataset = SimpleNamespace(spec=DATASETS["phantom"])
    pairs = [(name, "frozen") for name in MODELS if "frozen" in MODELS[name].strategies]
    left = available_pairs([*pairs, ("imagenet-resnet18", "finetune")], dataset, all_models=True)
    assert [model for model, _ in left] == [
        name
        for name in MODELS
        if "frozen" in MODELS[name].strategies
        and state_of(MODELS[name].weights)[0] in ("random", "with the program")
        and MODELS[name].image.dims == 2
    ]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out")]
    assert [line.split(": ")[1] for line in said] == [
        name for name, _ in pairs if state_of(MODELS[name].weights)[0] == "not here" and MODELS[name].image.dims == 2
    ]
    with pytest.raises(BadRequest, match="None of these models can be trained"):
        available_pairs([("imagenet-resnet18", "frozen")], dataset, all_models=False)
    assert "weights get" in capsys.readouterr().err


def test_a_requested_model_for_volumes_is_reported_as_left_out(capsys):
    dataset = SimpleNamespace(spec=DATASETS["phantom"])
    left = available_pairs([("scratch-resnet18-3d", "scratch"), ("scratch-cnn", "scratch")], dataset, all_models=False)
    assert left == [("scratch-cnn", "scratch")]
    assert "left out: scratch-resnet18-3d: phantom holds images" in capsys.readouterr().err
