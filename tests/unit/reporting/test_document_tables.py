"""Tables of documents: computed from stored predictions, and up to date."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from core.analysis import contest
from core.analysis.contest import NAMED, Sides
from core.errors import BadRequest
from core.metrics import METRICS
from core.runs import metric_cache, open_store, read_predictions, save_run
from core.runs.series import Series
from tests.synthetic_runs import STRONG, WEAK, make_families, make_run
from tests.unit.analysis.test_external import evaluate
from tests.unit.runs.test_store import example_meta, example_predictions
from trainer.reporting import document_tables
from trainer.reporting.document_tables import (
    TABLES,
    answer_sentences,
    contest_table,
    cost_table,
    every_verdict,
    families_table,
    finding_sentence,
    headline_table,
    size_table,
    variant_table,
    verdict_table,
    with_tables,
    write_tables,
)

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_a_table_is_computed_from_stored_predictions(runs):
    test = example_predictions(40)
    right = replace(test, logits=np.stack([-test.labels, test.labels], axis=1) * 4.0)
    for seed in (0, 1):
        meta = replace(example_meta(f"run{seed}"), seed=seed, metrics=dict.fromkeys(METRICS, 0.123))
        save_run(meta, test, right, [], None, runs)
    table = headline_table(open_store(runs), "phantom", [2])
    assert (
        "| scratch | `scratch-cnn` | scratch | 2 | 1.000<br>test patients 1.000 to 1.000<br>seeds 1.000 to 1.000 |"
        in table
    )
    assert "seeds (Student's t over training subsets; these test images)" in table
    assert "0.123" not in table
    text = "before\n<!-- results: phantom at 2 -->\nold\n<!-- end of results -->\nafter\n"
    filled = with_tables(text, open_store(runs), runs)
    assert "old" not in filled
    assert filled.startswith("before")
    assert with_tables(filled, open_store(runs), runs) == filled


def test_on_all_training_images_seeds_do_not_stand_for_training_subsets(runs):
    for seed in (0, 1):
        make_run(runs, STRONG, 50, seed, 2.0, train_size=None)
    table = size_table(open_store(runs), "phantom", [None])
    assert "Student's t over folds and initial weights, on the same training images" in table


def test_costs_are_those_of_stored_runs(runs):
    test = example_predictions(40)
    for seed, seconds in enumerate((3.0, 36.0, 90.0)):
        meta = replace(example_meta(f"run{seed}"), seed=seed, seconds=seconds)
        save_run(meta, test, test, [], None, runs)
    assert "| `scratch-cnn` | scratch | cpu | 36.0 | 50.0 | 1.6 | 0.4 |" in cost_table(open_store(runs), "phantom", [2])
    with pytest.raises(BadRequest, match="no stored runs"):
        cost_table(open_store(runs), "phantom", [2, 5])


def test_a_table_may_be_of_a_class_against_the_rest(runs):
    make_run(runs, STRONG, 20, 0, 2.0, task="multiclass")
    text = "".join(f"<!-- results: phantom at 20{of} -->\n<!-- end of results -->\n" for of in ("", " of b"))
    whole, one = with_tables(text, open_store(runs), runs).split("<!-- end of results -->")[:2]
    rows = [next(line for line in part.splitlines() if "imagenet" in line) for part in (whole, one)]
    assert rows[0] != rows[1]
    assert "b against the rest." in one
    assert "against the rest" not in whole
    with pytest.raises(BadRequest, match="no class or finding 'z' to evaluate"):
        with_tables(text.replace("of b", "of z"), open_store(runs), runs)


def test_a_table_of_a_finding_counts_the_images_whose_label_is_known(runs):
    folder = make_run(runs, STRONG, 20, 0, 2.0, task="multilabel")
    known = [int((~np.isnan(read_predictions(folder).labels[:, k])).sum()) for k in (0, 1)]
    assert known[0] < 120
    text = headline_table(open_store(runs), "phantom", [20], "x")
    assert f"test patients (the {known[0]} test images resampled by" in text


@pytest.mark.parametrize("kind", [kind for kind in TABLES if kind != "baselines"])  # that one reads logs
def test_no_run_no_table(runs, kind):
    with pytest.raises(BadRequest, match="No table of phantom can be made for 2 per class"):
        TABLES[kind](open_store(runs), "phantom", [2])


def test_a_kind_of_table_that_does_not_exist_is_refused(runs):
    with pytest.raises(BadRequest, match=r"results, families, contest, .*, costs, curves, but got 'result'"):
        with_tables("<!-- result: phantom at 2 -->\n<!-- end of results -->", open_store(runs), runs)


def stored(runs, name, strength, **facts):
    """A run whose logits are the truth, so many times, or chance where that is 0."""
    test = example_predictions(40)
    noise = np.random.default_rng(0).standard_normal((len(test.labels), 2))
    logits = noise + strength * np.stack([-test.labels, test.labels], axis=1)
    meta = replace(example_meta(name), **facts)
    save_run(meta, test, replace(test, logits=logits), [], None, runs)
    return meta


def test_a_table_by_size_holds_the_series_that_have_every_size(runs):
    for size in (2, 5):
        stored(runs, f"plain{size}", 9.0, train_size=size)
    stored(runs, "short", 9.0, train_size=5, variant="lr=1")
    table = size_table(open_store(runs), "phantom", [2, 5])
    assert "| 2 per class | 5 per class |" in table
    cell = "1.000<br>test patients 1.000 to 1.000<br>one seed"
    assert f"| scratch | 1 | {cell} | {cell} |" in table
    assert "lr=1" not in table
    assert "lr=1" in size_table(open_store(runs), "phantom", [5])


def test_the_contest_table_holds_contrasted_series_only_and_marks_what_is_missing(runs):
    control = ("control-random-frozen", "frozen-logistic")
    for size in (10, 50):
        make_run(runs, NAMED["B"][:2], size, 0, 2.0)
        make_run(runs, control, size, 0, 1.0)
    make_run(runs, NAMED["A"][:2], 10, 0, 1.0)
    lines = contest_table(open_store(runs), "phantom", [10, 50]).splitlines()
    rows = [line for line in lines if line.startswith(("| generic", "| scratch", "| control"))]
    assert {row.split(" | ")[1].strip("`") for row in rows} == {NAMED["A"].model, NAMED["B"].model}
    scratch, generic = sorted(rows, reverse=True)
    assert scratch.endswith("| – |")
    assert "–" not in generic


def test_a_variant_is_compared_with_what_it_departs_from(runs):
    plain = stored(runs, "plain", 9.0)
    stored(runs, "other", 0.0, variant="loss=focal")
    table = variant_table(open_store(runs), plain.dataset, [2])
    lines = [line for line in table.splitlines() if line.startswith("| scratch")]
    assert lines[0].endswith("| – | – |")
    change = float(lines[1].split("|")[-3].split()[0])
    auroc = [float(line.split("|")[5].split("<br>")[0]) for line in lines]
    assert lines[1].count("no verdict") == 2
    assert change == pytest.approx(auroc[1] - auroc[0], abs=0.0011)
    assert change < -0.2


def test_contrasts_of_the_protocol_get_verdicts(runs, monkeypatch):
    sizes = {"phantom": (10, 50, 100, 200)}
    monkeypatch.setattr(contest, "PRIMARY", sizes)
    for module in (contest, document_tables):
        monkeypatch.setattr(module, "CONTRASTS", {"B against A": Sides(Series(*STRONG), Series(*WEAK), sizes)})
    with pytest.raises(BadRequest, match="No contrast of the protocol is stored"):
        every_verdict(open_store(runs))
    make_families(runs, sizes=(10, 50), seeds=range(5), families={WEAK: 1.0, STRONG: 4.0}, tests=300)
    make_run(runs, STRONG, 100, 0, 3.0)
    make_run(runs, WEAK, 100, 0, 3.0)
    table = verdict_table(open_store(runs), "phantom", [10, 100])
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| B against A")]
    assert [row[1] for row in rows] == ["10 per class", "100 per class"]
    assert rows[0][-1] == "different: B is better |"
    assert rows[1][4:] == ["–", "–", "no verdict: 1 seed, at least 5 needed |"]
    assert "corrected by Holm over 4 contrasts" in table
    assert "within 0.01" in table
    every = every_verdict(open_store(runs))
    assert every.count("| phantom | B against A | ") == 4
    assert "| phantom | B against A | 200 per class | – | – | – | – | – |" in every
    with pytest.raises(BadRequest, match="is of whole tasks"):
        verdict_table(open_store(runs), "phantom", [10], "Yes")


def test_the_finding_says_how_many_images_each_family_needs(runs):
    make_families(runs, sizes=(10, 50, 200), seeds=range(3), families={WEAK: 1.0, STRONG: 2.0}, tests=200)
    sentence = finding_sentence(open_store(runs), "phantom", [10, 50, 200])
    assert re.fullmatch(
        r".*: labeled images per class needed for AUROC 0\.\d{3}: "
        r".* with ImageNet pretraining .* and .* trained from scratch \(.*\)\. "
        r"Read from curves fitted to the means\. "
        r"The intervals are over training samples and test patients together\.\n",
        sentence,
    )
    with pytest.raises(BadRequest, match="No table"):
        finding_sentence(open_store(runs), "phantom", [10, 50])


def test_families_stand_side_by_side_with_the_plain_loop(runs):
    loop = NAMED["B"]._replace(strategy="plain-loop")
    strengths = {NAMED["A"][:2]: 1.0, loop[:2]: 2.0, NAMED["B"][:2]: 4.0}
    make_families(runs, (10,), range(3), strengths, variant="")
    table = families_table(open_store(runs), "phantom,kermany", [10])
    head, _, row, _, note = table.splitlines()
    assert head == "| data set | A | B | C | plain loop | encoder of B, C and the plain loop |"
    a, b, c, of_loop, encoder = row.strip("| ").split(" | ")[1:]
    assert float(a[:5]) < float(of_loop[:5]) < float(b[:5])
    assert (c, encoder) == ("–", "DINOv2-S")
    assert "10 per class" in note
    with pytest.raises(BadRequest, match="No table of kermany"):
        families_table(open_store(runs), "kermany", [10])


def test_questions_are_answered_by_verdicts_and_by_results_elsewhere(runs, monkeypatch):
    sizes = {"phantom": (10, 100)}
    named = {"A": Series(*WEAK), "B": Series(*STRONG)}
    monkeypatch.setattr(contest, "PRIMARY", sizes)
    monkeypatch.setattr(contest, "CONTRASTS", {"B against A": Sides(named["B"], named["A"], sizes)})
    make_families(runs, (10,), range(5), {WEAK: 1.0, STRONG: 4.0}, tests=200)
    with pytest.raises(BadRequest, match="No table"):
        answer_sentences(open_store(runs), "kermany", [10])
    lines = answer_sentences(open_store(runs), "phantom", [10]).splitlines()
    assert re.fullmatch(
        r"- Does an encoder .*\? Of 2 contrasts, B is better in 1 \(by \S+ AUROC\) and a side is missing in 1\.",
        lines[0],
    )
    for folder, meta in open_store(runs).runs.items():
        if meta.model == STRONG[0]:
            evaluate(folder, 1.0)
    elsewhere = answer_sentences(open_store(runs), "phantom", [10]).splitlines()[-1]
    assert re.search(r"AUROC: \d\.\d{3} on the internal test images, \d\.\d{3} on Adults, a change of", elsewhere)


@pytest.mark.parametrize("steps", ["", ", preparation=unit-range"])
def test_an_ablation_is_compared_with_the_runs_without_an_ingredient(runs, steps):
    stored(runs, "none", 0.0, variant=f"augment=none{steps}")
    stored(runs, "flip", 9.0, variant=f"augment=horizontal-flip{steps}")
    stored(runs, "scaled", 9.0, variant="augment=none, preparation=mean-std")
    lines = [line for line in variant_table(open_store(runs), "phantom", [2]).splitlines() if "augment" in line]
    assert len(lines) == 3
    assert [line.endswith("| – | – |") for line in lines].count(True) == 1
    for line in lines:
        name, change = line.split("|")[3], line.split("|")[-3]
        assert ("–" in change) if f"(augment=none{steps})" in name else float(change.split()[0]) > 0.2


@pytest.mark.parametrize(
    "others",
    [
        ["loss=focal"],
        ["loss=focal", "augment=none"],  # it has the strategy's own augmentation
        ["augment=none, epochs=3", "augment=horizontal-flip"],
        ["augment=none", "augment=none, epochs=3"],
        ["augment=horizontal-flip", "augment=none", "augment=none, preparation=unit-range"],  # either could be meant
        ["augment=none", "augment=horizontal-flip, old recipe"],
    ],
)
def test_variants_without_a_reference_are_compared_with_nothing(runs, others):
    for number, variant in enumerate(others):
        old = variant.endswith("old recipe")
        facts = {"variant": variant.removesuffix(", old recipe"), "protocol": 0 if old else 1}
        stored(runs, f"other{number}", 0.0, **facts)
    with pytest.raises(BadRequest, match="No table"):
        variant_table(open_store(runs), "phantom", [2])


SLOW = re.compile(
    r"<!-- (?:(?:results|contest|sizes|variants|verdicts|shortcuts|external): "
    r"(?:ham10000|covid-radiography|nih-chestxray14)|families: )\S* at [\w,]+ -->\n.*?<!-- end of results -->\n",
    re.DOTALL,
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tables_of_documents_are_up_to_date(document, monkeypatch, tmp_path):
    """`make results` restores a figure that somebody changed by hand, and changes nothing else.

    Resampling several classes or findings takes minutes, so only the means of such tables are checked, below. Fitted
    curves, on which findings rest, are stored beside the runs.
    """
    monkeypatch.delenv("LOWSHOT_RUNS", raising=False)
    copy, written = tmp_path / document.name, SLOW.sub("", document.read_text())
    by_hand = re.sub(r"(\| |AUROC )(0\.9|\d+\.\d \|)", r"\g<1>1\2", written, count=1)
    copy.write_text(by_hand if "<!-- end of results" in written else written)
    changed = copy.read_text() != written
    assert write_tables(copy, open_store()) == changed == ("<!-- end of results" in written)
    assert copy.read_text() == written


@pytest.fixture
def few_resamples(monkeypatch):
    """Test images are resampled a few times only, so that intervals differ but no mean does."""
    few = 20
    monkeypatch.delenv("LOWSHOT_RUNS", raising=False)
    monkeypatch.setattr(metric_cache, "RESAMPLES", few)
    monkeypatch.setattr(metric_cache, "resample_groups", partial(metric_cache.resample_groups, draws=few))
    for cached in (metric_cache._groups, metric_cache._weights):
        cached.cache_clear()
    yield
    for cached in (metric_cache._groups, metric_cache._weights):
        cached.cache_clear()


def figures(text):
    """What each row of a table is about, and every mean, which stands before its intervals."""
    rows = [
        [cell.split("<br>")[0] for cell in line.split(" | ")[:3]] for line in text.splitlines() if line.startswith("| ")
    ]
    return rows, re.findall(r"[+-]?\d\.\d{3}(?= \(|<br>test|\.\s| needs| on )", text)


def test_means_of_several_classes_or_findings_are_up_to_date(few_resamples):
    tables = [block[0] for document in DOCUMENTS for block in SLOW.finditer(document.read_text())]
    assert len(tables) > 3
    store = open_store()
    for written in tables:
        assert figures(with_tables(written, store, ROOT)) == figures(written)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_figure_of_a_result_is_typed_into_prose(document):
    """Figures stand in blocks that `make results` or `make bench` fill; commands in code may hold numbers."""
    text = re.sub(r"<!-- \w+: .*?<!-- end of \w+ -->|```.*?```|`[^`]*`", "", document.read_text(), flags=re.DOTALL)
    assert re.findall(r"(?<![\d.])[01]\.\d{3}(?![\d.])|AUROC of \S*\d", text) == []


def test_the_results_have_tables():
    assert "<!-- results: " in (ROOT / "docs" / "results.md").read_text()
