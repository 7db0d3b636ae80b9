"""The search for settings: it finds better ones within the subset alone, and resumes where it stopped."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.errors import BadRequest
from core.paths import cache_folder
from core.runs import open_store
from trainer.cli import main
from trainer.commands import tune
from trainer.commands.tune import SEARCHABLE, SEARCHED_BY_DEFAULT, Search
from trainer.flags import OPTIONS, read_settings
from trainer.training.engines import LocalEngine
from trainer.training.run_cell import fit_data
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch, phantom):
    """Journals of one test are not those of another; the phantom is read by then."""
    monkeypatch.setattr("trainer.commands.tune.cache_folder", lambda: tmp_path / "cache")


@pytest.fixture(scope="module")
def phantom():
    return load_dataset(DATASETS["phantom"])


class Shut(np.ndarray):
    """Pixels of which some rows must not be read."""

    shut: frozenset[int] = frozenset()

    def __getitem__(self, which):
        if isinstance(which, np.ndarray) and which.ndim == 1:
            assert not self.shut & set(which.tolist()), "a row was read that is not of the subset"
        return super().__getitem__(which)


def search(phantom, over, options=None, strategy="scratch", size=8):
    options = {"epochs": 1, "min_steps": 1, "patience": 0, **(options or {})}
    prepared = plan_run(Cell("phantom", "scratch-cnn", strategy, size, 0), phantom, options)
    bank = phantom.bank(64).images.view(Shut)
    bank.shut = frozenset(range(len(bank))) - frozenset(prepared.rows.tolist())
    return Search([(prepared, fit_data(prepared, phantom, bank))], options, over, LocalEngine(CPU))


def landscape(monkeypatch):
    """Settings are good where the rate is 0.005 and labels are smoothed by 0.1."""
    tried = []

    def judge(cells, settings, device, report):
        tried.append(settings)
        return abs(np.log(settings.lr / 0.005)) + abs(settings.label_smoothing - 0.1)

    monkeypatch.setattr(tune, "held_out_loss", judge)
    return tried


def test_better_settings_are_found_and_the_usual_ones_come_first(phantom, monkeypatch, tmp_path):
    tried, out, said = landscape(monkeypatch), tmp_path / "tuned.json", []
    monkeypatch.setattr(tune, "print_status", said.append)
    search(phantom, ["lr", "label_smoothing"]).run(0.05, out)
    assert (tried[0].lr, tried[0].label_smoothing) == (1e-3, 0.0)
    found = json.loads(out.read_text())
    assert found["trials"] == len(tried) > 20
    assert found["usual_value"] == pytest.approx(np.log(5) + 0.1)
    assert found["value"] < 0.5 * found["usual_value"]
    assert f"the best has {found['value']:.4f}, the default settings 1.7094" in said[-2]
    assert 0.001 < found["settings"]["lr"] < 0.01
    assert found["settings"]["epochs"] == 1
    assert read_settings(out) == found["settings"]


def test_a_stopped_search_goes_on(phantom, monkeypatch, tmp_path):
    tried, out = landscape(monkeypatch), tmp_path / "tuned.json"
    real, calls = tune.held_out_loss, []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(tune, "held_out_loss", stopped)
    with pytest.raises(KeyboardInterrupt):
        search(phantom, ["lr", "label_smoothing"]).run(0.02, out)
    assert json.loads(out.read_text())["trials"] == 4
    before = list(tried)
    search(phantom, ["lr", "label_smoothing"]).run(0.02, out)
    assert json.loads(out.read_text())["trials"] == len(calls) > 5
    after = tried[len(before) :]
    assert not {one.lr for one in before} & {one.lr for one in after}  # nothing is drawn twice
    other = search(phantom, ["lr"])
    assert other.name != search(phantom, ["lr", "label_smoothing"]).name


def test_without_held_out_images_nothing_is_compared(phantom, monkeypatch):
    plan = plan_run(Cell("phantom", "scratch-cnn", "scratch", 4, 0), phantom)
    nothing = SimpleNamespace(failed="", held_out=np.array([], int), logits=np.zeros((0, 2)))
    monkeypatch.setattr(tune, "train", lambda *_: (None, nothing))
    data = fit_data(plan, phantom, plan.images(phantom))
    with pytest.raises(BadRequest, match="Use two folds or more"):
        tune.held_out_loss([(plan, data)], plan.settings, CPU, lambda done, total: None)


def test_settings_that_cannot_be_evaluated_are_skipped(phantom, monkeypatch, tmp_path):
    def judge(cells, settings, device, report):
        if settings.lr > 1e-3:
            raise BadRequest("too fast")
        return settings.lr

    monkeypatch.setattr(tune, "held_out_loss", judge)
    out = tmp_path / "tuned.json"
    search(phantom, ["lr"]).run(0.01, out)
    assert json.loads(out.read_text())["settings"]["lr"] <= 1e-3
    monkeypatch.setattr(tune, "held_out_loss", lambda *_: (_ for _ in ()).throw(BadRequest("never")))
    with pytest.raises(BadRequest, match="No settings could be evaluated: never"):
        search(phantom, ["label_smoothing"]).run(0.001, tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()


def test_the_test_set_stays_shut(phantom, monkeypatch, tmp_path):
    """Rows outside the subset raise when read, and test labels turned round change nothing."""
    values = []
    for index in (0, 1):
        labels = phantom.listing.labels.copy()
        if index:
            labels[phantom.parts.test] = 1 - labels[phantom.parts.test]
        dataset = replace(phantom, listing=replace(phantom.listing, labels=labels))
        monkeypatch.setattr("trainer.commands.tune.cache_folder", lambda index=index: tmp_path / str(index))
        out = tmp_path / f"{index}.json"
        search(dataset, ["lr"]).run(1e-6, out)
        values.append(json.loads(out.read_text())["value"])
    assert values[0] == values[1]


def test_the_command_writes_settings_that_a_run_takes(runs, tmp_path, capsys):
    out = tmp_path / "tuned.json"
    argv = ["--dataset", "phantom", "--model", "scratch-cnn", "--strategy", "scratch", "--size", "5"]
    quick = ["--epochs", "2", "--min-steps", "0", "--patience", "0"]
    assert (
        main(["tune", *argv, *quick, "--seeds", "0,1", "--minutes", "0.01", "--over", "lr,loss", "--out", str(out)])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["seeds"] == [0, 1]
    assert len(set(found["subsets"])) == 2
    assert list((cache_folder() / "tuning").glob("*.json")) == []
    assert main(["run", *argv, "--settings", str(out)]) == 0
    meta = next(iter(open_store(runs).runs.values()))
    assert meta.subset_hash == found["subsets"][0]
    assert meta.config["lr"] == found["settings"]["lr"]
    assert meta.config["epochs"] == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--over", "speed"], "cannot be searched over"),
        (["--over", "depth"], "does not take depth"),
        (["--over", "lr", "--lr", "0.1"], "fixed and searched over"),
        (["--size", "2,3"], "takes one size"),
    ],
)
def test_searches_that_make_no_sense_are_refused(runs, capsys, more, said):
    argv = ["tune", "--dataset", "phantom", "--model", "scratch-cnn", "--strategy", "scratch", "--size", "4", *more]
    assert main(argv) == 2
    assert said in capsys.readouterr().err


def test_every_space_is_a_setting():
    assert set(SEARCHED_BY_DEFAULT) <= set(SEARCHABLE) <= set(OPTIONS)
    with pytest.raises(SystemExit):
        main(["tune", "--model", "a", "--strategy", "b", "--size", "1", "--minutes", "0"])
