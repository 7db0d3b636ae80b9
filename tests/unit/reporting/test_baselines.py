"""Recipes against baselines, from logs."""

import json

import numpy as np
import pytest

from core.errors import BadRequest
from trainer.reporting import baselines
from trainer.reporting.baselines import baseline_table, gain, log_of, read_log, summary

LITE0 = "imagenet-efficientnet-lite0"


def row(contender, seed, clean, size=10):
    return {
        "contender": contender, "model": LITE0, "set": "x", "seed": seed, "size": size, "clean": clean,
        "spoilt": clean - 0.1, "log_loss": 0.5 + seed / 100, "log_loss_at_1": 0.5,
    }  # fmt: skip


def test_a_gain_is_paired_by_data_set_and_seed():
    values = {"a": (0.8, 0.9, 0.7), "b": (0.7, 0.6, 0.6)}
    rows = [row(title, seed, value) for title, by_seed in values.items() for seed, value in enumerate(by_seed)]
    spread = gain(rows, "a", "b", 10)
    assert spread.mean == pytest.approx(0.5 / 3)
    assert spread.seeds == 3
    error = np.std([0.1, 0.3, 0.1], ddof=1) / 3**0.5
    assert spread.high - spread.mean == pytest.approx(4.30265 * error, rel=1e-4)  # Student's t, 2 degrees of freedom


def test_the_table_says_what_is_ahead_behind_or_not_compared(monkeypatch, tmp_path):
    monkeypatch.setattr(baselines, "FOLDER", tmp_path)
    rows = [row("logistic regression", seed, value) for seed, value in enumerate((0.80, 0.81, 0.82))]
    rows += [row("plain loop", seed, value) for seed, value in enumerate((0.70, 0.72, 0.71))]
    rows += [row("old MLP", seed, value) for seed, value in enumerate((0.90, 0.92, 0.91))]
    rows += [row("logistic regression", 0, 0.9, 50)]
    log_of("frozen").write_text("".join(json.dumps(each) + "\n" for each in rows))
    first, second = (line for line in baseline_table(["frozen"], [10, 50]).splitlines() if "| logistic" in line)
    assert "| 10 | +0.100 (+0.075 to +0.125), ahead | -0.100 (-0.125 to -0.075), behind | 3 |" in first
    assert "| 50 | not compared | not compared | 0 |" in second
    assert "logistic regression +0.008 and +0.020; plain loop +0.010 and +0.020" in baseline_table(["frozen"], [10])
    assert "| 10 | old MLP | -0.100 (-0.125 to -0.075) | -0.100 (-0.125 to -0.075) | 3 |" in summary(rows)
    with pytest.raises(BadRequest, match="There is no log of scratch"):
        baseline_table(["scratch"], [10])


def test_the_logs_that_ship_hold_whole_cells():
    """Every contender of a logged cell is there, except in the cell at which the command was stopped."""
    for path in baselines.FOLDER.glob("baselines-*.jsonl"):
        by_cell = {}
        for each in read_log(path):
            by_cell.setdefault((each["set"], each["size"], each["seed"]), set()).add(each["contender"])
        largest = max(map(len, by_cell.values()))
        assert sum(len(contenders) < largest for contenders in by_cell.values()) <= 1, path.name
