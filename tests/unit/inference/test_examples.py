"""Example images: those that ship, and what is wrong with a folder of them."""

import json

import pytest

from core.data import DATASETS
from core.errors import DataUnavailable
from core.inference.examples import CREDITS, FOLDER, examples_of
from core.paths import MIB

ALLOWED = {"CC BY 4.0", "CC0"}


def test_every_image_that_ships_is_credited_readable_and_small():
    files = {path for path in FOLDER.rglob("*") if path.is_file()}
    credits = {path: json.loads(path.read_text()) for path in files if path.name == CREDITS}
    assert credits
    assert sum(path.stat().st_size for path in files) < 2 * MIB
    for path, row in credits.items():
        assert row["licence"] in ALLOWED
        assert row["licence"] in row["credit"]
        assert row["author"]
        assert row["source"].startswith("https://")
        assert set(row["tasks"]) <= set(DATASETS)
        assert {path.parent / name for name in row["images"]} == {
            file for file in files if file.parent == path.parent and file != path
        }
    for name in ("kermany", "ham10000"):
        for example in examples_of(name):
            assert min(example.upload("x").decode().size) >= 200
            assert example.caption.startswith(f"{example.credit}. Labeled as {example.label}.")


def test_unknown_tasks_have_no_examples():
    assert examples_of("knee-osteoarthritis") == []


@pytest.mark.parametrize("text", ["", "[]", '{"tasks": ["a"]}'])
def test_unreadable_credits_say_what_is_expected(tmp_path, text):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / CREDITS).write_text(text)
    with pytest.raises(DataUnavailable, match=r"mine/credits\.json cannot be read\. Expected tasks"):
        examples_of("a", tmp_path)


def test_a_missing_image_is_named(tmp_path):
    (tmp_path / "mine").mkdir()
    row = dict.fromkeys(("credit", "author", "licence", "source", "note"), "x")
    (tmp_path / "mine" / CREDITS).write_text(json.dumps({**row, "tasks": ["a"], "images": {"b.png": "c"}}))
    with pytest.raises(DataUnavailable, match=r"names b.png, which is missing"):
        examples_of("a", tmp_path)
    assert examples_of("other", tmp_path) == []
