"""Trainings on a real Ray cluster of two workers on this machine, which share nothing with it but the network.

The cluster counts a GPU that does not exist; what is given a share of it computes on the CPU.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from core.data import DATASETS
from core.errors import BadRequest, LowshotError
from core.paths import PROJECT, cache_folder
from core.runs import open_store
from tests import PATIENCE
from tests.publisher_folders import put_image, put_nih
from trainer.cli import main, parse
from trainer.commands import pretrain
from trainer.pretraining.corpus import build_corpus
from trainer.training.engines import LocalEngine, Task, result_of
from trainer.training.ray_engine import RayEngine, open_engine

NIH = "nih-chestxray14"
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
MODELS = "scratch-cnn,imagenet-efficientnet-lite0"
CURVE = ["--models", MODELS, "--sizes", "3,5", "--seeds", "0", "--epochs", "2", "--min-steps", "20"]
SHORT = ["--models", "scratch-cnn", "--strategies", "scratch", "--sizes", "3", "--epochs", "2", "--min-steps", "20"]
SHORT += ["--device", "cpu"]
TIMES = ("made", "seconds")


def free_port():
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Address, process and cache of a cluster; its workers have another cache and no data, weights or encoders."""
    assert "ray" not in sys.modules, "Ray was imported before its variables were set"
    os.environ.update({**TOKEN, **LOOPBACK})
    cache, folder, port = tmp_path_factory.mktemp("node"), tempfile.mkdtemp(prefix="ray-"), free_port()
    nothing = dict.fromkeys(("LOWSHOT_DATA", "LOWSHOT_ENCODERS", "LOWSHOT_WEIGHTS", "LOWSHOT_RUNS"), "/nowhere")
    head = subprocess.Popen(
        [
            Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
            f"--port={port}", f"--num-cpus={2 * torch.get_num_threads()}", "--num-gpus=1", "--include-dashboard=false",
            "--disable-usage-stats", f"--temp-dir={folder}", "--min-worker-port=0", "--max-worker-port=0",
            f"--ray-client-server-port={free_port()}", "--dashboard-agent-listen-port=0",
        ],
        cwd=folder, env={**os.environ, **nothing, "LOWSHOT_CACHE": str(cache), "CUDA_VISIBLE_DEVICES": "0"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"127.0.0.1:{port}", head, cache
    finally:
        children = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        head.wait(PATIENCE)
        for process in psutil.wait_procs(children, timeout=10)[1]:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def flags(**stated):
    return Namespace(
        **{"engine": "ray", "address": "", "cpus_per_run": None, "gpus_per_run": None, "device": "cpu"} | stated
    )


@pytest.fixture(scope="module")
def engine(cluster):
    """An engine on the cluster, connected once: every connection starts workers of its own."""
    address, head, _ = cluster
    asked, stack = flags(address=address, cpus_per_run=torch.get_num_threads()), contextlib.ExitStack()
    until = time.monotonic() + PATIENCE
    while True:
        try:
            connected = stack.enter_context(open_engine(asked))
            break
        except BadRequest:  # it does not run yet
            assert head.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
    with stack:
        yield connected


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for tint, label in enumerate(("a", "b")):
        for seed in range(16):
            put_image(root / label / f"{seed}.png", 100 * tint + seed, tint=tint)
    return root


@pytest.fixture
def on(monkeypatch):
    """Commands use an engine: `on(engine)`."""

    def use(engine):
        for name in ("ablate", "curve", "tune"):
            monkeypatch.setattr(f"trainer.commands.{name}.open_engine", lambda _: contextlib.nullcontext(engine))

    return use


def workers(process):
    """The processes of a cluster that train at this moment."""
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.cmdline()[:1] == ["ray::_work"]:
                yield child


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def content(store):
    """Everything in a store but times: (file, its content)."""
    found = {}
    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        name = path.relative_to(store).as_posix()
        if path.name == "run.json":
            record = json.loads(path.read_text())
            record["hashes"].pop("history.jsonl")
            found[name] = {key: value for key, value in record.items() if key not in TIMES}
        elif path.name == "history.jsonl":
            found[name] = [{key: row[key] for key in row if key not in TIMES} for row in lines(path)]
        else:
            found[name] = path.read_bytes()
    return found


def test_a_cluster_whose_worker_is_killed_trains_what_one_process_trains(
    cluster, engine, images, on, tmp_path, monkeypatch, capsys
):
    _, head, cache = cluster
    argv = ["curve", "--folder", str(images), *CURVE, "--device", "cpu", "--keep-weights", "all"]
    monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path / "here"))
    assert main(argv) == 0
    # one run is in the store already
    stored = sorted(open_store().runs)[0]
    shutil.copytree(stored, tmp_path / "there" / stored.parent.name / stored.name)
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path / "there"))
    monkeypatch.setenv("LOWSHOT_PROGRESS", str(events))
    # a worker that is gone left a part of a file
    left = cache / "sent" / "hash" / "maker" / "model" / ".model.safetensors.ab12.partial"
    left.parent.mkdir(parents=True)
    left.touch()
    killed = []

    def kill():
        while not killed and threading.main_thread().is_alive():
            if any(line["kind"] == "epoch" for line in lines(events)):
                for worker in list(workers(head))[:1]:
                    worker.send_signal(signal.SIGKILL)
                    killed.append(worker.pid)
            time.sleep(0.05)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    on(engine)
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    killer.join(PATIENCE)
    assert killed
    # nothing is lost, nothing is there twice, nothing differs
    assert content(tmp_path / "there") == content(tmp_path / "here")
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if not line.startswith("{")] == []
    printed = [json.loads(line)["run"] for line in out]
    told = [line for line in lines(events) if line["kind"] == "run"]
    assert sorted(printed) == sorted(line["run"] for line in told) == sorted({line["run"] for line in told})
    assert [line["run"] for line in told if not line["trained"]] == [stored.name]
    bars = [line for line in lines(events) if line["kind"] == "bar" and line["unit"] == "run"]
    assert [bars[0]["done"], bars[-1]["done"], bars[-1]["total"]] == [0, 4, 4]
    # the workers read images that were sent, and left nothing behind
    for path in cache_folder().glob("banks/*/images.npy"):
        sent = cache / path.relative_to(cache_folder())
        assert not sent.exists() or sent.read_bytes() == path.read_bytes()
    assert len(list(cache.glob("banks/*/facts.json"))) == 2
    assert not list(cache.glob("unfinished/*"))
    assert not [path for folder in (cache, tmp_path) for path in folder.rglob("*.partial")]


def test_trials_of_settings_run_side_by_side(engine, images, on, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("trainer.commands.tune.cache_folder", lambda: tmp_path)
    on(engine)
    argv = ["tune", "--folder", str(images), "--model", "scratch-cnn", "--strategy", "scratch", "--size", "5"]
    argv += ["--epochs", "1", "--min-steps", "1", "--patience", "0", "--minutes", "0.05", "--over", "lr"]
    assert main([*argv, "--device", "cpu"]) == 0
    there = json.loads(capsys.readouterr().out)
    assert there["trials"] >= engine.parallel == 2
    on(LocalEngine(torch.device("cpu")))
    monkeypatch.setattr("trainer.commands.tune.cache_folder", lambda: tmp_path / "here")
    assert main([*argv, "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["usual_value"] == there["usual_value"]


def test_combinations_of_ingredients_train_what_one_process_trains(engine, images, on, tmp_path, monkeypatch, capsys):
    argv = ["ablate", "--folder", str(images), "--of", "horizontal-flip", "--orders", "each", *SHORT]
    printed = {}
    for name, one in (("there", engine), ("here", LocalEngine(torch.device("cpu")))):
        monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path / name))
        on(one)
        assert main([*argv, "--seeds", "0", "--json"]) == 0
        printed[name] = capsys.readouterr().out
        assert len(open_store().runs) == 2
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert printed["there"] == printed["here"]


def test_a_cancelled_sweep_continues(engine, images, on, tmp_path, monkeypatch):
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LOWSHOT_PROGRESS", str(events))
    argv = ["curve", "--folder", str(images), *SHORT, "--seeds", "0,1,2"]

    def interrupt(*_):
        raise KeyboardInterrupt

    on(engine)
    with monkeypatch.context() as patch:
        patch.setattr("trainer.commands.curve.print_runs", interrupt)  # after the first run
        assert main(argv) == 130
    assert len(open_store().runs) == 1
    assert main(argv) == 0
    names = sorted(folder.name for folder in open_store().runs)
    assert len(names) == 3
    assert sorted(line["run"] for line in lines(events) if line["kind"] == "run" and line["trained"]) == names


def meet(folder, number, count, device, progress):
    """Waits until as many tasks have begun; returns the number of those, and the share of a GPU that it was given."""
    import ray

    (folder / str(number)).touch()
    until = time.monotonic() + PATIENCE
    while (begun := len(list(folder.iterdir()))) < count and time.monotonic() < until:
        time.sleep(0.05)
    return begun, ray.get_runtime_context().get_assigned_resources()["GPU"]


def test_two_trainings_share_a_gpu(engine, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.training.ray_engine._connected", lambda address: contextlib.nullcontext(True))
    argv = ["curve", "--dataset", "phantom", "--device", "cpu", "--engine", "ray", "--gpus-per-run", "0.5"]
    with open_engine(parse(argv)) as sharing:
        assert sharing.parallel == 2
        tasks = [Task(number, "", meet, arguments=(tmp_path, number, 2)) for number in range(2)]
        assert [outcome for _, outcome in sharing.run(tasks)] == [(2, 0.5), (2, 0.5)]


def test_an_encoder_is_pretrained_as_in_one_process(engine, tmp_path, monkeypatch):
    put_nih(tmp_path / "nih", [(seed, seed) for seed in range(4)])
    for tint, label in enumerate(("NORMAL", "PNEUMONIA")):
        for seed in range(60):
            name = f"person{seed + 200 * tint}_{label}.png"
            put_image(tmp_path / "kermany" / "train" / label / name, 1000 + seed, tint=tint)
    for name, folder in ((NIH, "nih"), ("kermany", "kermany")):
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], path=tmp_path / folder))
    for name in ("chestmnist", "pneumoniamnist", "nih-adult-pneumonia"):
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], path=tmp_path / "nowhere"))
    start = pretrain.STARTS["imagenet-efficientnet-lite0"]
    recipe = replace(pretrain.CHOSEN[start.name], cut=4, views=0, epochs=1, sets={"kermany": 100})
    parts = build_corpus((NIH,), ("kermany",), ("kermany",), start.image.size)
    task = Task(0, "pretraining", pretrain._train, (parts,), (recipe,), lambda: pretrain._files(start, parts))
    (there, facts), (here, _) = (result_of(one, task) for one in (engine, LocalEngine(torch.device("cpu"))))
    assert there.keys() == here.keys()
    assert all(np.array_equal(there[name], here[name]) for name in here)
    assert facts["training_curve"]


def fail(reason, device, progress):
    raise BadRequest(reason)


def die(device, progress):
    os.kill(os.getpid(), signal.SIGKILL)


def test_errors_of_workers_name_their_cause(engine, monkeypatch):
    with pytest.raises(BadRequest, match="Lower --lr"):
        result_of(engine, Task(0, "", fail, arguments=("Lower --lr.",)))
    monkeypatch.setattr("trainer.training.ray_engine.RETRIES", 0)
    with pytest.raises(LowshotError, match="Its worker was lost 1 times"):
        result_of(RayEngine("cpu", 1, None, True), Task(0, "", die))


@pytest.mark.parametrize("kind", ["closed", "silent", "http", "unknown host", "no port", "client"])
def test_a_bad_address_is_refused_before_ray_waits_for_it(kind, monkeypatch):
    """Ray would wait for more than a minute, and its error would have another text."""
    monkeypatch.setattr("trainer.training.ray_engine._CONNECT", 1.0)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        if kind == "http":

            def answer():
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = server.accept()
                        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

            threading.Thread(target=answer, daemon=True).start()
        if kind == "closed":
            server.close()
        address = {
            "unknown host": "no-such-host.invalid:6379",
            "no port": "localhost",
            "client": f"ray://127.0.0.1:{port}",
        }
        with (
            pytest.raises(BadRequest, match=r"--address|No Ray cluster answers"),
            open_engine(flags(address=address.get(kind, f"127.0.0.1:{port}"))),
        ):
            pass


def test_flags_of_a_cluster_need_it():
    with pytest.raises(BadRequest, match="Add --engine ray"), open_engine(flags(engine="local", gpus_per_run=0.25)):
        pass


def test_a_ray_of_its_own_is_closed_to_others_and_leaves_nothing_when_interrupted(images, tmp_path):
    environment = {**os.environ, "LOWSHOT_RUNS": str(tmp_path / "runs"), "TMPDIR": tempfile.mkdtemp(dir="/tmp")}
    for name in (*TOKEN, *LOOPBACK):
        environment.pop(name, None)
    events = tmp_path / "events.jsonl"
    argv = [
        "curve",
        "--folder",
        str(images),
        "--models",
        "scratch-cnn",
        "--sizes",
        "5",
        "--seeds",
        "0",
        "--engine",
        "ray",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", *argv, "--device", "cpu"], cwd=PROJECT, start_new_session=True,
        env={**environment, "LOWSHOT_PROGRESS": str(events)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while process.poll() is None and not any(line["kind"] == "epoch" for line in lines(events)):
            time.sleep(0.1)
        children = psutil.Process(process.pid).children(recursive=True)
        listening = [
            connection.laddr.ip
            for child in children
            for connection in child.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening
        assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
        process.send_signal(signal.SIGTERM)  # as when a job is cancelled
        assert process.wait(PATIENCE) == 130
    finally:
        process.kill()
    assert "Finished runs are kept" in process.stderr.read()
    assert not psutil.wait_procs(children, timeout=PATIENCE)[1]
    assert not list(Path(environment["TMPDIR"]).iterdir())
    shutil.rmtree(environment["TMPDIR"])
