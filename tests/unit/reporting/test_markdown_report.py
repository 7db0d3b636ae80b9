"""`report`: every section from stored runs, what is kept apart and marked, and what is refused."""

import json
import shlex
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from core.analysis import comparison
from core.runs import Run, open_store, read_run
from core.runs.series import estimate, runs_by_series
from tests.synthetic_runs import STRONG, WEAK, make_families, make_run
from trainer.cli import main, parse
from trainer.commands.report import _command, report_on
from trainer.reporting.markdown import with_interval
from trainer.reporting.markdown_report import LEAK_MARK, as_markdown


def sections(text):
    return [line[3:] for line in text.splitlines() if line.startswith("## ")]


def arguments(dataset="phantom", **flags):
    return parse(["report", f"--dataset={dataset}", *(f"--{name}={value}" for name, value in flags.items())])


@pytest.fixture
def families(runs):
    make_families(runs, seeds=range(5))
    return runs


def test_the_command_answers_in_text_json_and_markdown(families, capsys, tmp_path):
    argv = ["report", "--dataset", "phantom", "--size", "50"]
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert main([*argv, "--json"]) == 0
    content = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert as_markdown(content) == text
    assert main([*argv, "--write", str(tmp_path / "report.md")]) == 0
    assert (tmp_path / "report.md").read_text() == text
    assert sections(text) == [
        "Families", "Comparisons", "Operating points", "Calibration", "Conformal prediction sets",
        "Selective prediction", "Learning curves",
    ]  # fmt: skip
    assert "`python -m trainer report --dataset phantom --size 50` wrote this" in text
    assert "synthetic" in text
    assert text.count("different: imagenet-efficientnet-lite0 frozen is better") >= 1
    assert "p of equivalence | power | verdict" in text
    assert "| AUROC | seeds | mean | test patients | seeds vary | both vary |" in text


def test_figures_are_those_of_the_stored_predictions(families):
    store = open_store()
    content = report_on(store, arguments(size=50))
    runs = [Run(f, m) for f, m in store.runs.items() if m.train_size == 50 and m.model == WEAK[0]]
    found = content["families"][0]["metrics"]["auroc"]
    expected = estimate(runs)["auroc"]
    assert (found["patients"]["value"], found["patients"]["low"]) == (expected.value, expected.low)
    assert found["both"]["low"] < min(found["patients"]["low"], found["seeds"]["low"])
    assert found["seeds"]["mean"] == pytest.approx(np.mean([meta.metrics["auroc"] for _, meta in runs]), abs=1e-6)
    assert content["about"]["images"] == 120
    assert content["about"]["groups"] == 60
    one = content["comparisons"][0]
    assert one["metrics"].keys() == content["families"][0]["metrics"].keys()
    assert [seed["delong"]["effect"] for seed in one["by_seed"]] == pytest.approx(one["metrics"]["auroc"]["by_seed"])
    assert all(seed["delong_holm"] >= seed["delong"]["p"] for seed in one["by_seed"])
    curve = content["curves"]["series"][0]
    assert [point["size"] for point in curve["points"]] == [10, 25, 50, 100]
    assert content["curves"]["pairs"][0]["behind"]["model"] == WEAK[0]
    assert content["curves"]["pairs"][0]["multiplier"]["value"] > 1


def test_without_a_size_the_one_that_most_series_have_is_taken(families):
    make_run(families, STRONG, 200, 0, 3.0)
    assert report_on(open_store(), arguments())["about"]["size"] == 100


def test_the_command_of_a_report_makes_it_again(families):
    flags = f"--size=50 --models={WEAK[0]} --strategies=scratch --metric=brier --reach=0.2 --level=0.8 --rule=cost"
    flags += " --ratio=5.0 --prevalence=0.3 --sensitivity=0.9"
    first = report_on(open_store(), parse(f"report --dataset=phantom {flags}".split()))
    command = first["about"]["command"]
    assert all(flag in command.split() for flag in flags.replace("=", " ").split())
    assert report_on(open_store(), parse(command.split()[3:])) == first
    assert report_on(open_store(), arguments())["about"]["command"] == "python -m trainer report --dataset phantom"
    spaced = _command(parse(["report", "--dataset", "phantom", "--target", "Viral Pneumonia"]))
    assert parse(shlex.split(spaced)[3:]).target == "Viral Pneumonia"


def test_the_command_of_a_report_keeps_lists_and_all_images(runs):
    for kind, seed in product((WEAK, STRONG), (0, 1)):
        make_run(runs, kind, 50, seed, 2.0, task="multiclass", dataset="kermany-3", train_size=None)
    flags = f"--size=full --models={WEAK[0]},{STRONG[0]} --suspicious=b,c --target=b"
    first = report_on(open_store(), parse(f"report --dataset=kermany-3 {flags}".split()))
    command = first["about"]["command"]
    assert all(flag in command.split() for flag in flags.replace("=", " ").split())
    assert report_on(open_store(), parse(command.split()[3:])) == first


def test_variants_and_leaks_are_kept_apart_and_marked(families):
    make_run(families, WEAK, 50, 0, 9.0, variant="augment=none")
    make_run(families, WEAK, 50, 0, 9.0, leaks=7, split_hash="leaking", run="leaking")
    content = report_on(open_store(), arguments(size=50))
    assert [one["seeds"] for one in content["families"]] == [[0, 1, 2, 3, 4]] * 2
    assert [(one["variant"], one["leaks"]) for one in content["apart"]] == [("", 7), ("augment=none", 0)]
    text = as_markdown(content)
    assert f"{LEAK_MARK}: 7 images" in text
    assert sections(text)[-1] == "Excluded from comparisons"
    assert "1 runs of other images or another split are excluded." in text


def test_leaking_runs_alone_are_shown_and_never_compared(runs):
    for seed in (0, 1):
        make_run(runs, WEAK, 50, seed, 3.0, leaks=7)
        make_run(runs, STRONG, 50, seed, 3.0, leaks=7)
    text = as_markdown(report_on(open_store(), arguments()))
    assert text.count(LEAK_MARK) == 4
    assert sections(text) == ["Excluded from comparisons"]


def test_the_split_with_most_runs_of_the_comparison_proper_is_reported(families):
    for seed in range(30):
        make_run(families, WEAK, 50, seed, 1.0, leaks=1, split_hash="other", run=f"leaking{seed}")
    assert report_on(open_store(), arguments())["about"]["split_hash"] == "p"


def test_what_cannot_be_paired_is_named_and_the_rest_compared(families):
    make_run(families, ("control-random-frozen", "frozen"), 50, 9, 1.0)
    content = report_on(open_store(), arguments(size=50))
    refused = [one for one in content["comparisons"] if one["refused"]]
    assert len(refused) == 2
    assert len(content["comparisons"]) == 3
    assert "no run of the same size and seed" in as_markdown(content)


def test_too_few_calibration_patients_are_refused_in_words(families):
    text = as_markdown(report_on(open_store(), arguments(size=10, level=0.95)))
    assert "need at least 19 calibration patients of every class, but No has" in text


def test_several_classes(runs):
    make_families(runs, sizes=(25, 50, 100), task="multiclass", dataset="kermany-3")
    store = open_store()
    plain = report_on(store, arguments("kermany-3", size=50))
    text = as_markdown(plain)
    assert "Class by class" in sections(text)
    assert "name one with `--target`" in text
    row = plain["by_class"][0]
    assert row["macro_f1"] == pytest.approx(np.mean([one["value"] for one in row["classes"]["f1"]]))
    chosen = report_on(store, arguments("kermany-3", size=50, target="b", suspicious="b,c"))
    assert chosen["operating"]["series"][0]["sensitivity"]["value"] > 0.5
    assert len(chosen["two_stage"]["pairs"]) == 4
    assert chosen["two_stage"]["single"]["model"] == STRONG[0]
    text = as_markdown(chosen)
    assert "only b against the rest is evaluated" in text
    assert "| not b | b |" in text
    assert "Two stages" in sections(text)
    assert "There is no verdict. Below 5 common seeds there is no verdict." in text
    assert {pair["gain"]["verdict"] for pair in chosen["two_stage"]["pairs"]} == {"no verdict"}


def test_a_class_against_the_rest_has_the_same_figures_in_every_section(runs):
    make_families(runs, sizes=(10, 25, 50), task="multiclass", dataset="kermany-3")
    store = open_store()
    content = report_on(store, arguments("kermany-3", size=50, target="b", rule="balanced"))
    series = runs_by_series(store, [meta for meta in store.metas() if meta.train_size == 50])
    for key, family in zip(series, content["families"], strict=True):
        judged = [comparison.load_part(run) for run in series[key]]
        theirs = [roc_auc_score(one.scores.labels == 1, one.scores.probabilities[:, 1]) for one in judged]
        assert family["metrics"]["auroc"]["value"] == pytest.approx(np.mean(theirs))
    for family, point in zip(content["families"], content["operating"]["series"], strict=True):
        for name in ("sensitivity", "specificity"):  # the point of every stored run, fitted on held-out images
            assert family["metrics"][name]["value"] == pytest.approx(point[name]["value"])
    (pair,) = content["comparisons"]
    means = [family["metrics"]["auroc"]["value"] for family in content["families"]]
    assert pair["metrics"]["auroc"]["effect"] == pytest.approx(means[0] - means[1])
    assert all(seed["delong"] and seed["mcnemar"] for seed in pair["by_seed"])
    assert [len(row["first_seed"]) for row in content["calibration"]] == [10, 10]
    assert [len(row["coverage"]) for row in content["conformal"]["series"]] == [2, 2]
    assert len(content["selective"]) == len(content["curves"]["series"]) == 2
    whole = report_on(store, arguments("kermany-3", size=50))
    assert whole["families"][0]["metrics"]["auroc"] != content["families"][0]["metrics"]["auroc"]


def test_binary_runs_of_the_same_set_may_screen(runs):
    make_families(runs, sizes=(50,), task="multiclass", dataset="kermany-3")
    make_families(runs, sizes=(50,), dataset="kermany")
    pairs = report_on(open_store(), arguments("kermany-3", suspicious="b,c"))["two_stage"]["pairs"]
    assert len(pairs) == 8
    ours = [one for one in pairs if one["screen"]["dataset"] == "kermany"]
    assert len(ours) == 4
    assert all("contradict" in one["refused"] for one in ours)  # these were made up with other labels


def test_findings_are_evaluated_one_at_a_time_or_as_their_mean(runs):
    make_families(runs, sizes=(25, 50), task="multilabel")
    whole = report_on(open_store(), arguments(size=50))
    assert whole["operating"] is None
    assert whole["calibration"] == []
    assert [one["refused"][:40] for one in whole["conformal"]["series"]] == [
        "Conformal sets need one class per image;"
    ] * 2
    one = report_on(open_store(), arguments(size=50, target="y"))
    assert one["about"]["images"] < whole["about"]["images"] == 120
    assert one["operating"]["series"][0]["refused"] == ""
    assert "only y is evaluated" in as_markdown(one)
    assert "y against the rest. Thresholds" in as_markdown(one)
    assert "| absent | present |" in as_markdown(one)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--dataset", "nothing"], "No such run of nothing"),
        (["--dataset", "phantom", "--models", "scratch-densenet121"], "No such run of phantom"),
        (["--dataset", "phantom", "--size", "77"], "No run of phantom with 77"),
        (["--dataset", "phantom", "--size", "10,25"], "one size"),
        (["--dataset", "phantom", "--target", "Yes"], "no class or finding 'Yes' to evaluate"),
        (["--dataset", "phantom", "--metric", "aurok"], "Did you mean 'auroc'"),
        (["--dataset", "phantom", "--prevalence", "0"], "between 0 and 1"),
        (["--dataset", "phantom", "--level", "1.5"], "between 0 and 1"),
        (["--dataset", "phantom", "--suspicious", "Yes"], "its task is binary"),
    ],
)
def test_bad_requests_get_one_error_message(runs, capsys, argv, said):
    make_families(runs, sizes=(10,), seeds=(0, 1))
    assert main(["report", *argv]) == 2
    assert said in capsys.readouterr().err


def test_undefined_numbers_are_dashes():
    assert with_interval({"value": 0.5, "low": None, "high": 0.6}) == "0.500 (– to 0.600)"


def test_one_seed_and_one_series_are_enough(runs):
    folder = make_run(runs, WEAK, 50, 0, 2.0)
    text = as_markdown(report_on(open_store(), arguments()))
    assert "## Comparisons" not in text
    assert "Fewer than three sizes" in text
    assert read_run(Path(folder)).metrics


def test_curves_that_meet_at_one_size_only_are_not_compared(runs):
    for size in (2, 5, 10):
        make_run(runs, WEAK, size, 0, 1.0)
    for size in (10, 25, 50):
        make_run(runs, STRONG, size, 0, 2.0)
    found = report_on(open_store(runs), arguments(size=10))["curves"]
    assert len(found["series"]) == 2
    assert found["pairs"] == []
