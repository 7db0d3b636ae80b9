"""The Start page: its finding is computed from the stored runs, and without any it still shows three next steps."""

from types import SimpleNamespace

from streamlit.testing.v1 import AppTest

from core.analysis.contest import LOOP, WAYS, plain_loop
from core.metrics import METRICS
from core.models import FAMILY_LETTERS
from core.runs import open_store
from core.runs.series import Series
from core.ui.start.story import INTRODUCTIONS, family_title, labels_text, meaning_text
from tests import PATIENCE
from tests.app.test_pages import open_page, texts
from tests.synthetic_runs import STRONG, WEAK, make_run

LINKS = ["Try an image", "See the evidence", "Use your own images"]


def labels(app):
    return [element.proto.label.strip("*") for element in app.get("page_link")]


def test_three_next_steps_without_results(tmp_path, monkeypatch):
    app = open_page("start", tmp_path / "empty", monkeypatch)
    assert not app.exception
    assert labels(app) == LINKS
    assert "No results are stored yet" in texts(app)


def test_the_finding_comes_from_the_stored_runs(tmp_path, monkeypatch):
    for seed in range(2):
        for size in (10, 50, 100):
            make_run(tmp_path / "runs", WEAK, size, seed, 0.5 + size / 200)
            make_run(tmp_path / "runs", STRONG, size, seed, 2.0 + size / 100)
    app = open_page("start", tmp_path / "runs", monkeypatch)
    assert not app.exception
    assert labels(app) == LINKS
    assert [element.proto.query_string for element in app.get("page_link")] == ["", "set=phantom", "images=own"]
    sentence = app.header[0].value.replace("\\", "")
    assert "labeled images per class needed for AUROC" in sentence
    assert sentence.index("with ImageNet pretraining") < sentence.index("trained from scratch")
    at_50 = [meta for meta in open_store().metas() if meta.train_size == 50]

    def mean(family, metric):
        values = [meta.metrics[metric] for meta in at_50 if meta.family == family]
        return sum(values) / len(values)

    table = app.dataframe[0].value
    assert table[METRICS["auroc"].title].tolist() == [f"{mean(row, 'auroc'):.3f}" for row in ("scratch", "imagenet")]
    hits, alarms = (
        round(100 * share) for share in (mean("imagenet", "sensitivity"), 1 - mean("imagenet", "specificity"))
    )
    shown = texts(app).replace("\\", "")
    assert "The best is the network with ImageNet pretraining. Of 100 test images with yes, it " in shown
    assert f"it finds {hits}; of 100 without, it raises a false alarm in {alarms}." in shown
    assert "To equal the best of these, training from scratch needs" in shown


def test_one_size_gives_values_but_no_finding(tmp_path, monkeypatch):
    for kind in (WEAK, STRONG):
        make_run(tmp_path / "runs", kind, 20, 0, 1.0)
    app = open_page("start", tmp_path / "runs", monkeypatch)
    assert not app.exception
    assert not app.header
    assert "With 20 labeled images per class" in texts(app)
    assert "it finds" in texts(app)
    assert "training from scratch needs" not in texts(app)


def test_a_task_of_several_classes_has_no_rates(class_runs, monkeypatch):
    app = open_page("start", class_runs, monkeypatch)
    assert not app.exception
    assert "it finds" not in texts(app)


def test_what_training_from_scratch_needs_is_told_only_where_another_family_is_better():
    a, b = Series("scratch-cnn", "scratch"), Series("imagenet-efficientnet-lite0", "frozen")
    assert labels_text({a: None, b: None}, a, a, 50) == ""
    assert labels_text({b: None}, a, b, 50) == ""
    assert labels_text({b: None}, None, b, 50) == ""


def test_a_link_with_a_task_leads_to_diagnose(phantom_runs, monkeypatch):
    monkeypatch.setenv("LOWSHOT_RUNS", str(phantom_runs))
    app = AppTest.from_file("../../streamlit_app.py", default_timeout=PATIENCE)
    app.query_params["task"] = "phantom"
    app.run()
    assert not app.exception
    assert [title.value for title in app.title] == ["Diagnose"]
    assert app.selectbox(key="diagnose_task").value == "phantom"


def test_every_family_of_the_contest_has_its_own_words():
    assert set(WAYS) == {family for family, letter in FAMILY_LETTERS.items() if letter in INTRODUCTIONS}
    generic = Series("generic-dinov2-vits14-imgfocus", "frozen")
    estimate = SimpleNamespace(value=0.9)
    assert "0.900 with generic" in meaning_text(50, METRICS["auroc"], {"B": estimate}, {"B": generic})


def test_the_plain_loop_comes_last_even_where_it_is_best():
    b = Series("imagenet-efficientnet-lite0-stages", "frozen-logistic")
    names, loop = {"B": b, "A": Series("scratch-cnn", "scratch")}, {LOOP: plain_loop(b)}
    values = {"B": SimpleNamespace(value=0.9), "A": SimpleNamespace(value=0.8), LOOP: SimpleNamespace(value=0.95)}
    assert meaning_text(50, METRICS["auroc"], values, names | loop) == (
        "With 50 labeled images per class, the measured AUROC is 0.900 with ImageNet pretraining and 0.800 trained "
        "from scratch. A plain training loop that nobody tuned reaches 0.950 with ImageNet pretraining."
    )
    titles = [family_title(family, name) for family, name in (names | loop).items()]
    assert titles == ["B · ImageNet transfer", "A · From scratch", "Plain loop"]
