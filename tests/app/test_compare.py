"""Sections of the Compare page: several families, several classes, several findings; what a slider computes."""

import json
from dataclasses import replace

import pytest

from core import draws, evidence
from core.checkpoints import open_store
from core.metrics import METRICS, conformal, group_draws, intervals
from core.metrics.comparisons import said_p
from core.results import runs_by_series
from core.ui import charts
from tests.app.test_pages import open_page, texts
from tests.made import STRONG, WEAK, make_run

SECTIONS = [
    "Metrics", "Differences", "Operating point", "Confusion", "Conformal sets", "Two stages", "Training",
]  # fmt: skip


def show(app, section):
    app.segmented_control(key="compare_section").set_value(section).run()
    assert not app.exception, section
    return app


@pytest.fixture(scope="module")
def made_runs(tmp_path_factory):
    """Binary runs of two families, of known strength."""
    store = tmp_path_factory.mktemp("made") / "runs"
    for seed in range(3):
        for kind, strength in ((WEAK, 0.5), (STRONG, 3.0)):
            make_run(store, kind, 20, seed, strength)
    return store


@pytest.fixture(scope="module")
def class_runs(tmp_path_factory):
    """Runs of three classes of two families."""
    store = tmp_path_factory.mktemp("classes") / "runs"
    for seed in range(2):
        for kind, strength in ((WEAK, 1.0), (STRONG, 3.0)):
            make_run(store, kind, 20, seed, strength, task="multiclass")
    return store


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("kind", ["phantom_runs", "made_runs", "class_runs", "findings_runs"])
def test_every_section_of_every_kind_of_task(section, kind, request, monkeypatch):
    app = show(open_page("compare", request.getfixturevalue(kind), monkeypatch), section)
    if kind != "findings_runs":
        return
    if section in ("Operating point", "Confusion", "Conformal sets"):
        assert "Choose a finding above" in texts(app)
    app.selectbox(key="compare_finding_phantom-multilabel").set_value(1).run()
    assert not app.exception
    assert "Choose a finding above" not in texts(app)


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


def test_one_class_is_judged_against_the_rest_in_every_section(class_runs, monkeypatch):
    app = open_page("compare", class_runs, monkeypatch)
    whole = app.dataframe[0].value
    app.selectbox(key="compare_finding_phantom").set_value(1).run()
    assert not app.exception
    assert (app.dataframe[0].value["AUROC"] != whole["AUROC"]).all()
    for section in SECTIONS:
        show(app, section)
        assert not app.exception
        if section == "Operating point":
            assert "b against the rest" in texts(app)
            assert all(one.key != "compare_class_phantom" for one in app.selectbox)
        if section == "Conformal sets":
            assert {"not b", "b"} <= set(app.dataframe[0].value.columns)


def test_equal_families_are_called_so(tmp_path, monkeypatch):
    for seed in range(3):
        for kind in (WEAK, STRONG):
            make_run(tmp_path, kind, 20, seed, 1.0)
    app = show(open_page("compare", tmp_path, monkeypatch), "Differences")
    assert "no detectable difference between" in texts(app)


def test_one_family_alone_has_nothing_to_be_compared_with(tmp_path, monkeypatch):
    make_run(tmp_path, STRONG, 20, 0, 2.0)
    app = show(open_page("compare", tmp_path, monkeypatch), "Differences")
    assert "at least two series" in texts(app)
    for section in SECTIONS:
        show(app, section)


def test_runs_of_other_subsets_are_refused_by_name(tmp_path, monkeypatch):
    make_run(tmp_path, WEAK, 20, 0, 1.0)
    folder = make_run(tmp_path, STRONG, 20, 0, 1.0)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "subset_hash": "another"}))
    app = show(open_page("compare", tmp_path, monkeypatch), "Differences")
    assert "subset hashes differ" in texts(app)


def test_sliders_move_everything_and_draw_nothing_anew(made_runs, monkeypatch):
    app = show(open_page("compare", made_runs, monkeypatch), "Operating point")
    drawn = []
    for module in (draws, intervals, group_draws, conformal):
        monkeypatch.setattr(module, "draw_weights", lambda *given, **named: drawn.append(given))
    monkeypatch.setattr(draws, "_measured", lambda *given: drawn.append(given))
    before = app.dataframe[0].value
    app.slider(key="compare_shift").set_value(0.2).run()
    assert not app.exception
    shifted = app.dataframe[0].value
    assert (shifted["Sensitivity"] != before["Sensitivity"]).all()
    assert "More missed" in shifted.columns
    app.select_slider(key="compare_prevalence").set_value(0.5).run()
    assert not app.exception
    assert (app.dataframe[0].value["PPV"] != shifted["PPV"]).all()
    assert (app.dataframe[0].value["Sensitivity"] == shifted["Sensitivity"]).all()
    app.segmented_control(key="compare_rule").set_value("youden").run()
    assert not app.exception
    assert drawn == []


def nothing_held_out(held_out, test):
    fields = ("ids", "groups", "labels", "logits")
    return replace(held_out, **{name: getattr(held_out, name)[:0] for name in fields}), test


@pytest.mark.parametrize("section", ["Operating point", "Confusion"])
def test_a_series_with_nothing_held_out_is_named_and_the_others_are_shown(section, tmp_path, monkeypatch):
    make_run(tmp_path, STRONG, 20, 0, 3.0)
    make_run(tmp_path, WEAK, 20, 0, 1.0, change=nothing_held_out)
    app = show(open_page("compare", tmp_path, monkeypatch), section)
    (error,) = (element.value for element in app.error)
    assert charts.series_title(*WEAK, "") in error.replace("\\", "")
    if section == "Operating point":
        assert app.dataframe[0].value["Series"].tolist() == [charts.series_title(*STRONG, "")]
    else:
        assert len(app.get("plotly_chart")) == 1


def test_a_series_that_lacks_the_chosen_seed_is_named(tmp_path, monkeypatch):
    for kind, seeds in ((WEAK, (0,)), (STRONG, (0, 1))):
        for seed in seeds:
            make_run(tmp_path, kind, 20, seed, 2.0)
    app = show(open_page("compare", tmp_path, monkeypatch), "Operating point")
    assert "another seed" not in texts(app)
    app.segmented_control(key="compare_seed").set_value(1).run()
    assert not app.exception
    assert f"another seed of: {charts.series_title(*WEAK, '')}. No run with seed 1." in texts(app).replace("\\", "")


def test_all_images_are_asked_for_by_their_name(tmp_path, monkeypatch):
    for seed in range(2):
        make_run(tmp_path, STRONG, 20, seed, 2.0, dataset="kermany")
    for path in tmp_path.glob("*/*/run.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "train_size": None}))
    app = show(open_page("compare", tmp_path, monkeypatch), "Two stages")
    assert "--sizes full --seeds 0,1" in texts(app)


def test_a_cautious_aim_says_what_the_held_out_images_cannot_support(tmp_path, monkeypatch):
    make_run(tmp_path, STRONG, 10, 0, 2.0)
    app = show(open_page("compare", tmp_path, monkeypatch), "Operating point")
    app.segmented_control(key="compare_rule").set_value("sensitivity").run()
    assert not app.exception
    assert "10 held-out positives support an expected sensitivity of at most 90.9%" in texts(app).replace("\\", "")


def test_images_behind_a_cell_with_every_familys_probability_and_heatmap(phantom_runs, monkeypatch):
    app = show(open_page("compare", phantom_runs, monkeypatch), "Confusion")
    for truth in (1, 0):
        app.selectbox(key="compare_truth_phantom_None").set_value(truth).run()
        app.selectbox(key="compare_said_phantom_None").set_value(truth).run()
        if "No test image is in this cell." not in texts(app):
            break
    assert not app.exception
    answers = app.dataframe[0].value
    assert len(answers) == 2
    assert answers[["No opacity", "Opacity"]].sum(axis=1).round(6).eq(1).all()
    images = len(app.get("image"))
    app.toggle[0].set_value(True).run()
    assert not app.exception
    assert len(app.get("image")) > images


def test_images_that_are_not_here_are_said_to_be_missing(made_runs, tmp_path, monkeypatch):
    app = show(open_page("compare", made_runs, monkeypatch), "Confusion")
    assert "not in the folder that is on this machine" in texts(app)


def test_conformal_sets_that_cannot_be_had_say_how_many_patients_they_need(class_runs, monkeypatch):
    app = show(open_page("compare", class_runs, monkeypatch), "Conformal sets")
    assert "needs 9 calibration patients" in texts(app)
    app.segmented_control(key="compare_level").set_value(0.95).run()
    assert not app.exception
    assert "need at least 19 calibration patients" in texts(app).replace("\\", "")


def test_two_stages_are_joined_where_several_classes_are_stored_and_refused_elsewhere(
    class_runs, made_runs, monkeypatch
):
    app = show(open_page("compare", class_runs, monkeypatch), "Two stages")
    assert "Choose at least one suspicious class" in texts(app)
    app.multiselect(key="compare_suspicious_phantom").set_value(["b", "c"]).run()
    assert not app.exception
    assert "Two stages" in app.warning[-1].value or "Two stages" in app.success[-1].value
    assert "joint sensitivity" in app.dataframe[0].value["What"][0]
    app = show(open_page("compare", made_runs, monkeypatch), "Two stages")
    assert "two stages need several" in texts(app)


def test_the_classification_report_agrees_with_scikit_learn(class_runs):
    from sklearn.metrics import classification_report

    from core.evidence import judged
    from core.results import class_report

    folder, meta = next(iter(open_store(class_runs).runs.items()))
    scores = judged((folder, meta)).scores
    rows = {row["class"]: row for row in class_report(scores, meta.labels)}
    theirs = classification_report(scores.labels, scores.decisions, target_names=meta.labels, output_dict=True)
    for name in ("a", "b", "c", "macro avg", "weighted avg"):
        mine = rows[name.replace("avg", "average")]
        for column, other in (("precision", "precision"), ("sensitivity", "recall"), ("f1", "f1-score")):
            assert mine[column] == pytest.approx(theirs[name][other]), (name, column)
        assert mine["images"] == theirs[name]["support"]


def test_choices_survive_a_change_of_page(made_runs, monkeypatch):
    app = show(open_page("compare", made_runs, monkeypatch), "Operating point")
    app.select_slider(key="compare_prevalence").set_value(0.5).run()
    app.switch_page("pages/learning_curves.py").run()
    app.selectbox(key="curves_metric").set_value("brier").run()
    app.switch_page("pages/compare.py").run()
    assert not app.exception
    assert app.segmented_control(key="compare_section").value == "Operating point"
    assert app.select_slider(key="compare_prevalence").value == 0.5
    app.switch_page("pages/learning_curves.py").run()
    assert app.selectbox(key="curves_metric").value == "brier"


def test_a_kept_choice_that_is_no_longer_offered_is_made_anew(made_runs, tmp_path, monkeypatch):
    app = open_page("compare", made_runs, monkeypatch)
    series = app.multiselect(key="compare_series_phantom")
    series.set_value(series.value[:1]).run()
    make_run(tmp_path, STRONG, 10, 7, 2.0)
    monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path))
    app.run()
    assert not app.exception
    assert [title.split(" · ")[0] for title in app.dataframe[0].value["Series"]] == ["B"]


def test_series_that_a_size_lacks_are_there_again_at_the_size_that_has_them(tmp_path, monkeypatch):
    third = ("control-random-frozen", "frozen")
    for kind in (WEAK, STRONG, third):
        make_run(tmp_path, kind, 20, 0, 2.0)
    for kind in (WEAK, STRONG):
        make_run(tmp_path, kind, 10, 0, 2.0)
    app = open_page("compare", tmp_path, monkeypatch)

    def shown(size):
        app.select_slider(key="compare_size_phantom").set_value(size).run()
        assert not app.exception
        return set(app.dataframe[0].value["Series"])

    assert [len(shown(size)) for size in (20, 10, 20)] == [3, 2, 3]
    series = app.multiselect(key="compare_series_phantom")
    kept = [one for one in series.value if (one.model, one.strategy) != WEAK]
    series.set_value(kept).run()
    assert [len(shown(size)) for size in (10, 20)] == [1, 2]
    app.multiselect(key="compare_series_phantom").set_value([]).run()
    assert "Pick at least one series." in texts(app)


def test_runs_made_with_leaks_allowed_are_marked_in_every_section(tmp_path, monkeypatch):
    make_run(tmp_path, WEAK, 20, 0, 1.0, leaks=5)
    make_run(tmp_path, STRONG, 20, 0, 2.0, leaks=5)
    app = open_page("compare", tmp_path, monkeypatch)
    for section in SECTIONS:
        show(app, section)
        assert "leaks allowed" in app.error[0].value
        assert all("⚠ leaks allowed" in title for title in app.multiselect(key="compare_series_phantom").options)
        for table in app.dataframe:
            if "Series" in table.value:
                assert table.value["Series"].str.contains("⚠ leaks allowed").all(), section
