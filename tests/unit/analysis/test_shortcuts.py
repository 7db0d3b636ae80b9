"""Shortcuts: what blanking leaves, planted ones detected, and wording that claims no more than was measured."""

import json

import numpy as np
import pytest
from PIL import Image

from core.analysis.precomputed_results import store_results
from core.analysis.shortcuts import shortcuts_of, warning_of
from core.data.preprocessing import preparation
from core.errors import BadRequest
from core.runs import metric_cache, open_store
from core.runs.series import estimate, runs_by_series
from tests.synthetic_runs import STRONG, WEAK, make_run
from trainer.cli import main, parse
from trainer.commands.report import report_on
from trainer.reporting.document_tables import with_tables
from trainer.reporting.markdown_report import as_markdown


def test_blanking_leaves_border_or_corners_and_nothing_of_the_rest():
    gray = Image.fromarray(np.full((64, 64, 3), (90, 200, 30), np.uint8))
    border, corners = (preparation(name).image(gray, 64, 3) for name in ("border-only", "corner-only"))
    expected = np.ones((64, 64), bool)
    expected[4:60, 4:60] = False
    assert ((border > 0) == expected).all()  # in every color
    expected = np.zeros((64, 64), bool)
    for rows in (slice(0, 8), slice(56, 64)):
        expected[rows, :8] = expected[rows, 56:] = True
    assert ((corners > 0) == expected).all()


@pytest.mark.parametrize("name", ["border-only", "corner-only", "border-only+clahe", "corner-only+brightness-contrast"])
def test_what_is_blanked_leaves_no_trace(name):
    """Two pictures that differ only inside look the same, whatever step comes after."""
    random = np.random.default_rng(0)
    first = random.integers(0, 256, (64, 64), dtype=np.uint8)
    second = first.copy()
    second[8:56, 8:56] = random.integers(0, 256, (48, 48))
    one, other = (preparation(name).image(Image.fromarray(picture), 64, 1) for picture in (first, second))
    assert (one == other).all()
    assert one.any()


def blanked(store, kind, seed, strength, step, **fields):
    return make_run(store, kind, 20, seed, strength, preparation=step, variant=f"preparation {step}", **fields)


def test_a_planted_shortcut_is_reported_and_none_is_never_called_absent(runs):
    for seed in range(3):
        make_run(runs, STRONG, 20, seed, 3.0)
        blanked(runs, STRONG, seed, 2.0, "border-only")
        blanked(runs, STRONG, seed, 0.0, "corner-only")
        make_run(runs, WEAK, 20, seed, 3.0, variant="loss focal")
    store = open_store(runs)
    border, corners = shortcuts_of(store, "phantom")
    series = runs_by_series(store, store.metas())
    mine = next(runs for runs in series.values() if runs[0][1].preparation == "border-only")
    assert border.alone == estimate(mine, ["auroc"])["auroc"]
    assert border.whole.value > border.alone.value > 0.7
    assert border.detected
    assert not corners.detected
    assert "the border tells the classes apart without the disease" in border.sentence
    assert f"AUROC of {border.alone.value:.3f} ({border.alone.low:.3f} to" in border.sentence
    assert "not detectably better than chance: no shortcut was found there." in corners.sentence
    warning = warning_of([border, corners])
    assert f"reaches from the border alone an AUROC of {border.alone.value:.3f} ({border.alone.low:.3f} to" in warning
    assert warning.startswith("Borders alone ")
    assert "may recognize the hospital, not the disease" in warning
    assert "corners" not in warning.lower()
    assert warning_of([corners]) == ""
    assert warning_of([]) == ""
    content = report_on(store, parse(["report", "--dataset=phantom", "--size=20"]))
    text = as_markdown(content)
    assert "## Shortcuts" in text
    assert border.sentence in text
    assert corners.sentence in text
    assert len(content["families"]) == 1  # they enter no comparison
    place = "<!-- shortcuts: phantom at {} -->\n<!-- end of results -->\n"
    assert with_tables(place.format(20), store, runs).splitlines()[1:3] == [
        f"- {border.sentence}",
        f"- {corners.sentence}",
    ]
    with pytest.raises(BadRequest, match="there are no stored runs for it"):
        with_tables(place.format(50), store, runs)
    assert shortcuts_of(store, "kermany") == []


def test_stored_results_make_the_tests_cheap(runs, monkeypatch, tmp_path):
    for seed in range(4):
        make_run(runs, STRONG, 20, seed, 3.0)
    for seed in range(2):
        blanked(runs, STRONG, seed, 2.0, "border-only")
    found = shortcuts_of(open_store(runs), "phantom")
    assert found[0].whole is not None
    store_results(open_store(runs), "phantom", lambda done, total: None)
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "empty"))

    def refuse(predictions):
        raise AssertionError("resampled test images were measured")

    monkeypatch.setattr(metric_cache, "_measure", refuse)
    assert shortcuts_of(open_store(runs), "phantom") == found


def test_runs_with_leaks_or_of_another_split_do_not_count(runs):
    blanked(runs, STRONG, 0, 2.0, "border-only", leaks=3)
    blanked(runs, STRONG, 1, 2.0, "border-only", split_hash="0" * 64)
    store = open_store(runs)
    (only,) = shortcuts_of(store, "phantom")
    assert only.seeds == (1,)
    assert only.whole is None
    assert "from whole images" not in only.sentence
    assert shortcuts_of(store, "phantom", "1" * 64) == []


def test_the_command_finds_a_mark_in_the_corner_of_any_images(tmp_path, runs, capsys):
    random = np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 24)):
        for label in ("normal", "ill"):
            (tmp_path / "set" / part / label).mkdir(parents=True)
            for number in range(count):
                picture = random.integers(60, 120, (48, 48), dtype=np.uint8)
                if label == "ill":
                    picture[:6, :6] = 250
                Image.fromarray(picture).save(tmp_path / "set" / part / label / f"{part}{number}.png")
    argv = ["shortcuts", "--folder", str(tmp_path / "set"), "--size", "10", "--seeds", "0", "--device", "cpu"]
    assert main(argv) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "From the corners of the image alone" in said[1]
    assert "without the disease" in said[1]
    assert main([*argv, "--json"]) == 1  # from the store
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["words"] for row in rows if "words" in row] == said
    assert main([*argv, "--size", "5,10"]) == 2
