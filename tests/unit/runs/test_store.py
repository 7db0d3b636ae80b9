"""The run store: records, predictions and weights are written whole and verified when read."""

import errno
import io
import itertools
import json
import os
import shutil
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from core.errors import CorruptRun, disk_problem
from core.files import remove_unfinished
from core.metrics import METRICS
from core.runs import (
    WEIGHTS_FILE,
    ExternalRecord,
    Predictions,
    RunMeta,
    add_external,
    as_stored,
    open_store,
    pack_run,
    put_run,
    read_predictions,
    read_run,
    read_weights,
    save_run,
)
from core.runs.predictions import pack
from core.runs.record import PREDICTIONS_FILE
from core.runs.store import RUN_FILE

METRIC_VALUES = dict.fromkeys(METRICS, 0.9)


def test_a_store_that_cannot_be_read_is_an_error_and_not_empty(runs, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PermissionError):
        open_store(runs)


def example_meta(run="cnn-n2-s0-abc"):
    return RunMeta(
        run=run, dataset="phantom", dataset_title="Phantom", labels=("No", "Yes"), positive=1, channels=1,
        synthetic=True, model="scratch-cnn", family="scratch", strategy="scratch", train_size=2, seed=0, images=4,
        short=(), config={"lr": 0.1}, subset_hash="s", split_hash="p", fingerprint="f", notes=("one",), size=32,
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), encoder={"kind": "random", "sha256": ""}, trained="all",
        selection="held out", threshold=0.4,
        temperature=1.5, metrics=METRIC_VALUES, metrics_at_half=METRIC_VALUES, seconds=1.0, device="cpu",
        made="2026-01-01", versions={},
    )  # fmt: skip


def example_predictions(n=3):
    names = np.array([f"bild-ä{i}" for i in range(n)])
    return Predictions(names, names, np.arange(n) % 2, np.random.default_rng(0).normal(size=(n, 2)))


def save(store, run="cnn-n2-s0-abc", weights=True):
    tensors = {"a.weight": torch.arange(6).reshape(2, 3) / 7} if weights else None
    return save_run(example_meta(run), example_predictions(2), example_predictions(5), [{"epoch": 0}], tensors, store)[
        0
    ]


def test_a_run_comes_back_as_it_was(runs):
    folder = save(runs)
    meta = read_run(folder)
    assert replace(meta, hashes={}) == example_meta()
    stored = read_predictions(folder)
    assert stored.ids.tolist() == example_predictions(5).ids.tolist()
    assert np.allclose(stored.logits, example_predictions(5).logits, atol=1e-6)
    assert len(read_predictions(folder, "validation").labels) == 2
    assert torch.allclose(read_weights(folder)["a.weight"], torch.arange(6).reshape(2, 3) / 7, atol=1e-3)
    assert not save(runs, "other", weights=False).joinpath(WEIGHTS_FILE).exists()


def test_answers_are_stored_in_half_precision_and_older_ones_as_they_were():
    random = np.random.default_rng(1)
    logits = random.normal(0, 5, size=(4000, 3)).astype(np.float32)
    logits[0] = 0, 1e6, -1e6
    halved = as_stored(logits, multilabel=True)
    assert np.allclose(halved[1:], logits[1:], rtol=2**-11, atol=2**-25)
    assert np.isfinite(halved).all()
    far = as_stored(logits[1:] - 5000, multilabel=False)  # of classes only differences count
    assert np.allclose(softmax(far, axis=1), softmax(logits[1:], axis=1), atol=2e-3)
    endless = as_stored(np.array([[np.inf, 0, 1], [-np.inf, 0, 1]]), multilabel=False)
    assert np.isfinite(endless).all()
    assert softmax(endless, axis=1)[0].tolist() == [1, 0, 0]
    labels, names = random.integers(0, 3, 4000), np.char.add("patient/image-", np.arange(4000).astype(str))
    files = {}
    for kind, values in (("half", halved), ("single", logits)):
        files[kind] = pack({"test": Predictions(names, names, labels, values)}, {})
        with np.load(io.BytesIO(files[kind]), allow_pickle=False) as file:
            assert file["test_logits"].dtype == {"half": np.float16, "single": np.float32}[kind]
            assert np.array_equal(file["test_logits"].astype(np.float32), values)
    assert len(files["half"]) < 0.7 * len(files["single"])
    assert files["half"] == pack({"test": Predictions(names, names, labels, halved)}, {})  # no date in it
    auroc = [roc_auc_score(labels == 1, softmax(values, axis=1)[:, 1]) for values in (halved, logits)]
    assert auroc[0] == pytest.approx(auroc[1], abs=1e-5)


def damage_json(folder):
    (folder / RUN_FILE).write_text((folder / RUN_FILE).read_text()[:100])


def damage_predictions(folder):
    (folder / PREDICTIONS_FILE).write_bytes(b"PK")


def damage_weights(folder):
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(bytes(content))


def lose_weights(folder):
    (folder / WEIGHTS_FILE).unlink()


def lose_json(folder):
    (folder / RUN_FILE).unlink()


def climb_out(folder):
    text = (folder / RUN_FILE).read_text().replace(f'"{WEIGHTS_FILE}"', '"../../secret"')
    (folder / RUN_FILE).write_text(text)


def lose_a_metric(folder):
    (folder / RUN_FILE).write_text((folder / RUN_FILE).read_text().replace('"auroc"', '"aurok"'))


@pytest.mark.parametrize(
    "damage", [lose_a_metric, damage_json, damage_predictions, damage_weights, lose_weights, lose_json, climb_out]
)
def test_damaged_runs_are_named_and_left_out(runs, damage):
    save(runs, "sound")
    damage(save(runs, "hurt"))
    store = open_store(runs)
    assert [meta.run for meta in store.metas()] == ["sound"]
    assert list(store.problems) == ["phantom/hurt"]


def test_a_pickle_is_never_read(runs):
    folder = save(runs)
    np.savez(folder / PREDICTIONS_FILE, test_ids=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CorruptRun, match="cannot be read"):
        read_predictions(folder)


def test_a_run_already_there_stays(runs):
    folder = save(runs)
    before = (folder / RUN_FILE).read_bytes()
    assert save(runs) == folder
    assert (folder / RUN_FILE).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_damaged_run_makes_room_for_a_sound_one(runs):
    folder = save(runs)
    damage_predictions(folder)
    assert open_store(runs).runs == {}
    assert save(runs) == folder
    assert [meta.run for meta in open_store(runs).metas()] == [folder.name]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_of_several_answers_to_one_question_the_last_counts(runs):
    for run, made in (("old", "2026-01-01"), ("new", "2026-03-01"), ("mid", "2026-02-01")):
        save_run(replace(example_meta(run), made=made), example_predictions(), example_predictions(), [], None, runs)
    store = open_store(runs)
    assert len(store.runs) == 3
    assert [meta.run for meta in store.metas("phantom")] == ["new"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train_size", "x"),
        ("positive", 7),
        ("threshold", None),
        ("temperature", 0),
        ("size", 20_000),
        ("seed", {}),
        ("dataset", ["z"]),
        ("labels", ["one"]),
        ("mean", [0.5]),
        ("metrics", {"auroc": 1.0}),
        ("metrics", dict.fromkeys(METRICS, float("nan"))),
        ("hashes", {}),
        ("format", 2),
        ("synthetic", "no"),
    ],
)
def test_a_field_that_holds_what_it_must_not_is_named(runs, field, value):
    folder = save(runs)
    record = json.loads((folder / RUN_FILE).read_text())
    (folder / RUN_FILE).write_text(json.dumps({**record, field: value}))
    store = open_store(runs)
    assert store.runs == {}
    assert field in next(iter(store.problems.values()))


def test_a_link_in_a_run_is_refused(runs, tmp_path):
    folder = save(runs)
    kept = tmp_path / "elsewhere"
    (folder / PREDICTIONS_FILE).rename(kept)
    (folder / PREDICTIONS_FILE).symlink_to(kept)
    assert "predictions.npz is missing or does not match its hash" in next(iter(open_store(runs).problems.values()))


def killed_at(count, change):
    """Forks a process that changes the store and is killed at a line of what writes; returns whether it was."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    try:
        lines = itertools.count()

        def trace(frame, event, _):
            code = frame.f_code
            if not code.co_filename.endswith(("core/files.py", "runs/store.py")) or "atomically" in code.co_name:
                return None
            if event == "line" and next(lines) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        change()
        sys.settrace(None)
    finally:
        os._exit(0)


def replace_external(folder):
    records = {"adults": ExternalRecord("Adults", labels=("No", "Yes"), images=4, groups=4, metrics=METRIC_VALUES)}
    add_external(folder, records, {"adults": replace(example_predictions(4), part="external")}, ["A note."])


@pytest.mark.parametrize("change", ["save", "save over a damaged one", "add external", "arrive"])
def test_a_kill_at_any_line_of_a_save_leaves_the_old_or_the_new_run(runs, tmp_path, change):
    other = save(tmp_path / "elsewhere", "killed")
    files = pack_run(other)
    folder, seen = runs / "phantom" / "killed", set()
    save(runs, "before")
    for count in itertools.count():
        shutil.rmtree(folder, ignore_errors=True)
        if change == "add external":
            shutil.copytree(other, folder)
            killed = killed_at(count, lambda: replace_external(folder))
        elif change == "arrive":
            killed = killed_at(count, lambda: put_run("phantom", "killed", files, replace=True))
        else:
            if change != "save":
                damage_json(shutil.copytree(other, folder))
            killed = killed_at(count, lambda: save(runs, "killed"))
        remove_unfinished([runs])
        assert {path.name for path in folder.parent.iterdir()} <= {"before", "killed"}
        store = open_store(runs)
        assert set(store.problems) <= ({"phantom/killed"} if "damaged" in change else set())
        assert store.runs[runs / "phantom" / "before"]
        seen.add(tuple(store.runs[folder].notes) if folder in store.runs else None)
        if not killed:
            break
    assert count > 30
    before = {"add external": ("one",)}.get(change)
    assert seen == {before, ("one", "A note.") if change == "add external" else ("one",)}


def test_a_full_disk_leaves_the_run_that_was_there(runs, monkeypatch):
    folder = save(runs)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("core.files.os.fsync", full)
    for change in (lambda: replace_external(folder), lambda: save(runs, "other")):
        with pytest.raises(OSError, match="No space") as caught:
            change()
        assert "Free some space" in disk_problem(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_two_processes_add_external_sets_and_neither_loses_its_own(runs):
    folder = save(runs)
    sets = [f"set{number}" for number in range(6)]

    def add(name):
        add_external(folder, {name: ExternalRecord(name, refused="Its encoder learned from them.")}, {})

    threads = [threading.Thread(target=add, args=(name,)) for name in sets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_run(folder).external) == sets


def test_an_empty_or_missing_store_is_no_error(tmp_path):
    assert open_store(tmp_path / "nowhere").runs == {}
