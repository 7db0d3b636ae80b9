"""Own and external test set side by side: same task, same operating point, and what the drop varies over."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from core.analysis import external
from core.errors import BadRequest
from core.metrics import measure
from core.runs import ExternalRecord, Run, add_external, open_store, read_predictions, read_run, shared_classes
from core.runs.metric_cache import resampled_run, resampled_shared
from tests.synthetic_runs import STRONG, WEAK, make_run, predictions
from trainer.cli import main, parse
from trainer.commands.report import report_on
from trainer.reporting.markdown_report import as_markdown

NAME = "adults"


def evaluate(folder, strength, task="binary", images=90, labels=None, same_archive=False):
    """Gives a made-up run predictions on an external set: AP and PA by turns, six images read by a radiologist."""
    meta = read_run(folder)
    labels = labels or meta.labels
    random = np.random.default_rng([len(meta.run), meta.seed, 1])
    there = predictions("adult", task, images, strength, random)
    if task == "multiclass":
        kept = np.isin(there.labels, [meta.labels.index(label) for label in labels])
        there = replace(
            there, ids=there.ids[kept], groups=there.groups[kept], labels=there.labels[kept], logits=there.logits[kept]
        )
    count = len(there.ids)
    reader = np.full(count, "", dtype="<U3")
    reader[:6] = ["no", "yes", "no", "yes", "no", "no"]
    facts = {"view": np.array(["AP", "AP", "PA"])[np.arange(count) % 3], "reader": reader}
    there = replace(there, part="external", facts=facts, logits=there.logits.astype(np.float16).astype(float))
    own = shared_classes(meta, read_predictions(folder), labels)[0]
    record = ExternalRecord(
        "Adults", tuple(labels), count, len(np.unique(there.groups)), "f" * 64,
        measure(shared_classes(meta, there, labels)[0]), measure(own), "Adults instead of children.", same_archive,
    )  # fmt: skip
    add_external(folder, {NAME: record}, {NAME: there}, ["A note."])
    return Run(folder, read_run(folder))


@pytest.fixture
def series(runs):
    """Five seeds that are strong on internal test images and weak on external ones."""
    return [evaluate(make_run(runs, STRONG, 50, seed, 3.0), 1.0) for seed in range(5)]


def test_predictions_and_facts_come_back_as_they_were_stored(series):
    folder, meta = series[0]
    there = read_predictions(folder, "external", NAME)
    assert set(there.facts) == {"view", "reader"}
    assert there.facts["view"][:3].tolist() == ["AP", "AP", "PA"]
    assert there.ids[0] == "adult-0"
    assert meta.notes[-1] == "A note."
    assert open_store().runs[folder].external[NAME] == meta.external[NAME]
    assert read_predictions(folder).facts == {}


def test_the_drop_is_the_mean_over_seeds_of_internal_minus_external(series):
    found = external.compare_with_external(series, NAME)
    own = [
        roc_auc_score((p := read_predictions(folder)).labels, p.logits[:, 1] - p.logits[:, 0]) for folder, _ in series
    ]
    there = [
        roc_auc_score((p := read_predictions(folder, "external", NAME)).labels, p.logits[:, 1] - p.logits[:, 0])
        for folder, _ in series
    ]
    drop = found.drop["auroc"]
    assert found.own["auroc"].value == pytest.approx(np.mean(own))
    assert found.external["auroc"].value == pytest.approx(np.mean(there))
    assert drop.effect == pytest.approx(np.mean(own) - np.mean(there))
    assert 0 < drop.low < drop.effect < drop.high
    assert (found.own_images, found.images, found.seeds) == (120, 90, 5)
    assert found.sentence("auroc").startswith(
        f"AUROC: {np.mean(own):.3f} on the internal test images, {np.mean(there):.3f}"
    )
    assert "over seeds and the patients of both sets" in found.sentence("auroc")


def test_patients_of_both_sets_are_resampled_independently(series):
    """The variance over patients is the sum of both sets' variances; draws in step would not give it."""
    one = series[:1]
    drop = external.compare_with_external(one, NAME, ["auroc"]).drop["auroc"]
    own, there = resampled_run(one[0]).values["auroc"][1:], resampled_shared(one[0], NAME, True).values["auroc"][1:]
    assert drop.error == pytest.approx(np.sqrt(own.var(ddof=1) + there.var(ddof=1)), rel=0.05)
    assert "one seed" in external.compare_with_external(one, NAME, ["auroc"]).sentence("auroc")


def test_the_interval_covers_the_true_drop(runs):
    """In 60 repetitions of fresh patients on both sides, one seed, equal strength: the true drop is 0."""
    inside = 0
    for again in range(60):
        folder = make_run(runs, STRONG, 50, again, 1.5)
        run = evaluate(folder, 1.5, images=120)
        drop = external.compare_with_external([run], NAME, ["auroc"]).drop["auroc"]
        inside += drop.low <= 0 <= drop.high
    assert inside >= 52  # 57 expected; a chance of .8% of fewer


def test_several_classes_are_compared_on_the_shared_ones_with_probabilities_that_sum_to_one(runs):
    shared = ("a", "c")
    made = [
        evaluate(make_run(runs, STRONG, 50, seed, 3.0, "multiclass"), 1.0, "multiclass", labels=shared)
        for seed in (0, 1)
    ]
    folder, meta = made[0]
    stored = read_predictions(folder)
    kept = stored.labels != 1
    expected = softmax(stored.logits[kept][:, [0, 2]] / meta.temperature, axis=1)
    scores, which = shared_classes(meta, stored, shared)
    assert which.tolist() == kept.tolist()
    np.testing.assert_allclose(scores.probabilities, expected)
    assert scores.labels.tolist() == (stored.labels[kept] == 2).astype(int).tolist()
    found = external.compare_with_external(made, NAME)
    assert found.own_images == kept.sum()
    assert found.own["auroc"].value > found.external["auroc"].value
    assert meta.external[NAME].own_metrics["auroc"] == pytest.approx(roc_auc_score(scores.labels, expected[:, 1]))
    assert external.reading(made, NAME) is None


def test_findings_are_restricted_by_column(runs):
    folder = make_run(runs, STRONG, 50, 0, 3.0, "multilabel")
    _, meta = evaluate(folder, 1.0, "multilabel", labels=("y",))
    scores, kept = shared_classes(meta, read_predictions(folder), ("y",))
    assert scores.probabilities.shape == (120, 1)
    assert scores.thresholds == meta.thresholds[1:]
    assert kept.all()
    assert np.isfinite(external.compare_with_external([Run(folder, meta)], NAME).drop["auroc"].low)


def test_views_are_figures_of_their_own(series):
    whole, ap, pa = external.by_view(series, NAME, ["auroc"])
    assert [one.view for one in (whole, ap, pa)] == ["", "AP", "PA"]
    assert ap.images + pa.images == whole.images
    there = read_predictions(series[0][0], "external", NAME)
    seen = there.facts["view"] == "PA"
    values = [
        roc_auc_score(p.labels[seen], (p.logits[:, 1] - p.logits[:, 0])[seen])
        for p in (read_predictions(folder, "external", NAME) for folder, _ in series)
    ]
    assert pa.external["auroc"].value == pytest.approx(np.mean(values))
    assert pa.title == "Adults (PA views only)"


def test_what_a_radiologist_read_has_figures_and_no_verdict(series):
    found = external.reading(series, NAME)
    assert found.images == 6
    assert found.confirmed == {"No": (3, 3), "Yes": (2, 3)}
    assert set(found.figures) == {"auroc", "sensitivity", "specificity"}


def test_runs_of_other_external_images_are_not_brought_together(series):
    folder, meta = series[1]
    record = replace(meta.external[NAME], fingerprint="0" * 64)
    add_external(folder, {NAME: record}, {NAME: read_predictions(folder, "external", NAME)})
    with pytest.raises(BadRequest, match=r"different images or classes of adults.*--external adults"):
        external.compare_with_external([series[0], Run(folder, read_run(folder))], NAME)
    with pytest.raises(BadRequest, match="None of these runs was evaluated on nowhere"):
        external.compare_with_external(series, "nowhere")


def test_why_a_run_was_not_evaluated_is_kept(runs):
    folder = make_run(runs, WEAK, 50, 0, 1.0)
    add_external(folder, {NAME: ExternalRecord("Adults", refused="its encoder learned from them.")}, {})
    run = Run(folder, read_run(folder))
    assert external.external_sets([run]) == []
    assert external.refusals([run])[NAME].refused == "its encoder learned from them."
    assert external.evaluated([run], NAME) == []


def test_the_report_and_the_tables_show_both_side_by_side(series, runs, tmp_path):
    dataset = series[0][1].dataset
    content = report_on(open_store(), parse(["report", f"--dataset={dataset}"]))
    json.dumps(content, allow_nan=False)
    (row,) = content["external"]
    found = external.compare_with_external(series, NAME)
    assert row["views"][0]["drop"]["auroc"]["value"] == pytest.approx(found.drop["auroc"].effect)
    text = as_markdown(content)
    assert "## Internal and external test sets" in text
    assert f"{found.own['auroc'].value:.3f} (" in text
    assert f"{found.drop['auroc'].effect:+.3f} (" in text
    assert "confirmed 3 of 3 No, 2 of 3 Yes." in text
    assert "These are too few images for a verdict." in text
    document = tmp_path / "document.md"
    document.write_text(f"<!-- external: {dataset} at 50 -->\nold\n<!-- end of results -->\n")
    assert main(["results", "--write", str(document)]) == 0
    assert "| adults | PA |" in document.read_text()
    assert f"| {found.drop['auroc'].effect:+.3f} (" in document.read_text()
    document.write_text(f"<!-- external: {dataset} at 50 of Yes -->\n<!-- end of results -->\n")
    assert main(["results", "--write", str(document)]) == 2


def test_a_run_is_restored_if_replacing_it_fails(runs, monkeypatch):
    folder = make_run(runs, WEAK, 50, 0, 1.0)
    before, replace_file = read_run(folder), os.replace

    def fail_to_replace(source, target):
        if Path(target) == folder and ".before" not in str(source):
            raise OSError("full")
        replace_file(source, target)

    monkeypatch.setattr("os.replace", fail_to_replace)
    with pytest.raises(OSError, match="full"):
        add_external(folder, {NAME: ExternalRecord("Adults", refused="its encoder learned from them.")}, {})
    assert read_run(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_refused_series_is_marked_in_the_report(runs):
    folder = make_run(runs, WEAK, 50, 0, 1.0)
    add_external(folder, {NAME: ExternalRecord("Adults", refused="its encoder learned from them.")}, {})
    text = as_markdown(report_on(open_store(), parse(["report", f"--dataset={read_run(folder).dataset}"])))
    assert "was not evaluated on Adults: its encoder learned from them." in text
