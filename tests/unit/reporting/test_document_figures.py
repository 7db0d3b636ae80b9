"""Figures of documents: what is drawn, and when the file is written again."""

import shutil
from xml.etree import ElementTree

import pytest

from core.analysis.contest import ENCODERS, NAMED, SMALL_SCRATCH
from core.errors import BadRequest
from core.runs import open_store
from tests.synthetic_runs import make_run
from trainer.reporting.document_figures import write_curves
from trainer.reporting.document_tables import with_tables


def test_a_figure_says_in_words_what_it_draws_and_is_drawn_again_only_for_other_values(runs, tmp_path):
    for series in (NAMED["A"], NAMED["B"], NAMED["C"], SMALL_SCRATCH):
        for size in (10, 50):
            for seed in (0, 1):
                make_run(runs, series[:2], size, seed, 2.0 + size / 50)
    shown = write_curves(open_store(runs), "phantom", [10, 50, None], tmp_path)
    metas = open_store(runs).metas("phantom")
    mean = sum(m.metrics["auroc"] for m in metas if m.model == NAMED["B"].model and m.train_size == 50) / 2
    assert "; B 0." in shown
    assert "; A, 64 pixels 0." in shown
    assert f"{mean:.3f} at 50" in shown
    assert shown.endswith("](figures/phantom.svg)\n")
    path = tmp_path / "figures" / "phantom.svg"
    drawn = path.read_bytes()
    ElementTree.fromstring(drawn)
    path.write_bytes(drawn + b"<!-- another version of the library -->")
    text = "<!-- curves: phantom at 10,50,full -->\n<!-- end of results -->\n"
    assert shown in with_tables(text, open_store(runs), tmp_path)
    assert path.read_bytes() != drawn
    make_run(runs, NAMED["B"][:2], 50, 2, 1.0)
    assert write_curves(open_store(runs), "phantom", [10, 50], tmp_path) != shown
    assert b"another version" not in path.read_bytes()


def test_a_panel_shows_an_encoder_and_goes_with_its_runs(runs, tmp_path):
    for series in (NAMED["A"], *(ENCODERS[title][0] for title in ENCODERS)):
        for size in (10, 50):
            make_run(runs, series[:2], size, 0, 2.0)
    first, second = ENCODERS
    shown = write_curves(open_store(runs), "phantom", [10, 50], tmp_path)
    assert f"{first}: A" in shown
    assert f"{second}: A" in shown
    for run in (runs / "phantom").glob(f"{ENCODERS[second][0].model}-*"):
        shutil.rmtree(run)
    shown = write_curves(open_store(runs), "phantom", [10, 50], tmp_path)
    assert f"{first}: A" in shown
    assert second not in shown
    assert second not in (tmp_path / "figures" / "phantom.svg").read_text()


def test_one_size_is_no_curve(runs, tmp_path):
    make_run(runs, NAMED["B"][:2], 10, 0, 2.0)
    with pytest.raises(BadRequest, match="at two of these sizes"):
        write_curves(open_store(runs), "phantom", [10, 50], tmp_path)
