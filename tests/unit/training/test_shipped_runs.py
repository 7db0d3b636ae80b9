"""No shipped network is barely trained: its learning rate peaked, and it fits its own training images."""

import math

import numpy as np
import pytest

from core.cards.subject import UNDERFIT
from core.paths import PROJECT
from core.runs import open_store, read_history
from trainer.training.fit import loss_of_guessing

HALF = "the training loss did not fall by half from that of guessing"
KNOWN = {  # docs/results.md and the cards of the runs say so
    ("nih-chestxray14", "scratch-cnn-160", "scratch"),
    ("nih-chestxray14", "scratch-cnn-160", "plain-scratch"),
    ("nih-chestxray14", "scratch-cnn-64", "scratch"),
    ("kermany", "scratch-cnn-160", "plain-scratch"),  # two end on a bad step of a constant rate, one of the next
    ("covid-radiography", "scratch-cnn-160", "plain-scratch"),
    ("ham10000", "scratch-cnn-160", "scratch"),  # .50 to .62 of the loss of guessing at 50 and 100
    ("ham10000", "scratch-cnn-160", "plain-scratch"),
}


def complaint(meta, history):
    """What is wrong with the training of a network, in words; "" for nothing."""
    for fold in sorted({row["fold"] for row in history}):
        rows = [row for row in history if row["fold"] == fold]
        if max(row["lr"] for row in rows) < 0.95 * meta["lr"]:
            return f"the rate of fold {fold} never peaked"
    last = history[-1]
    return HALF if last["fit_loss"] > UNDERFIT * last["guess_loss"] else ""


def row(fold, lr, **more):
    return {"fold": fold, "lr": lr, **more}


def test_hardly_trained_networks_are_found():
    good = [row(1, 0.1), row(0, 0.05), row(0, 0.1, fit_loss=0.2, guess_loss=0.69)]
    assert complaint({"lr": 0.1}, good) == ""
    assert "fold 0 never peaked" in complaint({"lr": 0.1}, [good[0], row(0, 0.05, fit_loss=0.2, guess_loss=0.69)])
    assert "by half" in complaint({"lr": 0.1}, [row(0, 0.1, fit_loss=0.4, guess_loss=0.69)])


def test_the_loss_of_guessing_by_hand():
    assert loss_of_guessing(np.array([0, 1, 1, 0])) == pytest.approx(math.log(2))
    findings = np.array([[1, 0], [0, np.nan], [1, 0], [0, 0]])
    assert loss_of_guessing(findings) == pytest.approx(4 * math.log(2) / 7)  # 4 and 3 known labels


def test_no_shipped_network_is_hardly_trained():
    stored = open_store(PROJECT / "checkpoints").runs
    assert stored
    networks = {
        folder: meta
        for folder, meta in stored.items()
        if meta.protocol and meta.trained == "all" and read_history(folder) and "meta_learnt_from" not in meta.config
    }
    wrong = {folder: complaint(meta.config, read_history(folder)) for folder, meta in networks.items()}
    underfit = {folder for folder, why in wrong.items() if why == HALF}
    assert {series_of(networks[folder]) for folder in underfit} == KNOWN
    assert "**A hardly learns here.**" in (PROJECT / "docs" / "results.md").read_text()
    assert {folder.name: why for folder, why in wrong.items() if why and folder not in underfit} == {}


def series_of(meta):
    return meta.dataset, meta.model, meta.strategy
