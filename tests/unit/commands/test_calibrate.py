"""`calibrate` adds what an older run lacks and changes nothing else."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from core.files import sha256_of_file
from core.runs import add_part, open_store, read_predictions, read_run, stored_parts
from core.runs.predictions import pack
from tests.conftest import shorten
from trainer.cli import main

ARGV = ["--dataset", "phantom"]


def strip(folder, change=None):
    """Makes a run as it was stored before there were calibration images."""
    parts = {part: read_predictions(folder, part) for part in ("validation", "test")}
    if change:
        change(parts["test"].logits)
    (folder / "predictions.npz").write_bytes(pack(parts))
    record = json.loads((folder / "run.json").read_text())
    record["hashes"]["predictions.npz"] = sha256_of_file(folder / "predictions.npz")
    (folder / "run.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with a run, which no test changes."""
    store = tmp_path_factory.mktemp("trained") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWSHOT_RUNS", str(store))
        shorten(patch)
        assert main(["run", *ARGV, "--model", "scratch-cnn", "--strategy", "scratch", "--size", "2"]) == 0
    return store


@pytest.fixture
def kept_of(trained, runs, short_training):
    """A run that keeps its weights; one that does not is trained again as it was."""
    shutil.copytree(trained, runs, dirs_exist_ok=True)
    (folder,) = open_store(runs).runs
    return folder


@pytest.fixture
def run_of(kept_of):
    """A run that does not."""
    (kept_of / "weights.safetensors").unlink()
    record = json.loads((kept_of / "run.json").read_text())
    del record["hashes"]["weights.safetensors"]
    (kept_of / "run.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return kept_of


def test_missing_calibration_predictions_are_added_and_all_else_is_kept(run_of, capsys):
    before = {path.name: path.read_bytes() for path in run_of.iterdir()}
    meta, wanted = read_run(run_of), read_predictions(run_of, "calibration")
    strip(run_of)
    old = {part: read_predictions(run_of, part) for part in stored_parts(run_of)}
    assert set(old) == {"validation", "test"}
    capsys.readouterr()
    assert main(["calibrate", *ARGV]) == 0
    assert f"{meta.run}: added" in capsys.readouterr().out
    assert read_run(run_of) == meta  # the hash of its predictions too
    for part, one in old.items():
        assert (read_predictions(run_of, part).logits == one.logits).all()
    found = read_predictions(run_of, "calibration")
    assert (found.ids == wanted.ids).all()
    assert np.abs(found.logits - wanted.logits).max() < 1e-6
    assert {path.name for path in run_of.parent.iterdir()} == {run_of.name}
    assert {path.name for path in run_of.iterdir()} == set(before)
    with pytest.raises(ValueError, match="stores some"):
        add_part(run_of, found)
    assert main(["calibrate", *ARGV]) == 0  # nothing is lacking any more
    assert "added" not in capsys.readouterr().out


def test_a_run_with_stored_weights_is_evaluated_with_them(kept_of, capsys, monkeypatch):
    monkeypatch.setattr("trainer.commands.calibrate.run_cell.run_cell", None)  # is not called
    wanted = read_predictions(kept_of, "calibration")
    strip(kept_of)
    assert main(["calibrate", *ARGV]) == 0
    found = read_predictions(kept_of, "calibration")
    for one in ("ids", "groups", "labels"):
        assert (getattr(found, one) == getattr(wanted, one)).all()
    assert np.abs(found.logits - wanted.logits).max() < 1e-4
    strip(kept_of, lambda logits: np.add(logits, np.arange(2), out=logits))
    assert main(["calibrate", *ARGV]) == 1
    assert "left as it is: Evaluated again, a test logit changed by 0.5" in capsys.readouterr().out


def test_an_older_run_keeps_its_stored_predictions(run_of, capsys):
    """They were stored in single precision, and not about their mean."""

    def as_they_came(logits):
        logits += 0.7812345

    strip(run_of, as_they_came)
    before = read_predictions(run_of)
    assert main(["calibrate", *ARGV]) == 0
    assert ": added" in capsys.readouterr().out
    assert (read_predictions(run_of).logits == before.logits).all()
    assert np.load(run_of / "predictions.npz")["test_logits"].dtype == np.float32


def test_a_run_that_is_not_reproduced_is_left_as_it_is(run_of, capsys):
    def nudge(logits):
        logits[3, 0] += 0.01  # half of it about their mean

    strip(run_of, nudge)
    before = (run_of / "predictions.npz").read_bytes()
    assert main(["calibrate", *ARGV]) == 1
    assert "left as it is: Evaluated again, a test logit changed by 0.00" in capsys.readouterr().out
    assert (run_of / "predictions.npz").read_bytes() == before
    assert main(["calibrate", *ARGV, "--models", "imagenet-efficientnet-lite0"]) == 0  # none of these


def test_a_run_is_restored_if_replacing_it_fails(run_of, monkeypatch):
    found = read_predictions(run_of, "calibration")
    strip(run_of)
    before, really = read_run(run_of), os.replace

    def breaks(source, target):
        if str(source).endswith(".partial") and Path(target) == run_of:
            raise OSError("full")
        really(source, target)

    monkeypatch.setattr("core.runs.store.os.replace", breaks)
    with pytest.raises(OSError, match="full"):
        add_part(run_of, found)
    assert read_run(run_of) == before
    assert [path.name for path in run_of.parent.iterdir()] == [run_of.name]


def test_a_run_of_other_settings_is_not_retrained(run_of, capsys):
    strip(run_of)
    record = json.loads((run_of / "run.json").read_text())
    other = run_of.with_name("scratch-cnn-scratch-n2-s0-00000000")
    run_of.rename(other)
    (other / "run.json").write_text(json.dumps({**record, "run": other.name}))
    assert main(["calibrate", *ARGV]) == 1
    assert "make another run" in capsys.readouterr().out
    assert stored_parts(other) == ("validation", "test")
