"""Cards of networks, for every row of `MODELS`."""

import pytest

from core.cards.networks import encoder_training_data, input_facts, shape_facts, title_of, weights_facts
from core.models import FAMILY_TITLES, MODELS
from core.models.medical_encoders import CARD_FILE
from core.models.specs import by_family
from core.models.summary import architecture
from core.models.weights import state_of
from core.paths import PROJECT

ENCODERS = PROJECT / "checkpoints" / "encoders" / "medical-efficientnet-lite0"
DINOV2 = MODELS["generic-dinov2-vits14"]


def test_networks_are_ordered_by_family_and_have_distinct_titles():
    families = [spec.family for spec in by_family()]
    assert list(dict.fromkeys(families)) == list(FAMILY_TITLES)
    assert families == sorted(families, key=list(FAMILY_TITLES).index)
    assert len({title_of(spec) for spec in by_family()}) == len(MODELS)
    assert title_of(MODELS["scratch-cnn"]) == "A · Small CNN"


@pytest.mark.parametrize("name", MODELS)
def test_every_network_card_names_training_data_and_source_of_weights(name, no_weights):
    spec = MODELS[name]
    assert spec.summary.endswith((".", "?"))
    saw, facts, given = encoder_training_data(spec), weights_facts(spec), input_facts(spec.image)
    assert all([*saw, *facts.values(), *given.values()])
    assert (saw == ("Nothing: its weights are random.",)) == (spec.weights.kind == "random")
    assert ("never" in " ".join(saw)) is False
    here = facts.get("On this machine", "")
    assert (f"weights get {spec.weights.ref}" in here) == (spec.weights.kind in ("hub", "converted"))
    assert here.startswith("yes") == (state_of(spec.weights)[0] == "with the program")
    assert facts.get("Terms to accept", "") == spec.weights.terms
    assert given["Kind"] == {2: "images", 3: "volumes"}[spec.image.dims]


def test_available_weights_are_shown_as_available(weights):
    assert weights_facts(MODELS["imagenet-resnet18"])["On this machine"] == "yes"


def test_dinov2_learned_on_web_images_and_not_as_imagenet_networks_do():
    assert "not ImageNet pretraining: pretrained on 142 million unlabeled web images" in DINOV2.summary
    assert "web images" in encoder_training_data(DINOV2)[0]


def test_sets_that_third_parties_saw_or_may_have_seen_are_named():
    assert "COVID-19 Radiography" in encoder_training_data(MODELS["medical-xrv-densenet121"])[1]
    said = encoder_training_data(MODELS["medical-medsiglip"])
    assert "may have been seen too" in said[0]
    assert said[1:] == ("It is unknown whether it was trained on: Skin lesions (HAM10000).",)


def test_our_encoders_are_listed_one_by_one(tmp_path, monkeypatch):
    spec = MODELS["medical-efficientnet-lite0-slices"]
    told = [one.partition(": ")[::2] for one in encoder_training_data(spec)]
    assert [name for name, _ in told] == sorted(card.parent.name for card in ENCODERS.glob(f"*/{CARD_FILE}"))
    assert told
    assert all(said.startswith("It started from") and "ImageNet" in said for _, said in told)
    monkeypatch.setattr("core.models.medical_encoders.encoders_folder", lambda: tmp_path)
    assert "No encoder of this kind has been pretrained" in encoder_training_data(spec)[0]
    assert "trainer pretrain" in weights_facts(spec)["On this machine"]
    for name in ("hurt", ".staging"):
        (tmp_path / spec.weights.ref / name).mkdir(parents=True)
        (tmp_path / spec.weights.ref / name / CARD_FILE).write_text("{")
    assert [one.partition(":")[0] for one in encoder_training_data(spec)] == ["hurt"]
    assert weights_facts(spec)["License"] == "not stated"


def test_the_input_in_numbers():
    assert input_facts(MODELS["imagenet-resnet50"].image)["Normalization"] == (
        "values in [0, 1], minus 0.485, 0.456, 0.406, divided by 0.229, 0.224, 0.225; from -2.118 to 2.64"
    )
    gray = input_facts(MODELS["medical-xrv-densenet121"].image)
    assert gray["Channels"].startswith("1;")
    assert gray["Normalization"].endswith("from -1024 to 1024")
    assert input_facts(MODELS["scratch-resnet18-3d"].image)["Size"] == "32 x 32 x 32 voxels"


def test_the_shape_in_numbers():
    def told(name):
        return shape_facts(MODELS[name], architecture(MODELS[name]))

    head = 1280 * 512 + 512 + 512 * 2 + 2
    lite0 = told("imagenet-efficientnet-lite0")
    assert (lite0["Feature map"], lite0["Embedding"]) == ("1280 x 5 x 5", "1,280 numbers")
    assert lite0["Trainable"] == f"{head:,} (the head) with a frozen encoder; up to 4,027,906 with fine-tuning"
    assert told("control-random-frozen")["Trainable"] == f"{head:,} (the head) with a frozen encoder"
    assert told("scratch-cnn")["Trainable"] == "all"
    assert told("scratch-resnet18-3d")["Multiply-adds"].endswith("for one volume")
