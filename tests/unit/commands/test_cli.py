"""The command line: a run from training to prediction, error messages, and interruption."""

import json
import shutil
import signal
import subprocess
import sys

import pytest
from PIL import Image

from core.data.datasets.phantom import phantom_at
from core.paths import PROJECT, runs_folder
from core.runs import open_store
from trainer.cli import main
from trainer.training import run_cell

HEAVY = {"sklearn", "pandas", "medmnist", "timm", "transformers", "captum", "kornia", "streamlit"}


@pytest.fixture
def trained(runs, short_training):
    """A store with one quick run of each of two families on phantoms."""
    for model, strategy in (("scratch-cnn", "scratch"), ("imagenet-efficientnet-lite0", "frozen")):
        argv = ["run", "--dataset", "phantom", "--model", model, "--strategy", strategy, "--size", "4"]
        assert main([*argv, "--json"]) == 0
    return runs


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_results_predict_evaluate_and_retrain_a_stored_run(trained, tmp_path, capsys):
    capsys.readouterr()
    assert main(["results", "--dataset", "phantom", "--json"]) == 0
    rows = lines(capsys)
    assert [row["model"] for row in rows] == ["scratch-cnn", "imagenet-efficientnet-lite0"]
    wanted = {"accuracy", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1", "auroc", "auprc"}
    assert wanted | {"mcc", "brier", "ece"} == rows[0]["metrics"].keys() == rows[0]["metrics_at_half"].keys()
    assert rows[0]["subset_hash"] == rows[1]["subset_hash"]

    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(phantom_at(5001).pixels).save(good)
    bad.write_text("no image")
    argv = ["predict", str(good), str(bad), "--dataset", "phantom", "--json"]
    assert main([*argv, "--cam", str(tmp_path / "cams")]) == 0
    answers = lines(capsys)
    assert [row["family"] for row in answers if "family" in row] == ["scratch", "imagenet"]
    assert all(0 <= row["probability"] <= 1 and row["decision"] in ("No opacity", "Opacity") for row in answers[:2])
    assert "not a PNG" in answers[2]["error"]
    assert len(list((tmp_path / "cams").glob("*.png"))) == 2
    assert main(["predict", str(bad), "--dataset", "phantom", "--json"]) == 1
    capsys.readouterr()

    assert main(["evaluate", "--run", rows[1]["run"], "--json"]) == 0
    judged = lines(capsys)[0]["metrics"]["auroc"]
    assert judged["value"] == pytest.approx(rows[1]["metrics"]["auroc"], abs=1e-3)
    assert judged["low"] < judged["value"] < judged["high"]

    argv = ["run", "--dataset", "phantom", "--model", "scratch-cnn", "--strategy", "scratch", "--size", "4", "--again"]
    assert main(argv) == 0
    assert "largest change of a metric 0.000000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run", "--dataset", "kermani", "--model", "scratch-cnn", "--strategy", "scratch", "--size", "4"], "Did you"),
        (["run", "--dataset", "phantom", "--model", "scratch-cn", "--strategy", "scratch", "--size", "4"], "Did you"),
        (["run", "--dataset", "phantom", "--model", "scratch-cnn", "--strategy", "frozen", "--size", "4"], "supports"),
        (["curve", "--dataset", "phantom", "--models", "scratch-cnn", "--strategies", "frozen"], "None of these"),
        (["curve", "--folder", "/nowhere"], "There is nothing at"),
        (["evaluate", "--run", "nothing"], "no run named"),
        (["predict", "x.png", "--dataset", "phantom"], "No run with weights"),
        (["run", "--dataset", "phantom", "--model", "scratch-cnn", "--strategy", "scratch", "--size", "4",
          "--device", "cuda"], "no CUDA"),
    ],
)  # fmt: skip
def test_bad_requests_get_one_error_message(runs, capsys, argv, said, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("flag", ["--sizes=0", "--sizes=ten", "--seeds=-1", "--device=tpu"])
def test_bad_flags_are_refused(flag):
    with pytest.raises(SystemExit, match="2"):
        main(["curve", flag])


def test_list_names_every_row(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("kermany", "phantom", "scratch-densenet121", "finetune"))


@pytest.mark.parametrize(
    ("argv", "spared"),
    [
        (["--help"], {"torch", "scipy", *HEAVY}),
        (["data", "list"], {"torch", *HEAVY} - {"pandas"}),  # it reads the tables of sets on this machine
        (["campaign", "--list"], {"torch", *HEAVY}),
        (["list"], {"torch", "scipy", *HEAVY}),
    ],
    ids=["help", "data", "campaign", "list"],
)
def test_what_computes_nothing_does_not_wait_for_libraries_that_compute(argv, spared):
    command = [sys.executable, "-X", "importtime", "-m", "trainer", *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "trainer.cli" in imported
    assert imported & spared == set()


def test_audit_finds_crossing_copies(class_folder, capsys, monkeypatch):
    from dataclasses import replace

    from core.data import DATASETS

    root = class_folder({"benign": 12, "malignant": 12, "normal": 12}, parts=["train"])
    shutil.copytree(root / "train", root / "test")
    spec = replace(DATASETS["breast-ultrasound"], path=root)
    monkeypatch.setitem(DATASETS, "breast-ultrasound", spec)
    assert main(["audit", "breast-ultrasound", "--json"]) == 1
    assert sum(row["crosses"] for row in lines(capsys)) >= 24
    assert main(["audit", "phantom"]) == 0


def test_ctrl_c_keeps_finished_runs_and_the_command_resumes(runs, short_training, monkeypatch):
    argv = ["curve", "--dataset", "phantom", "--models", "scratch-cnn", "--strategies", "scratch",
            "--sizes", "2,3", "--seeds", "0,1", "--json"]  # fmt: skip
    train, trained = run_cell.run_cell, []

    def interrupt(done, total):
        if done == 3:
            signal.raise_signal(signal.SIGINT)

    def train_until_interrupted(*arguments, progress, **options):
        trained.append(arguments)
        return train(*arguments, progress=interrupt if len(trained) == 2 else progress, **options)

    with monkeypatch.context() as patch:
        patch.setattr("trainer.training.sweep.run_cell", train_until_interrupted)
        former = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            assert main(argv) == 130
        finally:
            signal.signal(signal.SIGINT, former)
    before = {folder: (folder / "run.json").read_bytes() for folder in open_store(runs).runs}
    assert len(before) == 1
    assert main(argv) == 0
    store = open_store(runs)
    assert len(store.runs) == 4
    assert store.problems == {}
    assert all((folder / "run.json").read_bytes() == content for folder, content in before.items())


def test_a_sweep_without_a_named_model_fails_and_keeps_the_others(runs, short_training, capsys):
    argv = ["curve", "--dataset", "phantom", "--models", "scratch-cnn,scratch-resnet18-3d", "--strategies", "scratch",
            "--sizes", "2", "--seeds", "0"]  # fmt: skip
    assert main(argv) == 2
    assert "scratch-resnet18-3d could not be trained here" in capsys.readouterr().err
    assert [meta.model for meta in open_store(runs).runs.values()] == ["scratch-cnn"]


@pytest.mark.data
def test_a_stored_run_is_reproduced(kermany, capsys, runs):
    """A run on real images is trained again and compared with the stored one."""
    argv = ["run", "--model", "scratch-cnn", "--strategy", "scratch", "--size", "10"]
    argv += ["--epochs", "1", "--min-steps", "10"]
    assert main(argv) == 0
    stored = [meta.run for meta in open_store(runs).metas("kermany")]
    capsys.readouterr()
    assert main([*argv, "--again", "--json"]) == 0  # 1 if a metric moved by 0.005 or more
    captured = capsys.readouterr()
    assert json.loads(captured.out)["run"] in stored
    assert "Against the stored run" in captured.err


def test_shipped_runs_are_sound_light_and_share_subsets(monkeypatch):
    monkeypatch.delenv("LOWSHOT_RUNS", raising=False)
    store = open_store()
    assert store.problems == {}
    assert len({meta.cell for meta in store.runs.values()}) == len(store.runs)
    subsets = {}
    for meta in store.metas():
        subsets.setdefault((meta.dataset, meta.train_size, meta.seed), set()).add(meta.subset_hash)
    assert subsets
    assert all(len(hashes) == 1 for hashes in subsets.values())
    assert len({meta.split_hash for meta in store.metas("kermany")}) == 1
    shipped = sum(path.stat().st_size for path in runs_folder().rglob("*") if path.is_file())
    assert shipped < 100e6
