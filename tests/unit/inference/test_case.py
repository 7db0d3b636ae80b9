"""One image with everything shown about it: uncertainty, the sentence on agreement, reports and the table."""

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from core.analysis.comparison import conformal, load_part
from core.data.images import decode, encode_png
from core.explain import Explanation
from core.explain.quality import Faithfulness
from core.inference import Case, NetworkResult, PredictionSet, SeedInterval
from core.inference.analyze import Network, pixels_hash
from core.inference.batch_table import as_csv, by_urgency, overview_of, rows_of
from core.inference.conclusion import conclude
from core.inference.image_check import CheckResult
from core.inference.predictor import Prediction, Predictor
from core.inference.report_json import ReportOptions, as_json, as_record
from core.inference.report_pdf import as_pdf
from core.inference.sentences import caveats, check_text, is_near
from core.inference.track_record import Rates
from core.inference.uncertainty import (
    interval_from_similar_images,
    interval_over_seeds,
    prediction_set,
    seed_lookup,
    siblings,
    thresholds_of,
)
from core.metrics import wilson
from core.runs import WEIGHTS_FILE, Run, open_store
from tests.synthetic_runs import STRONG, make_run
from tests.unit.runs.test_store import example_meta

MADE = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SECRET = "Doe_Jane_1970.png"
HEAT = np.zeros((32, 32), np.float32)
HEAT[20:24, 4:8] = 0.25


def result(family, chance, threshold=0.5, **more):
    meta = replace(example_meta(f"run-{family}"), family=family, threshold=threshold, labels=("Normal", "Ill \u03b2"))
    meta = replace(meta, hashes={"predictions.npz": "cd" * 32})
    heatmap = Explanation(HEAT, 0.25, 1, False, "Sums to +1.00.")
    prediction = Prediction(np.array([1 - chance, chance]), (int(chance >= threshold),), 1, heatmap)
    return NetworkResult(meta, prediction, **more)


def case(*results, **more):
    return Case(
        SECRET, "ab" * 32, 640, 480, "Chests", explainer="Grad-CAM",
        results={result.meta.family: result for result in results}, **more,
    )  # fmt: skip


REFUSED = CheckResult(False, ("It is in color, but the training images are grayscale.",), 2.5, 1.25)
ADMITTED = CheckResult(True, (), 1.0, 1.25)
FULL = case(
    result(
        "scratch", 0.93, seed_interval=interval_over_seeds([0.9, 0.96]), faithfulness=Faithfulness(0.2, 0.8, 0.5, 0.5)
    ),
    result(
        "imagenet", 0.55, seed_interval="One seed was trained.",
        prediction_set=PredictionSet(("Normal", "Ill \u03b2"), 0.9, "Measured."),
    ),
    NetworkResult(replace(example_meta("run-c"), family="medical"), problem="Its encoder cannot be had."),
    check=REFUSED, overridden=True, overlaps={("scratch", "imagenet"): 0.4},
)  # fmt: skip


def test_near_a_threshold_does_not_hang_on_the_class_explained():
    one = result("scratch", 0.55)
    findings = replace(one.meta, task="multilabel", labels=("a", "b", "c"), positive=None, thresholds=(0.5, 0.9, 0.2))
    far = replace(one.meta, task="multiclass", labels=("a", "b", "c"), positive=None)
    for target in range(2):
        assert is_near(one.meta, replace(one.prediction, target=target))
        assert not is_near(one.meta, replace(result("scratch", 0.65).prediction, target=target))
    for target in range(3):
        chances = replace(one.prediction, target=target, probabilities=np.array([0.7, 0.82, 0.05]))
        assert is_near(findings, chances)
        assert not is_near(replace(findings, thresholds=(0.5, 0.95, 0.2)), chances)
        assert not is_near(far, chances)


def test_what_the_image_check_said_is_stated_with_its_override():
    assert check_text(FULL).endswith("OVERRIDDEN: analyzed anyway at the user's request.")
    assert "Not analyzed" in check_text(replace(FULL, overridden=False))
    assert "Accepted" in check_text(replace(FULL, check=ADMITTED))
    assert any("image check rejected" in line for line in caveats(FULL))


def test_the_json_report_holds_what_answered_and_nothing_that_names_a_patient():
    text = as_json(FULL, made=MADE).decode()
    record = json.loads(text)
    assert SECRET not in text
    assert record["image"] == {"pixels_sha256": "ab" * 32, "width": 640, "height": 480}
    assert record["made"] == "2026-11-21T12:00:00+00:00"
    assert record["image_check"]["overridden"] is True
    assert record["image_check"]["distance"] == 2.5
    assert record["image_check"]["reasons"] == list(REFUSED.reasons)
    first, second, third = record["results"]
    assert first["probabilities"] == {"Normal": pytest.approx(0.07), "Ill \u03b2": 0.93}
    assert first["thresholds"] == {"Normal": None, "Ill \u03b2": 0.5}
    assert first["files_sha256"] == FULL.results["scratch"].meta.hashes
    assert first["encoder"]["sha256"] == FULL.results["scratch"].meta.encoder["sha256"]
    assert first["seed_interval"]["seeds"] == 2
    assert first["heatmap"]["where"] == "strongest in the middle left of the image"
    assert first["heatmap"]["faithfulness"]["deletion"] == 0.2
    assert second["conformal_set"]["classes"] == ["Normal", "Ill \u03b2"]
    assert third["problem"] == "Its encoder cannot be had."
    assert "torch" in record["versions"]
    assert record["summary"] == conclude(FULL).text


def test_file_name_and_thumbnail_are_in_a_report_only_on_request():
    import base64

    image = Image.fromarray(np.arange(400 * 300, dtype=np.uint32).astype(np.uint8).reshape(300, 400))
    record = as_record(FULL, ReportOptions(True, image, "Case 7"))
    assert record["image"]["name"] == SECRET
    assert record["image"]["case"] == "Case 7"
    small = decode(base64.b64decode(record["image"]["thumbnail_png_base64"]))
    assert small.size == (256, 192)


def text_of(content):
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(content))
    return reader, " ".join(" ".join(page.extract_text() for page in reader.pages).split())


def test_the_pdf_report_is_one_page_and_an_appendix():
    reader, text = text_of(as_pdf(FULL, ReportOptions(case="Case 7", caution="Borders suffice."), made=MADE))
    first = "".join(reader.pages[0].extract_text().split())
    for words in (conclude(FULL).title, "93.0%", "Case 7", "Its encoder cannot be had.", "Not a medical device",
                  "Borders suffice.", "B · ImageNet transfer", "90.0% to 96.0%", "request"):  # fmt: skip
        assert words.replace(" ", "") in first, words
    later = "".join("".join(page.extract_text() for page in reader.pages[1:]).split())
    for words in ("OVERRIDDEN", "run-scratch", "ab" * 32, "Measured.", "40% of the strongest fifth", "Deletion 0.20",
                  FULL.results["scratch"].meta.hashes["predictions.npz"]):  # fmt: skip
        assert words.replace(" ", "") in later, words
        assert words.replace(" ", "") not in first
    assert later.startswith("Appendix")
    assert SECRET not in text
    assert reader.metadata.title == "Lowshot case report"
    assert not any(page.images for page in reader.pages)


def test_the_first_page_has_room_for_images_and_the_longest_texts():
    rates = [Rates("", 0.97, 0.69), Rates("Chest X-rays of adults (NIH)", 0.8, 0.6)]
    seeds = interval_over_seeds([0.4, 0.96])
    three = [
        replace(result(family, chance, seed_interval=seeds), track_record=rates)
        for family, chance in (("scratch", 0.93), ("imagenet", 0.55), ("medical", 0.2))
    ]
    long = case(*three, check=REFUSED, overridden=True, synthetic=True)
    image, *maps = (Image.new("L", (300, 300), shade) for shade in range(4))
    content = as_pdf(long, ReportOptions(True, image, "x" * 80, 0.1, "Borders nearly suffice. " * 8),
                     dict(zip("ABC", maps, strict=True)), MADE)  # fmt: skip
    reader, _ = text_of(content)
    assert reader.pages[1].extract_text().startswith("Appendix")
    assert len(reader.pages[0].images) == 4
    assert "of 100 without, it raises a false alarm in 31" in " ".join(reader.pages[0].extract_text().split())


def test_the_pdf_shows_images_on_request_and_survives_missing_glyphs(caplog):
    odd = replace(FULL, name="\u60a3\u8005.png")
    image = Image.new("L", (300, 500), 90)
    reader, text = text_of(
        as_pdf(odd, ReportOptions(True, image), {"A, Grad-CAM": Image.new("RGB", (300, 500), "red")}, MADE)
    )
    assert "??.png" in text
    assert sum(len(page.images) for page in reader.pages) == 2
    assert "\u60a3" not in caplog.text


def test_pixels_and_not_the_file_name_an_image():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    assert pixels_hash(decode(encode_png(pixels))) == pixels_hash(decode(buffer.getvalue()))
    assert pixels_hash(Image.fromarray(pixels)) != pixels_hash(Image.fromarray(pixels.reshape(32, 24)))


def test_the_table_and_its_csv_file():
    rows = rows_of([Case("=cmd()|x", problem="It is damaged."), FULL, case(result("scratch", 0.2))])
    assert rows[0]["A · From scratch: probability"] == "0.9300"
    assert rows[0]["Families agree"] == "yes"
    assert rows[0]["Near a threshold"] == "yes"
    assert rows[0]["C · Medical transfer"] == "Its encoder cannot be had."
    read = list(csv.DictReader(io.StringIO(as_csv(rows).decode("utf-8-sig"))))
    assert [row["Image"] for row in read] == ["1", "2", "unreadable"]
    assert read[2]["File"] == "'=cmd()|x"
    assert SECRET not in as_csv(rows_of([FULL], names=False)).decode()


def test_the_table_shows_disagreements_first_and_no_hash():
    clear = case(result("scratch", 0.9), result("imagenet", 0.8), check=ADMITTED)
    unsure = case(result("scratch", 0.9), result("imagenet", 0.55), check=ADMITTED)
    split = case(result("scratch", 0.9), result("imagenet", 0.2), check=ADMITTED)
    rejected = replace(case(check=REFUSED), results={})
    unread = Case("bad.png", problem="It is damaged.")
    assert by_urgency([unread, clear, rejected, unsure, split]) == [split, unsure, rejected, clear, unread]
    row = overview_of(unsure)
    assert row["Verdict"] == "Both networks say ill \u03b2, with reservations"
    assert row["Why"] == "B is within 10 percentage points of its threshold"
    assert row["A \u00b7 From scratch"] == "Ill \u03b2 (90.0% Ill \u03b2)"
    assert overview_of(rejected)["Why"] == REFUSED.reasons[0].rstrip(".")
    assert overview_of(unread) == {"Verdict": "Unreadable", "Why": "It is damaged.", "File": "bad.png"}
    assert not any("ab" * 6 in cell for one in (unsure, rejected) for cell in overview_of(one).values())
    assert "ab" * 6 in as_csv(rows_of([unsure])).decode()


def test_other_seeds_stand_in_through_like_test_images():
    own = np.linspace(0.01, 0.99, 99)
    others = np.stack([own * 0.9, np.minimum(1, own * 1.1)])
    found = interval_from_similar_images(own, others, 0.5)
    like = own[np.argsort(np.abs(np.log(own / (1 - own))), kind="stable")[:50]]
    low, high = np.percentile(np.concatenate([like * 0.9, like * 1.1]), [2.5, 97.5])
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.seeds, found.evaluated) == (3, False)
    assert "Only this seed's weights are stored" in found.how
    assert "variability is unknown" in interval_from_similar_images(own, np.zeros((0, 99)), 0.5)
    over_seeds = interval_over_seeds([0.2, 0.6, 0.4])
    assert over_seeds == SeedInterval(0.2, 0.6, 3, True, over_seeds.how)
    assert interval_over_seeds([0.2, 0.6, 0.4], np.array([0.5, 0.5, 0.5])).disagreement == 0.5
    assert interval_over_seeds([0.2, 0.6, 0.4], np.array([0.5, 0.7, 0.5])).disagreement == 0.0  # at its own threshold
    steady = interval_from_similar_images(own, others, 0.5, np.array([0.1, 0.05, 0.05]))
    assert (steady.low, steady.disagreement) == (found.low, 0.0)
    assert interval_from_similar_images(own, others, 0.5, np.array([0.1, 0.05, 1.0])).disagreement > 0.4


def test_seeds_and_conformal_sets_of_stored_runs(runs):
    folders = [make_run(runs, STRONG, 25, seed, 3.0, tests=60) for seed in (0, 1, 2)]
    make_run(runs, STRONG, 50, 1, 3.0, tests=60)
    store = open_store(runs)
    run = Run(folders[0], store.runs[folders[0]])
    others = siblings(store, run[1])
    assert sorted(meta.seed for _, meta in others) == [1, 2]
    own_probabilities, other_probabilities = seed_lookup(run, others, 1)
    assert other_probabilities.shape == (2, 60)
    assert np.allclose(own_probabilities, load_part(run).scores.probabilities[:, 1])
    thresholds = thresholds_of([run, *others], run.meta.positive)
    assert thresholds.tolist() == [row.meta.threshold for row in (run, *others)]
    assert np.allclose(thresholds_of([run], 1 - run.meta.positive), 1 - run.meta.threshold)
    fitted, measured = conformal(run, 0.9)
    for chance in (0.001, 0.999):
        one = prediction_set(fitted, measured, run[1], Prediction(np.array([1 - chance, chance]), (1,), 1, None))
        assert one.classes == (run[1].labels[int(chance > 0.5)],)
        assert "no guarantee" in one.how
        assert "Measured coverage on the test images" in one.how
    rare = replace(measured, by_class=(wilson(27, 60), measured.by_class[1]))
    said = prediction_set(fitted, rare, run[1], Prediction(np.array([0.1, 0.9]), (1,), 1, None))
    assert said == f"on test images, 90% sets contained the true class too rarely ({run[1].titles[0]} 45%)."


def test_a_damaged_run_of_another_seed_leaves_the_answer_alone(runs):
    own, other = [make_run(runs, STRONG, 25, seed, 3.0, tests=60) for seed in (0, 1)]
    stored = dict(open_store(runs).runs)
    stored[other] = replace(stored[other], hashes={**stored[other].hashes, WEIGHTS_FILE: "00"})
    network = Network([Run(own, stored[own]), Run(other, stored[other])], lambda run: Predictor(run.folder))
    problem = network._seed_interval(Image.new("L", (32, 32)), result("imagenet", 0.9).prediction)
    assert problem.startswith("Variability between seeds is not available: The run")
