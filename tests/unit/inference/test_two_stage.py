"""The two-stage verdict on one image: the same decisions as the joint figures, the same wording everywhere."""

import json
from dataclasses import replace

import numpy as np
import pytest

from core.analysis.comparison import load_part
from core.analysis.two_stage import joint
from core.data import DATASETS
from core.data.specs import class_titles
from core.inference import Case, NetworkResult
from core.inference.batch_table import rows_of
from core.inference.predictor import Prediction, decide
from core.inference.report_json import as_json
from core.inference.report_pdf import as_pdf
from core.inference.two_stage import choose_stages, outcome, performance_text, verdict_of, verdict_text
from core.metrics.thresholds import Aim
from core.runs import open_store
from core.runs.series import runs_by_series
from tests.synthetic_runs import STRONG, WEAK, make_families

SKIN = DATASETS["ham10000"]


@pytest.fixture
def series(runs, monkeypatch):
    """Runs of three classes, two of them suspicious, of a weak and a strong family."""
    spec = replace(DATASETS["phantom"], suspicious=("b", "c"), titles={"b": "big one (b)"})
    monkeypatch.setitem(DATASETS, "phantom", spec)
    make_families(runs, sizes=(50,), task="multiclass", tests=300)
    found = runs_by_series(open_store(runs), open_store(runs).metas("phantom"))
    return {family: next(of for key, of in found.items() if key[:2] == kind) for family, kind in
            (("scratch", WEAK), ("imagenet", STRONG))}  # fmt: skip


def test_stages_are_chosen_on_held_out_images_and_decide_as_the_joint_figures_do(series):
    stages = choose_stages({family: runs[:1] for family, runs in series.items()}, 0.9, resamples=20)
    assert (stages.screen, stages.confirmer, stages.suspicious, stages.seeds) == ("imagenet", "imagenet", (1, 2), 1)
    run = series["imagenet"][0]
    scores = load_part(run).scores
    found = [
        verdict_of(stages, {"imagenet": NetworkResult(run[1], Prediction(p, decide(run[1], p), 0))})
        for p in scores.probabilities
    ]
    truth = np.isin(scores.labels, (1, 2))
    alarms = np.array([one.alarm for one in found])
    assert alarms[truth].mean() == pytest.approx(stages.figures.sensitivity.value)
    assert (~alarms)[~truth].mean() == pytest.approx(stages.figures.specificity.value)
    assert np.mean([one.passed for one in found]) == pytest.approx(stages.figures.workload.value)
    assert 0.8 <= np.mean([one.passed for one, is_true in zip(found, truth, strict=True) if is_true]) <= 1
    whole = choose_stages(series, 0.9, resamples=20)
    strong = series["imagenet"]
    assert whole.seeds == 3
    assert whole.figures == joint(strong, strong, strong, (1, 2), Aim("sensitivity", 0.9), draws=20)


@pytest.mark.parametrize(
    ("p", "ends", "says"),
    [
        ((0.98, 0.01, 0.01), "not suspicious", "The second stage is not run."),
        ((0.1, 0.8, 0.1), "suspicious: big one (b)", "Second stage (B): big one (b)."),
        ((0.5, 0.3, 0.2), "not suspicious after the second stage: a", "a, which does not confirm the suspicion."),
    ],
)
def test_a_verdict_is_the_same_on_the_page_in_reports_and_in_the_table(series, p, ends, says):
    stages = choose_stages(series, 0.9, resamples=20)
    stages = replace(stages, point=replace(stages.point, threshold=0.25))
    meta, probabilities = series["imagenet"][0][1], np.array(p)
    results = {"imagenet": NetworkResult(meta, Prediction(probabilities, decide(meta, probabilities), 0))}
    found = verdict_of(stages, results)
    assert outcome(found) == ends
    assert verdict_text(found).endswith(says)
    assert "set for a sensitivity of 90%" in verdict_text(found)
    case = Case("x.png", "ab" * 32, 9, 9, "Phantoms", True, explainer="Grad-CAM", results=results, verdict=found)
    record = json.loads(as_json(case))
    assert record["two_stage"]["outcome"] == ends
    assert record["two_stage"]["screen"]["probability"] == pytest.approx(p[1] + p[2])
    assert record["two_stage"]["measured"]["workload"]["n"] == 300
    assert record["results"][0]["class_titles"] == {"a": "a", "b": "big one (b)", "c": "c"}
    assert rows_of([case])[0]["Two stages"] == ends
    from io import BytesIO

    from pypdf import PdfReader

    text = " ".join(page.extract_text() for page in PdfReader(BytesIO(as_pdf(case))).pages)
    assert f"Two stages: {ends}" in " ".join(text.split())


def test_unavailable_figures_are_reported(series):
    found = choose_stages(series, 0.9, resamples=20)
    assert "of the suspicious images" in performance_text(found)
    assert "300 test images, mean of 3 seeds" in performance_text(found)
    assert "is unknown: no seed" in performance_text(replace(found, figures="no seed"))


def test_only_tasks_of_classes_with_a_division_have_stages(series):
    meta = series["imagenet"][0][1]
    assert meta.suspicious == (1, 2)
    assert replace(meta, dataset="own-somewhere").suspicious == ()
    assert replace(meta, task="binary", positive=1).suspicious == ()


@pytest.mark.parametrize("spec", DATASETS.values(), ids=lambda spec: spec.name)
def test_titles_are_of_classes_that_there_are_and_tell_them_apart(spec):
    assert set(spec.titles) <= set(spec.labels)
    titles = class_titles(spec.name, spec.labels)
    assert len(set(titles)) == len(spec.labels)


def test_every_code_of_skin_lesions_has_a_title():
    assert class_titles("ham10000", ("nv", "mel", "odd")) == ("melanocytic nevus (nv)", "melanoma (mel)", "odd")
    titles = zip(SKIN.labels, class_titles("ham10000", SKIN.labels), strict=True)
    assert all(title.endswith(f"({code})") for code, title in titles)
    assert class_titles("own-x", ("nv",)) == ("nv",)
