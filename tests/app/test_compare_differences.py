"""Differences on the Compare page: in words, corrected as in the report, refused where runs cannot be paired."""

import json

import numpy as np

from core.analysis import comparison
from core.metrics import METRICS
from core.metrics.comparisons import format_p
from core.runs import open_store
from core.runs.series import runs_by_series
from core.ui import charts
from tests.app.test_compare_page import show
from tests.app.test_pages import open_page, texts
from tests.synthetic_runs import STRONG, WEAK, make_run, predictions


def store_of(folder, seeds, families):
    """Store runs of families of known strength, one run per seed."""
    for seed in range(seeds):
        for kind, strength in families.items():
            make_run(folder, kind, 20, seed, strength)
    return folder


def test_differences_are_sentences_that_begin_with_the_verdict(tmp_path, monkeypatch):
    app = show(open_page("compare", store_of(tmp_path, 5, {WEAK: 0.5, STRONG: 3.0}), monkeypatch), "Differences")
    said = texts(app).replace("\\", "")
    assert "is better than A · Small CNN" in said
    assert said.index("95% interval over seeds and test patients +") < said.index("; p < 0.001")
    assert "place the difference within 0.01" in said
    every, tests = app.dataframe[1].value, app.dataframe[2].value
    auroc = every[every["Metric"] == "AUROC"].iloc[0]
    assert auroc["Verdict"].startswith("different: B · ")
    assert auroc["Verdict"].endswith(" is better")
    assert (auroc["p, Holm"], auroc["Seeds"]) == ("< 0.001", 5)
    assert set(tests["Seed"]) == {0, 1, 2, 3, 4}
    assert {"p, DeLong", "p, McNemar exact"} <= set(tests.columns)
    app.selectbox(key="compare_reference_phantom").select_index(1).run()
    said = texts(app).replace("\\", "")
    assert "is better than A · Small CNN" in said
    assert "95% interval over seeds and test patients -" in said


def test_below_five_seeds_there_is_no_verdict_however_large_the_difference(made_runs, monkeypatch):
    app = show(open_page("compare", made_runs, monkeypatch), "Differences")
    said = texts(app).replace("\\", "")
    assert "AUROC: no verdict: 3 seeds, at least 5 needed." in said
    assert "is better than" not in said
    rows = app.dataframe[1].value
    assert set(rows["Verdict"]) == {"no verdict: 3 seeds, at least 5 needed"}
    assert set(rows["p, Holm"]) == set(rows["p of equivalence, Holm"]) == {"–"}


def test_verdicts_equal_those_of_the_report_for_any_reference(tmp_path, monkeypatch):
    third = ("medical-efficientnet-lite0", "frozen")
    store_of(tmp_path, 5, {WEAK: 1.0, STRONG: 1.8, third: 1.3})
    store = open_store(tmp_path)
    series = runs_by_series(store, store.metas())
    reported = {
        frozenset((charts.series_title(*pair[0]), charts.series_title(*pair[1]))): format_p(metrics["auroc"].holm)
        for pair, metrics in comparison.compare_all(series).items()
    }
    app = show(open_page("compare", tmp_path, monkeypatch), "Differences")
    effects = {}
    for number in range(3):
        app.selectbox(key="compare_reference_phantom").select_index(number).run()
        assert not app.exception
        assert "over all 3 pairs" in texts(app)
        reference = app.selectbox(key="compare_reference_phantom").options[number]
        rows = app.dataframe[1].value
        for row in rows[rows["Metric"] == METRICS["auroc"].title].to_dict("records"):
            assert row["p, Holm"] == reported[frozenset((row["Series"], reference))]
            effects[row["Series"], reference] = float(row["Difference"].split()[0])
    assert len(effects) == 6
    for (name, reference), effect in effects.items():
        assert effect == -effects[reference, name]


def test_equal_families_are_equivalent_or_undecided(tmp_path, monkeypatch):
    """The same predictions under two names are within any margin; different ones of the same strength may not be."""
    third = ("medical-efficientnet-lite0", "frozen")
    for seed in range(5):
        random = np.random.default_rng(seed)
        same = predictions("test", "binary", 120, 1.0, random)
        for kind in (WEAK, STRONG):
            make_run(tmp_path, kind, 20, seed, 1.0, test=same)
        make_run(tmp_path, third, 20, seed, 1.0)
    app = show(open_page("compare", tmp_path, monkeypatch), "Differences")
    said = texts(app).replace("\\", "")
    assert "are equivalent within 0.01: " in said
    assert "AUROC: undecided between " in said
    assert "is better than" not in said


def test_runs_of_other_subsets_are_refused_by_name(tmp_path, monkeypatch):
    make_run(tmp_path, WEAK, 20, 0, 1.0)
    folder = make_run(tmp_path, STRONG, 20, 0, 1.0)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "subset_hash": "another"}))
    app = show(open_page("compare", tmp_path, monkeypatch), "Differences")
    assert "subset hashes differ" in texts(app)
