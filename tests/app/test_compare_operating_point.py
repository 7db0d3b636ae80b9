"""Sections of the Compare page at an operating point: sliders, confusion, conformal sets, two stages."""

import json
import sys
from dataclasses import replace

import pytest

from core.metrics import grouped_bootstrap
from core.runs import metric_cache
from core.ui import charts
from core.ui.compare import confusion
from tests.app.test_compare_page import show
from tests.app.test_pages import open_page, texts
from tests.synthetic_runs import STRONG, WEAK, make_run


def case(app):
    """Return the picker of a case in the displayed cell."""
    return next(box for box in app.selectbox if box.label == "Case")


def test_sliders_update_everything_without_resampling(made_runs, monkeypatch):
    app = show(open_page("compare", made_runs, monkeypatch), "Operating point")
    drawn = []
    bootstrap = sys.modules["core.metrics.bootstrap"]  # the package exports a function of this name
    for module in (bootstrap, grouped_bootstrap):
        monkeypatch.setattr(module, "resample_weights", lambda *given, **named: drawn.append(given))
    monkeypatch.setattr(metric_cache, "_measure", lambda *given: drawn.append(given))
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
def test_a_series_without_held_out_images_is_named_and_the_others_are_shown(section, tmp_path, monkeypatch):
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


def test_all_images_are_selected_by_name(tmp_path, monkeypatch):
    for seed in range(2):
        make_run(tmp_path, STRONG, 20, seed, 2.0, dataset="kermany")
    for path in tmp_path.glob("*/*/run.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "train_size": None}))
    app = show(open_page("compare", tmp_path, monkeypatch), "Two stages")
    assert "for all labeled images per class" in texts(app)
    assert [link.proto.label for link in app.get("page_link")] == ["Train runs"]


def test_a_strict_aim_reports_that_too_few_images_were_held_out(tmp_path, monkeypatch):
    make_run(tmp_path, STRONG, 10, 0, 2.0)
    app = show(open_page("compare", tmp_path, monkeypatch), "Operating point")
    app.segmented_control(key="compare_rule").set_value("sensitivity").run()
    assert not app.exception
    assert "10 held-out positives support an expected sensitivity of at most 90.9%" in texts(app).replace("\\", "")


def test_a_cell_shows_its_images_with_every_familys_probability_and_heatmap(phantom_runs, monkeypatch):
    app = show(open_page("compare", phantom_runs, monkeypatch), "Confusion")
    for truth in (1, 0):
        app.selectbox(key="compare_truth_phantom_None").set_value(truth).run()
        app.selectbox(key="compare_said_phantom_None").set_value(truth).run()
        if "No test image is in this cell." not in texts(app):
            break
    assert not app.exception
    cases, answers = app.dataframe[0].value, app.dataframe[1].value
    assert cases["Case"].tolist() == case(app).options
    assert len(answers) == 2
    assert answers[["No opacity", "Opacity"]].sum(axis=1).round(6).eq(1).all()
    images = len(app.get("image"))
    app.toggle[0].set_value(True).run()
    assert not app.exception
    assert len(app.get("image")) > images


def test_a_case_is_decided_again_at_another_threshold_and_prevalence(phantom_runs, monkeypatch):
    app = show(open_page("compare", phantom_runs, monkeypatch), "Confusion")
    name = case(app).value
    first = app.dataframe[1].value.iloc[0]

    def said():
        (line,) = [e.value for e in app.markdown if "becomes" in e.value]
        return line.replace("\\", "").splitlines()[0]

    assert (
        f"Opacity {first['Opacity']:.1%} becomes {first['Opacity']:.1%}: **{first['Decision']}**, as before" in said()
    )
    app.slider(key=f"what_if_cut_{name}").set_value(0.01).run()
    app.select_slider(key=f"what_if_share_{name}").set_value(0.95).run()
    assert not app.exception
    assert "**Opacity**, instead of No opacity" in said()
    app.slider(key=f"what_if_cut_{name}").set_value(0.99).run()
    app.select_slider(key=f"what_if_share_{name}").set_value(0.001).run()
    assert "**No opacity**, as before" in said()


def test_what_if_is_offered_for_one_class_against_the_rest(class_runs, monkeypatch):
    app = show(open_page("compare", class_runs, monkeypatch), "Confusion")
    assert "Choose a class above" in texts(app)
    assert all(slider.label != "Threshold" for slider in app.slider)
    app.selectbox(key="compare_finding_phantom").set_value(1).run()
    assert not app.exception
    assert "Choose a class above" not in texts(app)
    assert any(slider.label == "Threshold" for slider in app.slider)
    assert any("becomes" in element.value for element in app.markdown)


def test_a_click_on_a_cell_chooses_its_images(phantom_runs, monkeypatch):
    app = show(open_page("compare", phantom_runs, monkeypatch), "Confusion")
    of = "phantom_None"
    keys = [f"compare_cell_{of}", f"compare_truth_{of}", f"compare_said_{of}"]
    name = app.selectbox(key=keys[0]).value
    state = {"matrix": {"selection": {"points": [{"customdata": [1, 1]}]}}}
    monkeypatch.setattr(confusion.st, "session_state", state)
    confusion._pick("matrix", name, keys)
    assert [state[key] for key in keys] == [name, 1, 1]
    state["matrix"]["selection"]["points"] = []
    confusion._pick("matrix", name, keys)
    assert [state[key] for key in keys] == [name, 1, 1]


def test_missing_images_are_reported(made_runs, tmp_path, monkeypatch):
    app = show(open_page("compare", made_runs, monkeypatch), "Confusion")
    assert "not in the data set's folder on this machine" in texts(app)


def test_unavailable_conformal_sets_report_how_many_patients_they_need(class_runs, monkeypatch):
    app = show(open_page("compare", class_runs, monkeypatch), "Prediction sets")
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
    assert "no verdict: 2 seeds, at least 5 needed" in app.info[-1].value.replace("\\", "")
    assert app.dataframe[0].value["Interval over"].tolist() == ["test patients"] * 5 + ["seeds and test patients"]
    assert "joint sensitivity" in app.dataframe[0].value["What"][0]
    app = show(open_page("compare", made_runs, monkeypatch), "Two stages")
    assert "two stages need several classes" in texts(app)
