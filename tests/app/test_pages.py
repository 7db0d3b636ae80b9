"""Every page without results, with results, and with damaged, mixed or hostile results."""

import json
import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.paths import PROJECT
from core.runs import OLD_RECIPE, open_store
from core.runs.series import runs_by_series, summarize
from core.ui.charts import series_title
from tests import PATIENCE
from tests.synthetic_runs import STRONG, make_run

PAGES = ["diagnose", "learning_curves", "compare"]


def open_page(name, store, monkeypatch):
    """Open a page by itself, in a session that began on the Start page while nothing was stored."""
    monkeypatch.setenv("LOWSHOT_RUNS", str(Path(store) / "nothing"))
    app = AppTest.from_file("../../streamlit_app.py", default_timeout=PATIENCE)
    app.session_state["framed"] = True
    app.run()
    monkeypatch.setenv("LOWSHOT_RUNS", str(store))
    return app.switch_page(f"pages/{name}.py").run()


def texts(app):
    kinds = (app.markdown, app.info, app.warning, app.error, app.success, app.caption, app.title)
    return "\n".join(str(element.value) for kind in kinds for element in kind).replace("\\-", "-")


def upload(app, files):
    app.file_uploader[0].set_value([(name, content, "image/png") for name, content in files])
    return app.run()


@pytest.mark.parametrize("name", PAGES)
def test_pages_without_results_explain_what_to_do(name, tmp_path, monkeypatch):
    app = open_page(name, tmp_path / "empty", monkeypatch)
    assert not app.exception
    assert "is stored yet" in texts(app) or "are stored yet" in texts(app)
    assert [link.proto.label for link in app.get("page_link")] == ["Train networks"]


@pytest.mark.parametrize("name", PAGES)
def test_pages_with_results(name, phantom_runs, monkeypatch):
    app = open_page(name, phantom_runs, monkeypatch)
    assert not app.exception
    assert "synthetic" in texts(app)


@pytest.mark.parametrize("name", PAGES)
def test_damaged_runs_are_named(name, phantom_runs, tmp_path, monkeypatch):
    store = tmp_path / "store"
    shutil.copytree(phantom_runs, store)
    hurt = next(store.glob("phantom/*/run.json"))
    hurt.write_text("{")
    app = open_page(name, store, monkeypatch)
    assert not app.exception
    assert hurt.parent.name in texts(app)


def test_curves_react_to_metric_and_series(phantom_runs, monkeypatch):
    app = open_page("learning_curves", phantom_runs, monkeypatch)
    app.selectbox(key="curves_metric").set_value("brier").run()
    assert "Lower is better" in texts(app)
    table = app.dataframe[0].value
    assert set(table["Images per class"]) == {"3", "5"}
    assert (table["Seeds"] == 2).all()
    title, seeds, patients_interval = "Brier score", "Other training images", "Other test patients"

    def inside(rows, interval):
        ends = rows[interval].str.split(" to ", expand=True).astype(float)
        return ((ends[0] <= rows[title].round(3)) & (rows[title].round(3) <= ends[1])).all()

    assert inside(table, seeds)
    patients = app.toggle(key="curves_patients")
    patients.set_value(not patients.value).run()
    other = app.dataframe[0].value
    assert (patients_interval in table) != (patients_interval in other)
    assert inside(other if patients_interval in other else table, patients_interval)
    app.multiselect(key="curves_series_phantom").set_value([]).run()
    assert "at least one series" in texts(app)
    assert "one subset for each size and seed" in texts(open_page("learning_curves", phantom_runs, monkeypatch))


def test_compare_shows_intervals_over_patients_and_over_seeds_side_by_side(phantom_runs, monkeypatch):
    app = open_page("compare", phantom_runs, monkeypatch)
    store = open_store(phantom_runs)
    largest = [meta for meta in store.metas() if meta.train_size == 5]
    table = app.dataframe[0].value.set_index("Series")
    for key, runs in runs_by_series(store, largest).items():
        row, shown = summarize(runs, ("auroc",))["auroc"], table.loc[series_title(*key)]
        assert shown["AUROC"] == f"{row.value:.3f}"
        assert shown["Other test patients"] == f"{row.patients.low:.3f} to {row.patients.high:.3f}"
        assert shown["Other training images"] == f"{row.seeds.low:.3f} to {row.seeds.high:.3f}"
    assert "They answer different questions" in texts(app)
    app.select_slider(key="compare_size_phantom").set_value(3).run()
    assert not app.exception


def test_runs_of_different_splits_are_not_mixed(phantom_runs, tmp_path, monkeypatch):
    store = tmp_path / "store"
    shutil.copytree(phantom_runs, store)
    path = next(store.glob("phantom/*/run.json"))
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "split_hash": "another"}))
    for name, page in (("learning_curves", "curves"), ("compare", "compare")):
        app = open_page(name, store, monkeypatch)
        assert not app.exception
        assert "are not mixed" in texts(app)
        assert app.selectbox(key=f"{page}_split_phantom").options == [
            f"{record['split_hash'][:8]} (7 runs)",
            "another (1 runs)",
        ]


def test_missing_predictions_are_reported_without_a_crash(phantom_runs, tmp_path, monkeypatch):
    store = tmp_path / "store"
    shutil.copytree(phantom_runs, store)
    app = open_page("compare", store, monkeypatch)
    next(store.glob("phantom/*/predictions.npz")).write_bytes(b"")
    app.run()
    assert not app.exception
    assert "left out" in texts(app)


def test_hostile_labels_are_shown_as_text(phantom_runs, tmp_path, monkeypatch):
    store = tmp_path / "store"
    shutil.copytree(phantom_runs, store)
    for path in store.glob("phantom/*/run.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "labels": ["No", "![x](https://example.org/p.png)"]}))
    app = open_page("diagnose", store, monkeypatch)
    app.toggle(key="diagnose_example").set_value(True).run()
    assert not app.exception
    assert "![x](" not in texts(app)
    assert all("![x](" not in element.label for element in app.metric)


def test_the_families_of_the_contest_differ_without_color():
    from core.analysis.contest import ENCODERS, NAMED, plain_loop
    from core.ui.charts import style_of

    for b, c in ENCODERS.values():
        for variant in ("", OLD_RECIPE):
            styles = [style_of(*name[:2], variant) for name in (NAMED["A"], b, c, plain_loop(b))]
            assert len({style.marker for style in styles}) == len(styles)
            assert len({style.dash for style in styles}) == len(styles)


def test_counts_in_cells_can_be_read_on_every_color():
    import numpy as np

    from core.ui.charts import INK, SHARES, confusion

    def luminance(color):
        channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    figure = confusion(np.array([[5, 5], [0, 9]]), ("a", "b"), "title")
    assert figure.data[0].textfont.color == INK
    assert figure.data[0].colorscale == SHARES
    for _, color in SHARES:
        assert (luminance(color) + 0.05) / (luminance(INK) + 0.05) >= 4.5


def test_labels_of_lines_never_overlap_and_give_way_to_a_legend():
    import numpy as np

    from core.ui.charts import style_of
    from core.ui.compare.metric_charts import Measured, learning_curves

    style = style_of("scratch-cnn", "scratch")
    few = learning_curves({f"line {n}": Measured(style, {10: [0.9], 20: [0.91 + n / 1e6]}) for n in range(8)}, "auroc")
    scale = 400 / np.diff(few.layout.yaxis.range)[0]
    places = sorted(label.ay * scale for label in few.layout.annotations)
    assert len(places) == 8
    assert (np.diff(places) > 17).all()
    assert not any(trace.showlegend for trace in few.data)
    many = learning_curves({f"line {n}": Measured(style, {10: [0.9], 20: [0.9 + n / 50]}) for n in range(40)}, "auroc")
    assert not many.layout.annotations
    assert sum(bool(trace.showlegend) for trace in many.data) == 40


def test_no_two_models_share_color_and_marker():
    from core.models import MODELS
    from core.ui.charts import style_of

    styles = {(style.color, style.marker) for style in (style_of(name, "frozen") for name in MODELS)}
    assert len(styles) == len(MODELS)
    by_family = {}
    for spec in MODELS.values():
        by_family.setdefault(spec.family, set()).add(style_of(spec.name, "frozen").color)
    assert all(len(colors) == 1 for colors in by_family.values())
    assert len(set.union(*by_family.values())) == len(by_family)  # no two families share a color
    assert style_of("medical:resnet18@/weights/x.safetensors", "frozen").color.startswith("#")


def test_strategies_of_one_model_differ_in_their_dash():
    from core.models import MODELS
    from core.ui.charts import style_of
    from trainer.training.strategies import STRATEGIES

    for spec in MODELS.values():
        names = [row.name for row in STRATEGIES.values() if not row.incompatibility(spec)]
        assert len({style_of(spec.name, name).dash for name in names}) == len(names), spec.name


def test_kermany_is_the_default_data_set(tmp_path, monkeypatch):
    for dataset in ("covid-radiography", "kermany", "own-images"):
        make_run(tmp_path, STRONG, 20, 0, 3.0, dataset=dataset)
    app = open_page("learning_curves", tmp_path, monkeypatch)
    names = app.selectbox(key="curves_dataset").options
    assert app.selectbox(key="curves_dataset").value == "kermany"
    assert len(names) == 3


def test_a_set_with_a_shortcut_is_never_the_default_while_another_has_runs(tmp_path, monkeypatch):
    """COVID-19 Radiography comes before own images in the registry."""
    for seed in range(2):
        make_run(tmp_path, STRONG, 20, seed, 3.0, dataset="covid-radiography")
        border = {"preparation": "border-only", "variant": "preparation border-only"}
        make_run(tmp_path, STRONG, 20, seed, 2.0, dataset="covid-radiography", **border)
    assert open_page("compare", tmp_path, monkeypatch).selectbox(key="compare_dataset").value == "covid-radiography"
    make_run(tmp_path, STRONG, 20, 0, 3.0, dataset="own-images")
    keys = {"compare": "compare_dataset", "start": "start_dataset", "learning_curves": "curves_dataset"}
    for page, key in keys.items():
        box = open_page(page, tmp_path, monkeypatch).selectbox(key=key)
        assert box.value == "own-images", page
        assert len(box.options) == 2


def pick_from_no_series():
    from core.ui import pickers

    pickers.pick_series({}, "curves")
    raise AssertionError("the page goes on")


def test_runs_of_models_that_no_longer_exist_are_reported():
    app = AppTest.from_function(pick_from_no_series, default_timeout=PATIENCE).run()
    assert not app.exception
    assert "None of the stored models is known" in app.info[0].value


def test_kermany_is_the_default_task_of_the_shipped_networks(monkeypatch):
    app = open_page("diagnose", PROJECT / "checkpoints", monkeypatch)
    assert not app.exception
    assert app.selectbox(key="diagnose_task").value == "kermany"
    assert "may recognize the hospital" not in texts(app)
