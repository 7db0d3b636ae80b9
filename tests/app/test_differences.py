"""Differences on the Compare page: said in words, corrected as in the report, refused where runs cannot be paired."""

import json

from core import evidence
from core.checkpoints import open_store
from core.metrics import METRICS
from core.metrics.comparisons import said_p
from core.results import runs_by_series
from core.ui import charts
from tests.app.test_compare import show
from tests.app.test_pages import open_page, texts
from tests.made import STRONG, WEAK, make_run


def test_differences_are_said_in_words_effect_first(made_runs, monkeypatch):
    app = show(open_page("compare", made_runs, monkeypatch), "Differences")
    said = texts(app).replace("\\", "")
    assert "is better than A · Small CNN" in said
    assert said.index("95% interval +") < said.index("; p < 0.001")
    tests = app.dataframe[1].value
    assert set(tests["Seed"]) == {0, 1, 2}
    assert {"p, DeLong", "p, McNemar exact"} <= set(tests.columns)
    app.selectbox(key="compare_reference_phantom").select_index(1).run()
    assert "95% interval -" in texts(app).replace("\\", "")


def test_a_verdict_is_that_of_the_report_whichever_the_reference(tmp_path, monkeypatch):
    third = ("control-random-frozen", "frozen")
    for seed in range(3):
        for kind, strength in ((WEAK, 1.0), (STRONG, 1.8), (third, 1.3)):
            make_run(tmp_path, kind, 20, seed, strength)
    store = open_store(tmp_path)
    series = runs_by_series(store, store.metas())
    reported = {
        frozenset((charts.series_title(*pair[0]), charts.series_title(*pair[1]))): said_p(metrics["auroc"].holm)
        for pair, metrics in evidence.compare_all(series).items()
    }
    app = show(open_page("compare", tmp_path, monkeypatch), "Differences")
    effects = {}
    for number in range(3):
        app.selectbox(key="compare_reference_phantom").select_index(number).run()
        assert not app.exception
        assert "over all 3 pairs" in texts(app)
        reference = app.selectbox(key="compare_reference_phantom").options[number]
        rows = app.dataframe[0].value
        for row in rows[rows["Metric"] == METRICS["auroc"].title].to_dict("records"):
            assert row["p, Holm"] == reported[frozenset((row["Series"], reference))]
            effects[row["Series"], reference] = float(row["Difference"].split()[0])
    assert len(effects) == 6
    for (name, reference), effect in effects.items():
        assert effect == -effects[reference, name]


def test_equal_families_are_called_so(tmp_path, monkeypatch):
    for seed in range(3):
        for kind in (WEAK, STRONG):
            make_run(tmp_path, kind, 20, seed, 1.0)
    app = show(open_page("compare", tmp_path, monkeypatch), "Differences")
    assert "no detectable difference between" in texts(app)


def test_runs_of_other_subsets_are_refused_by_name(tmp_path, monkeypatch):
    make_run(tmp_path, WEAK, 20, 0, 1.0)
    folder = make_run(tmp_path, STRONG, 20, 0, 1.0)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "subset_hash": "another"}))
    app = show(open_page("compare", tmp_path, monkeypatch), "Differences")
    assert "subset hashes differ" in texts(app)
