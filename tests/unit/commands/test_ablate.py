"""`ablate`: combinations of settings, their differences, and seeds left out on both sides."""

import json
from dataclasses import replace

import pytest
import torch

from core.analysis.comparison import correct
from core.errors import BadRequest, UnknownName
from core.models import MODELS
from core.runs import open_store
from tests.synthetic_runs import STRONG, WEAK, make_run
from tests.synthetic_runs import of as of_runs
from trainer.cli import main
from trainer.commands.ablate import DIFFERENCES, SHOWN, _line, _rows, combinations_of


def of(ingredients, orders="each,pairs,all"):
    return combinations_of(ingredients.split(","), orders.split(","))


def test_ingredients_make_settings_and_what_is_left_out_is_left_out():
    found = of("noise,clahe,focal")
    assert list(found) == ["none", "noise", "clahe", "focal", "noise+clahe", "noise+focal", "clahe+focal",
                           "noise+clahe+focal"]  # fmt: skip
    assert found["none"] == {"augment": "none", "preparation": ""}
    assert found["noise+focal"] == {"loss": "focal", "augment": "noise", "preparation": ""}
    assert of("class-weights,depth=2,label_smoothing=0.1", "each") == {
        "none": {}, "class-weights": {"imbalance": "class-weights"}, "depth=2": {"depth": 2},
        "label_smoothing=0.1": {"label_smoothing": 0.1},
    }  # fmt: skip


def test_the_trio_of_flip_noise_and_normalization():
    found = of("horizontal-flip,noise,mean-std")
    assert list(found) == [
        "none", "horizontal-flip", "noise", "mean-std", "horizontal-flip+noise", "horizontal-flip+mean-std",
        "noise+mean-std", "horizontal-flip+noise+mean-std",
    ]  # fmt: skip
    assert found["none"] == {"augment": "none", "preparation": "unit-range"}
    assert found["horizontal-flip+noise"] == {"augment": "horizontal-flip+noise", "preparation": "unit-range"}
    assert found["noise+mean-std"] == {"augment": "noise", "preparation": "mean-std"}


def test_two_values_of_a_setting_never_meet():
    found = of("depth=1,depth=2,focal")
    assert list(found) == ["none", "depth=1", "depth=2", "focal", "depth=1+focal", "depth=2+focal"]
    assert list(of("depth=1,depth=2,oversample,focal", "all"))[1:] == [
        "depth=1+oversample+focal",
        "depth=2+oversample+focal",
    ]


@pytest.mark.parametrize(
    ("ingredients", "said"),
    [
        ("nose", "is not an ingredient"),
        ("focal,focal", "named twice"),
        ("deep=1", "no setting named"),
        ("depth=x", "Expected --depth to be a whole number of at least 1, but got 'x'"),
        ("depth=0", "at least 1"),
    ],
)
def test_what_is_no_ingredient_is_refused(ingredients, said):
    with pytest.raises((BadRequest, UnknownName), match=said):
        of(ingredients)


def test_one_command_compares_ingredients_and_starts(runs, monkeypatch, capsys):
    def build(classes, dataset, seed):
        return MODELS["scratch-cnn"].build(classes, dataset, seed + 1)

    for name, family in (("first", "imagenet"), ("other", "medical")):
        weights = MODELS["imagenet-efficientnet-lite0"].weights  # installed, and not read by this network
        spec = replace(MODELS["scratch-cnn"], name=name, family=family, weights=weights, build=build)
        monkeypatch.setitem(MODELS, name, spec)
    argv = ["ablate", "--dataset", "phantom", "--models", "first,other", "--strategies", "scratch"]
    quick = ["--sizes", "4", "--seeds", "0,1", "--epochs", "1", "--min-steps", "1", "--of", "class-weights,focal"]
    assert main([*argv, *quick, "--orders", "each", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["model"], row["start"], row["combination"]) for row in rows] == [
        (model, start, combination)
        for model, start in (("first", "ImageNet start"), ("other", "medical start"))
        for combination in ("none", "class-weights", "focal")
    ]
    assert all(row["seeds"] == [0, 1] for row in rows)
    assert [bool(row["difference"]) for row in rows] == [False, True, True] * 2
    assert [row["against"] for row in rows] == [""] * 3 + ["first"] * 3
    one = rows[4]["difference_of_models"]["auroc"]
    assert one["effect"] == pytest.approx(rows[4]["metrics"]["auroc"] - rows[1]["metrics"]["auroc"], abs=1e-5)
    assert one["low"] <= one["effect"] <= one["high"]
    assert (one["verdict"], one["p"], one["seeds"]) == ("no verdict", None, 2)
    assert len(open_store(runs).runs) == 12
    assert main([*argv, *quick, "--orders", "each"]) == 0
    said = capsys.readouterr().out
    assert "other (medical start) scratch  n=4  focal" in said
    assert "no verdict: 2 seeds, at least 5 needed" in said


def test_a_seed_that_diverged_is_left_out_on_both_sides(runs, capsys, monkeypatch):
    real = torch.isfinite
    checked, spoilt = [], [0]

    def finite(value):
        """Whether a loss is a number, but for one check."""
        if value.ndim == 0:
            checked.append(value)
        return real(value) & (len(checked) != spoilt[0])

    monkeypatch.setattr("trainer.training.training_loop.torch.isfinite", finite)
    argv = ["ablate", "--dataset", "phantom", "--models", "scratch-cnn", "--strategies", "scratch", "--sizes", "4"]
    quick = ["--epochs", "1", "--min-steps", "1", "--of", "focal", "--json"]
    assert main([*argv, *quick, "--seeds", "0"]) == 0
    spoilt[0] = len(checked) * 3 // 2 + 1  # of the other seed's two trainings the beginning of the second
    capsys.readouterr()
    assert main([*argv, *quick, "--seeds", "0,1"]) == 0
    said = capsys.readouterr()
    assert "failed: scratch-cnn scratch n=4 seed 1" in said.err
    none, focal = (json.loads(line) for line in said.out.splitlines())
    assert (none["seeds"], focal["seeds"]) == ([0, 1], [0])
    assert focal["difference"]["auroc"]["seeds"] == 1
    assert focal["difference"]["auroc"]["varies"] == "test patients, one seed"


def test_verdicts_are_corrected_over_every_contrast_of_the_command(runs):
    """Two models, three combinations: four differences from none and three of the models, seven in each metric."""
    made = [
        of_runs([make_run(runs, kind, 50, seed, strength, variant=variant) for seed in range(5)])
        for kind, extra in ((WEAK, 0.0), (STRONG, 1.0))
        for variant, strength in (("", 1.0 + extra), ("a=1", 1.0 + extra), ("b=1", 3.0))
    ]
    every = combinations_of(["class-weights", "focal"], ["each"])
    first = made[:3]
    rows = [*_rows(every, first, first), *_rows(every, made[3:], first)]
    before = [row["difference"]["auroc"] for row in rows if row["difference"]]
    correct([row[kind] for row in rows for kind in DIFFERENCES if row[kind]], SHOWN)
    after = [one["auroc"] for row in rows for one in (row["difference"], row["difference_of_models"]) if one]
    assert len(after) == 7
    assert {one.contrasts for one in after} == {7}
    assert min(one.holm for one in after) == pytest.approx(7 * min(one.p for one in after))
    assert rows[2]["difference"]["auroc"].verdict == "different"
    assert "different: focal is better" in _line(rows[2])
    assert {one.contrasts for one in before} == {1}
