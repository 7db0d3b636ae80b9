"""The Compare page: every section for every kind of task, and choices that persist."""

import pytest

from core.runs import Run, open_store
from tests.app.test_pages import open_page, texts
from tests.synthetic_runs import STRONG, WEAK, make_run

SECTIONS = [
    "Metrics", "Differences", "External test", "Operating point", "Confusion", "Prediction sets", "Two stages",
    "Training",
]  # fmt: skip


def show(app, section):
    app.segmented_control(key="compare_section").set_value(section).run()
    assert not app.exception, section
    return app


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("kind", ["phantom_runs", "made_runs", "class_runs", "findings_runs"])
def test_every_section_of_every_kind_of_task(section, kind, request, monkeypatch):
    app = show(open_page("compare", request.getfixturevalue(kind), monkeypatch), section)
    assert app.dataframe or app.info or app.get("page_link"), "every section shows something at once"
    if kind != "findings_runs":
        return
    pickers = [element.key for element in app.selectbox]
    one_finding = section in ("Operating point", "Confusion", "Prediction sets")
    assert ("compare_class_phantom-multilabel" in pickers) == one_finding
    app.selectbox(key="compare_finding_phantom-multilabel").set_value(1).run()
    assert not app.exception
    assert "compare_class_phantom-multilabel" not in [element.key for element in app.selectbox]


def test_a_shortcut_is_reported_wherever_the_data_set_is_shown(tmp_path, monkeypatch):
    for seed in range(2):
        make_run(tmp_path, STRONG, 20, seed, 3.0)
        make_run(tmp_path, WEAK, 20, seed, 1.0)
    for page in ("compare", "learning_curves", "models"):
        assert "from the border alone" not in texts(open_page(page, tmp_path, monkeypatch))
    for seed in range(2):
        make_run(tmp_path, STRONG, 20, seed, 2.0, preparation="border-only", variant="preparation border-only")
    for page in ("compare", "learning_curves", "models"):
        app = open_page(page, tmp_path, monkeypatch)
        assert "from the border alone an AUROC of" in texts(app), page
        assert not app.exception


def test_one_class_is_evaluated_against_the_rest_in_every_section(class_runs, monkeypatch):
    app = open_page("compare", class_runs, monkeypatch)
    assert "Every image is assigned to its most likely class." in texts(app)
    whole = app.dataframe[0].value
    app.run()
    assert app.selectbox(key="compare_finding_phantom").value is not None, "that would be shown as no choice"
    app.selectbox(key="compare_finding_phantom").set_value(1).run()
    assert not app.exception
    assert (app.dataframe[0].value["AUROC"] != whole["AUROC"]).all()
    assert "Decisions are made at the operating point fitted inside each training subset." in texts(app)
    for section in SECTIONS:
        show(app, section)
        assert not app.exception
        if section == "Operating point":
            assert "b against the rest" in texts(app)
            assert all(one.key != "compare_class_phantom" for one in app.selectbox)
        if section == "Prediction sets" and app.dataframe:
            assert {"not b", "b"} == set(app.dataframe[0].value["True class"])


def test_a_single_family_has_no_differences(tmp_path, monkeypatch):
    make_run(tmp_path, STRONG, 20, 0, 2.0)
    app = show(open_page("compare", tmp_path, monkeypatch), "Differences")
    assert "at least two series" in texts(app)
    for section in SECTIONS:
        show(app, section)


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


@pytest.mark.usefixtures("frame")
def test_a_choice_that_is_no_longer_available_is_reset(made_runs, tmp_path, monkeypatch):
    app = open_page("compare", made_runs, monkeypatch)
    series = app.multiselect(key="compare_series_phantom")
    series.set_value(series.value[:1]).run()
    make_run(tmp_path, STRONG, 10, 7, 2.0)
    monkeypatch.setenv("LOWSHOT_RUNS", str(tmp_path))
    app.run()
    assert not app.exception
    assert [title.split(" · ")[0] for title in app.dataframe[0].value["Series"]] == ["B"]


def test_series_that_one_size_lacks_reappear_at_another_size(tmp_path, monkeypatch):
    third = ("medical-efficientnet-lite0", "frozen")
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


def test_the_classification_report_agrees_with_scikit_learn(class_runs):
    from sklearn.metrics import classification_report

    from core.analysis.comparison import load_part
    from core.runs.series import class_report

    folder, meta = next(iter(open_store(class_runs).runs.items()))
    scores = load_part(Run(folder, meta)).scores
    rows = {row["class"]: row for row in class_report(scores, meta.labels)}
    theirs = classification_report(scores.labels, scores.decisions, target_names=meta.labels, output_dict=True)
    for name in ("a", "b", "c", "macro avg", "weighted avg"):
        mine = rows[name.replace("avg", "average")]
        for column, other in (("precision", "precision"), ("sensitivity", "recall"), ("f1", "f1-score")):
            assert mine[column] == pytest.approx(theirs[name][other]), (name, column)
        assert mine["images"] == theirs[name]["support"]


def test_the_page_opens_with_one_series_per_family_at_the_largest_common_size(tmp_path, monkeypatch):
    for kind in (WEAK, STRONG, ("imagenet-efficientnet-lite0-stages", "frozen"), ("control-random-frozen", "frozen")):
        make_run(tmp_path, kind, 20, 0, 2.0)
    make_run(tmp_path, STRONG, 50, 0, 2.0)
    app = open_page("compare", tmp_path, monkeypatch)
    assert app.select_slider(key="compare_size_phantom").value == 20
    shown = [(name.model, name.strategy) for name in app.multiselect(key="compare_series_phantom").value]
    assert shown == [WEAK, STRONG]
