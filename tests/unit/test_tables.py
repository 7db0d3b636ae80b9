import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.checkpoints import open_store, save_run
from core.errors import BadRequest
from core.metrics import METRICS
from tests.made import STRONG, make_run
from tests.unit.test_checkpoints import example_meta, example_predictions
from trainer.tables import headline_table, with_tables, write_tables

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_a_table_is_computed_from_stored_predictions(runs):
    test = example_predictions(40)
    right = replace(test, logits=np.stack([-test.labels, test.labels], axis=1) * 4.0)
    for seed in (0, 1):
        meta = replace(example_meta(f"run{seed}"), seed=seed, metrics=dict.fromkeys(METRICS, 0.123))
        save_run(meta, test, right, [], None, runs)
    table = headline_table(open_store(runs), "phantom", 2)
    assert "| scratch | `scratch-cnn` | scratch | 2 | 1.000 (1.000 to 1.000)" in table
    assert "0.123" not in table
    text = "before\n<!-- results: phantom at 2 -->\nold\n<!-- end of results -->\nafter\n"
    filled = with_tables(text, open_store(runs))
    assert "old" not in filled
    assert filled.startswith("before")
    assert with_tables(filled, open_store(runs)) == filled


def test_a_table_may_be_of_a_class_against_the_rest(runs):
    make_run(runs, STRONG, 20, 0, 2.0, task="multiclass")
    text = "".join(f"<!-- results: phantom at 20{of} -->\n<!-- end of results -->\n" for of in ("", " of b"))
    whole, one = with_tables(text, open_store(runs)).split("<!-- end of results -->")[:2]
    rows = [next(line for line in part.splitlines() if "imagenet" in line) for part in (whole, one)]
    assert rows[0] != rows[1]
    assert "b against the rest." in one
    assert "against the rest" not in whole
    with pytest.raises(BadRequest, match="no class or finding 'z' to judge"):
        with_tables(text.replace("of b", "of z"), open_store(runs))


def test_no_run_no_table(runs):
    with pytest.raises(BadRequest, match="No run of phantom"):
        headline_table(open_store(runs), "phantom", 2)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_tables_of_documents_are_up_to_date(document, monkeypatch, tmp_path):
    """`make results` writes them anew; here it must change nothing, and put right what somebody typed in."""
    monkeypatch.delenv("LOWSHOT_RUNS", raising=False)
    store, copy = open_store(), tmp_path / document.name
    copy.write_text(document.read_text())
    assert not write_tables(copy, store)
    if "<!-- results: " in document.read_text():
        copy.write_text(document.read_text().replace("| 0.9", "| 1.9", 1))
        assert write_tables(copy, store)
        assert copy.read_text() == document.read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_figure_of_a_result_is_typed_into_prose(document):
    """Figures stand in blocks that `make results` fills; commands in code may hold numbers."""
    text = re.sub(
        r"<!-- results: .*?<!-- end of results -->|```.*?```|`[^`]*`", "", document.read_text(), flags=re.DOTALL
    )
    assert re.findall(r"(?<![\d.])[01]\.\d{3}(?![\d.])|AUROC of \S*\d", text) == []


def test_the_readme_has_a_table():
    assert "<!-- results: " in (ROOT / "README.md").read_text()
