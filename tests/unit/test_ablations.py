"""Ablations: which combinations are run, and that one command compares them on the same subsets."""

import json

import pytest

from core.checkpoints import open_store
from core.errors import BadRequest
from trainer.ablations import combinations_of
from trainer.cli import main


def test_none_each_pairs_and_all():
    found = combinations_of(["horizontal-flip", "noise", "mean-std"], ["each", "pairs", "all"])
    assert [one.title for one in found] == [
        "none",
        "horizontal-flip",
        "noise",
        "mean-std",
        "horizontal-flip+noise",
        "horizontal-flip+mean-std",
        "noise+mean-std",
        "horizontal-flip+noise+mean-std",
    ]
    assert found[0].options == {"augment": "none", "preparation": "unit-range"}
    assert found[4].options == {"augment": "horizontal-flip+noise", "preparation": "unit-range"}
    assert found[-1].options == {"augment": "horizontal-flip+noise", "preparation": "mean-std"}
    two = combinations_of(["clahe", "noise"], ["all", "pairs"])
    assert [one.title for one in two] == ["none", "clahe+noise"]
    assert len(combinations_of(["clahe"], ["each", "pairs", "all"])) == 2


@pytest.mark.parametrize(
    ("ingredients", "orders", "message"),
    [(["clahee"], ["each"], "neither an augmentation"), (["clahe", "clahe"], ["each"], "twice"),
     (["clahe"], ["triples"], "each, pairs, all")],
)  # fmt: skip
def test_wrong_ablations_are_refused(ingredients, orders, message):
    with pytest.raises(BadRequest, match=message):
        combinations_of(ingredients, orders)


def test_one_command_runs_and_compares_them(runs, capsys):
    argv = ["ablate", "--dataset", "phantom", "--models", "imagenet-efficientnet-lite0", "--strategies", "frozen",
            "--of", "horizontal-flip,mean-std", "--sizes", "4", "--seeds", "0,1", "--json"]  # fmt: skip
    assert main(argv) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["combination"] for row in rows] == ["none", "horizontal-flip", "mean-std", "horizontal-flip+mean-std"]
    assert rows[0]["difference"] == {}
    for row in rows[1:]:
        value, low, high = row["difference"]["auroc"]
        assert low <= value <= high
        assert value == pytest.approx(row["metrics"]["auroc"] - rows[0]["metrics"]["auroc"], abs=1e-5)
    metas = list(open_store(runs).runs.values())
    assert len(metas) == 8
    assert len({meta.subset_hash for meta in metas if meta.seed == 0}) == 1
    assert len({meta.variant for meta in metas}) == 4
    assert main([*argv[:-1]]) == 0
    assert "horizontal-flip+mean-std" in capsys.readouterr().out
    assert len(open_store(runs).runs) == 8
