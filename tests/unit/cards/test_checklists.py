"""Model cards and checklists: made from records alone, with items left open where these are silent."""

import csv
import io
import json
from dataclasses import replace

import pytest

from core.cards.checklists import GUIDELINES
from core.cards.items import answered, as_csv, as_markdown
from core.cards.subject import Subject, encoder_training_data, limits, operating_point, training_data
from core.metrics import Estimate
from core.paths import PROJECT
from core.runs import open_store
from tests.unit.runs.test_store import example_meta

MEASURED = {"auroc": Estimate(0.9, 0.88, 0.92, 624), "specificity": Estimate(0.7, 0.6, 0.8, 624)}


@pytest.fixture(scope="module")
def shipped():
    """A shipped run of each model, of its largest subset of equal classes."""
    store = open_store(PROJECT / "checkpoints")
    runs = [meta for meta in store.metas("kermany") if meta.train_size and meta.seed == 0 and not meta.variant]
    return {meta.model: meta for meta in sorted(runs, key=lambda meta: meta.train_size)}


def subject(meta, **other):
    return Subject(meta, **{"estimates": MEASURED, "tests": 624, "seeds": 5, "shape": "A network.", **other})


def test_every_kind_of_shipped_run_names_its_encoders_training_data(shipped):
    saw = {name: encoder_training_data(subject(meta)) for name, meta in shipped.items()}
    assert "ImageNet" in saw["imagenet-efficientnet-lite0"]
    assert "4,985 images of NIH ChestX-ray14" in saw["medical-efficientnet-lite0"]
    assert "Excluded: covid-radiography, dermamnist, ham10000, kermany" in saw["medical-efficientnet-lite0"]
    assert saw["scratch-cnn-160"] == saw["control-random-frozen"] == "Nothing: its weights are random."


def test_a_card_of_a_shipped_run(shipped):
    one = subject(shipped["medical-efficientnet-lite0"])
    rows = training_data(one)
    assert rows["License of the data"] == "CC BY 4.0"
    assert rows["Labeled images"] == "400 in total (200 per class), drawn with seed 0"
    assert rows["Test images"] == "624"
    assert operating_point(one)["Decision rule"].startswith("Pneumonia from a probability of 0.")
    said = " ".join(limits(one))
    assert "Children from one hospital" in said
    assert "Specificity is imprecise because of few test images" in said
    assert "seed(s)" not in said


def test_limitations_name_what_weakens_a_run():
    meta = replace(
        example_meta("x"), synthetic=True, leaks=3, short=("Yes",), variant="augment=none", dataset="own-mine-abc123"
    )
    said = " ".join(limits(subject(meta, seeds=1)))
    for part in ("computer-generated", "data leakage: 3 images", "Too few training images of Yes",
                 "Only 1 stored", "augment=none"):  # fmt: skip
        assert part in said
    assert subject(meta).data is None
    assert training_data(subject(meta))["License of the data"] == "not stated"


@pytest.mark.parametrize(("loss", "told"), [(0.3, True), (0.1, False), (None, False)])
def test_a_network_that_hardly_fits_its_training_images_says_so(loss, told, tmp_path):
    last = {} if loss is None else {"fit_loss": loss, "guess_loss": 0.4}
    (tmp_path / "history.jsonl").write_text(json.dumps({"epoch": 1, **last}))
    said = " ".join(limits(replace(subject(example_meta("x")), folder=tmp_path)))
    assert ("its loss on them is 75% of that of guessing" in said) == told


def test_third_parties_encoders_are_never_called_unseen(shipped):
    meta = replace(
        shipped["imagenet-efficientnet-lite0"], model="medical-medsiglip",
        encoder={"kind": "hub", "ref": "google/medsiglip-448", "source": "Google"},
    )  # fmt: skip
    assert "may have been seen too" in encoder_training_data(subject(meta))
    gone = replace(meta, model="gone", encoder={"kind": "file", "ref": "x.safetensors"})
    assert "its training data are unknown" in encoder_training_data(subject(gone))
    outside = replace(meta, encoder={"kind": "own", "ref": "../../.."})
    assert subject(outside).encoder_card is None


@pytest.mark.parametrize("name", GUIDELINES)
def test_every_item_is_answered_or_open(name, shipped):
    guideline = GUIDELINES[name]
    numbers = [item.number for item in guideline.items]
    assert len(set(numbers)) == len(numbers)
    wanted = [str(n) for n in range(1, 45 if name == "claim-2024" else 28)]
    assert list(dict.fromkeys(number.rstrip("abcdefg") for number in numbers)) == wanted
    one = subject(shipped["medical-efficientnet-lite0"])
    found = {item.topic: answer for item, answer in answered(guideline, one)}
    assert found["Funding"] == ""
    assert any("0.900 (0.880 to 0.920)" in answer for answer in found.values())
    text = as_markdown(guideline, one)
    known = sum(map(bool, found.values()))
    assert f"{known} of {len(numbers)} items are answered" in text
    assert text.count("| **open** |") == len(numbers) - known > 0
    rows = list(csv.DictReader(io.StringIO(as_csv(guideline, one))))
    assert [row["item"] for row in rows] == numbers
    assert sum(row["answer"] == "open" for row in rows) == len(numbers) - known
    assert all(line.count("|") - line.count("\\|") == 5 for line in text.splitlines() if line.startswith("|"))
