"""Every model: shape, gradients, seeds, and which medical encoder a data set may use."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import WeightsUnavailable
from core.models import MODELS
from core.models.encoders import imagenet_lite0_state, lite0_network
from core.models.medical_encoders import find_medical_encoder, relatives, save_own_encoder, weights_of
from core.models.summary import outline
from core.models.table import LITE0
from core.models.weights import package_file
from tests.random_weights import RUN, build, example


@pytest.mark.parametrize("name", RUN)
def test_every_model_has_one_shape(name, weights):
    spec, model, images = MODELS[name], build(name).eval(), example(name)
    with torch.no_grad():
        features = model.encoder(images)
        logits = model(images)
        assert features.ndim == 2 + spec.image.dims
        assert logits.shape == (2, 3)
        assert torch.isfinite(logits).all()
        assert torch.equal(model.tapped(features), logits)
        assert torch.equal(model.head.layers(model.embed(images)), logits)
        linear = next(layer for layer in model.head.layers if isinstance(layer, torch.nn.Linear))
        assert sum(model.blocks) == linear.in_features
        assert len(model.blocks) == (2 if "joined" in name else 1)


def test_read_after_every_stage_an_image_is_the_means_of_the_stages_maps():
    whole, stages = (MODELS[f"imagenet-efficientnet-lite0{end}"].build(2, "", 0).eval() for end in ("", "-stages"))
    maps, network = [], whole.encoder.network
    for stage in network.feature_info:
        network.get_submodule(stage["module"]).register_forward_hook(lambda _, __, out: maps.append(out))
    images = torch.rand((2, 3, 160, 160), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole(images)
        found = stages.embed(images)
    assert [one.shape[-1] for one in maps] == [80, 40, 20, 10, 5]
    assert found.shape == (2, 512)
    assert torch.allclose(found, torch.cat([one.mean((2, 3)) for one in maps], dim=1), atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_gradient_reaches_every_parameter(name):
    """Without values: what is connected does not depend on them."""
    model = outline(MODELS[name], 3).train()
    model(torch.zeros(4, *MODELS[name].image.shape, device="meta")).square().sum().backward()
    lost = [key for key, value in model.named_parameters() if value.grad is None]
    assert lost == []


@pytest.mark.parametrize("name", MODELS)
def test_every_outline_is_the_model_without_values(name, weights):
    """Of those that are not built here, the map is looked at; of the others, every tensor."""
    spec = MODELS[name]
    empty = outline(spec, 3)
    assert {value.device.type for value in empty.state_dict().values()} == {"meta"}
    images = torch.zeros(2, *spec.image.shape, device="meta")
    features = empty.encoder(images)
    seen = []
    empty.tap.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    assert empty.tapped(features).shape == (2, 3)
    assert min(seen[0][2:]) >= 2, "a map of one place explains nothing"
    if name in RUN and name != "medical-medsiglip":  # of which the test's checkpoint is a tiny relative
        built = build(name).state_dict()
        assert {k: v.shape for k, v in empty.state_dict().items()} == {k: v.shape for k, v in built.items()}


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].weights.kind == "random"])
def test_random_weights_differ_by_seed_and_repeat(name):
    first, same, other = (build(name, 2, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_the_frozen_families_share_input_and_head():
    names = ("imagenet-efficientnet-lite0", "medical-efficientnet-lite0", "control-random-frozen")
    assert len({str(MODELS[name].image) for name in names}) == 1
    assert len({str(build(name).head) for name in names}) == 1
    assert [type(layer).__name__ for layer in build(names[0]).head.layers] == ["Linear", "ReLU", "Dropout", "Linear"]


def test_the_small_cnn_has_ten_layers():
    layers = [type(layer).__name__ for layer in build("scratch-cnn").encoder]
    assert layers == ["Conv2d", "ReLU", "MaxPool2d"] * 3
    assert [type(layer).__name__ for layer in build("scratch-cnn").head.layers] == ["Linear"]


@pytest.mark.parametrize("name", ["scratch-groupnorm-cnn", "scratch-resnet18-3d"])
def test_with_group_normalization_a_prediction_depends_on_its_image_alone(name):
    model, images = build(name).train(), example(name, 3)
    with torch.no_grad():
        assert torch.allclose(model(images)[:1], model(images[:1]), atol=1e-4)
        assert not any(isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) for layer in model.modules())


def test_the_packages_tensors_get_timms_names():
    state = imagenet_lite0_state()
    published = torch.load(package_file(MODELS[LITE0].weights), map_location="cpu", weights_only=True)
    for name, theirs in (
        ("conv_stem.weight", "_conv_stem.weight"), ("blocks.0.0.bn2.bias", "_blocks.0._bn2.bias"),
        ("blocks.1.1.conv_dw.weight", "_blocks.2._depthwise_conv.weight"),
        ("blocks.6.0.conv_pwl.weight", "_blocks.15._project_conv.weight"), ("classifier.bias", "_fc.bias"),
    ):  # fmt: skip
        assert torch.equal(state[name], published[theirs]), name


@pytest.mark.parametrize(("picture", "index"), [("chelsea", 285), ("coffee", 967), ("rocket", 657)])
def test_imagenet_weights_know_everyday_things(picture, index):
    """285 Egyptian cat, 967 espresso, 657 missile."""
    from skimage import data

    network = lite0_network().eval()
    network.load_state_dict(imagenet_lite0_state())
    image = np.asarray(Image.fromarray(getattr(data, picture)()).resize((224, 224)))
    batch = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        best = network(batch).topk(2).indices[0]
    assert index in best.tolist()


def test_logits_equal_timms_own():
    network = lite0_network().eval()
    network.load_state_dict(imagenet_lite0_state())
    images = torch.randn(2, 3, 96, 96)
    model = build("imagenet-efficientnet-lite0").eval()
    with torch.no_grad():
        assert torch.allclose(
            model.embed(images), network.forward_head(network.forward_features(images), pre_logits=True)
        )


@pytest.fixture
def encoders(tmp_path, monkeypatch):
    monkeypatch.setattr("core.models.medical_encoders.encoders_folder", lambda: tmp_path)
    return tmp_path


def card(seen, left_out):
    return {"seen": seen, "left_out": left_out, "licence": "test"}


def test_only_an_encoder_audited_against_the_target_is_taken(encoders):
    state = {"weight": torch.arange(4.0), "steps": torch.tensor(3)}
    save_own_encoder(encoders / "m" / "a", state, card(["pneumoniamnist"], ["ham10000"]))
    with pytest.raises(WeightsUnavailable, match="never seen"):
        find_medical_encoder("m", "kermany")
    save_own_encoder(encoders / "m" / "b", state, card(["malaria"], ["kermany", "pneumoniamnist"]))
    assert find_medical_encoder("m", "kermany").name == "b"
    assert find_medical_encoder("m", "ham10000").name == "a"
    with pytest.raises(WeightsUnavailable, match="never seen"):
        find_medical_encoder("m", "covid-radiography")  # not seen, but never audited against it
    assert find_medical_encoder("m", "phantom").name == "b"  # audited against more sets
    assert find_medical_encoder("m", "own-images-123456").name == "b"
    assert torch.equal(weights_of(encoders / "m" / "b")["weight"], state["weight"])
    (encoders / "m" / "c").mkdir()
    (encoders / "m" / "c" / "card.json").write_text("{")
    assert find_medical_encoder("m", "kermany").name == "b"  # a damaged one does not stand in the way
    with pytest.raises(WeightsUnavailable, match=r"in c has no readable|of the encoder in c lacks"):
        find_medical_encoder("m", "covid-radiography")


def test_an_encoder_is_replaced_as_a_whole(encoders):
    for value in (1.0, 2.0):
        save_own_encoder(encoders / "m" / "a", {"weight": torch.full((3,), value)}, card([], []))
    assert weights_of(find_medical_encoder("m", "phantom"))["weight"].tolist() == [2.0] * 3
    assert [path.name for path in (encoders / "m").iterdir()] == ["a"]


def test_an_incomplete_card_is_reported(encoders):
    save_own_encoder(encoders / "m" / "a", {"weight": torch.arange(4.0)}, {"seen": []})
    with pytest.raises(WeightsUnavailable, match="lacks 'left_out'"):
        find_medical_encoder("m", "kermany")


def test_a_changed_encoder_is_refused(encoders):
    save_own_encoder(encoders / "m" / "b", {"weight": torch.arange(4.0)}, card([], ["kermany", "pneumoniamnist"]))
    path = encoders / "m" / "b" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsUnavailable, match="does not match its card"):
        weights_of(find_medical_encoder("m", "kermany"))


def test_relatives_go_both_ways():
    assert relatives("kermany") == relatives("pneumoniamnist") == {"kermany", "kermany-3", "pneumoniamnist"}
    assert relatives("own-xrays") == {"own-xrays"}
