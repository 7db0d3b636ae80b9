"""Rows through timm: facts, parity with the library, and never random weights for pretrained ones."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from core.data.preprocessing import preparation
from core.data.transforms import normalize, to_unit
from core.errors import BadRequest, UnknownName, WeightsUnavailable
from core.files import sha256_of_file
from core.models import MODELS
from core.models.custom_weights import check_feature_map
from core.models.summary import outline
from core.models.timm_models import NETWORKS
from core.models.weights import FILE, weights_of
from core.types import ImageSpec
from tests.random_weights import HEAVY, build, example, file_of, put_timm

LIGHT = [facts for facts in NETWORKS if facts.name not in HEAVY]
BY_NAME = {facts.name: facts for facts in NETWORKS}


@pytest.mark.parametrize("facts", NETWORKS, ids=lambda facts: facts.name)
def test_facts_are_timms_own(facts):
    import timm

    theirs = timm.get_pretrained_cfg(facts.timm, allow_unregistered=False)
    assert theirs.hf_hub_id == MODELS[facts.name].weights.ref
    assert theirs.input_size == (3, facts.published_size or facts.size, facts.published_size or facts.size)
    assert (theirs.mean, theirs.std, theirs.interpolation) == (facts.mean, facts.std, facts.interpolation)
    assert theirs.num_classes == facts.classes
    assert theirs.license.lower() == facts.licence.lower()
    assert theirs.fixed_input_size == ("img_size" in facts.options), "convolutions take any size"


@pytest.mark.parametrize("facts", LIGHT, ids=lambda facts: facts.name)
def test_embeddings_equal_timms_own(facts, tmp_path, monkeypatch):
    """A network saved by timm for the hub, at the size it was published for."""
    theirs = put_timm(tmp_path, facts)
    monkeypatch.setenv("LOWSHOT_WEIGHTS", str(tmp_path))
    images = example(facts.name)
    with torch.no_grad():
        if facts.published_size:
            theirs.set_input_size((facts.size, facts.size))
        wanted = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
        found = build(facts.name).eval().embed(images)
    assert wanted.std() > 0
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", sorted(HEAVY))
def test_embeddings_of_heavy_networks_equal_timms_own(name):
    """Their weights would be half a gigabyte on disk; both networks hold the same tensors in memory instead."""
    import timm

    with torch.device("meta"):
        theirs = timm.create_model(BY_NAME[name].timm, pretrained=False).eval()
    model, state, random = outline(MODELS[name], 2), {}, torch.Generator().manual_seed(0)
    for key, value in theirs.state_dict().items():
        wide = (12 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1  # so that values stay about as large
        state[key] = (torch.rand(value.shape, generator=random) - 0.5).mul_(wide)
    theirs.load_state_dict(state, assign=True)
    encoder_state = {key: value for key, value in state.items() if not key.startswith("head.fc.")}
    model.encoder.network.load_state_dict(encoder_state, assign=True)
    images = example(name, 1)
    with torch.no_grad():
        found, wanted = model.embed(images), theirs.forward_head(theirs.forward_features(images), pre_logits=True)
    assert found.shape == (1, 4096)
    assert wanted.std() > 1e-3
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_map_of_a_class_token_network_is_its_patches_before_the_last_block(weights):
    model, images = build("imagenet-dino-vits16").eval(), example("imagenet-dino-vits16")
    network = model.encoder.network
    with torch.no_grad():
        tokens = network._pos_embed(network.patch_embed(images))
        for block in network.blocks[:-1]:
            tokens = block(tokens)
        features = model.encoder(images)
    assert features.shape == (2, 768, 14, 14)
    assert torch.allclose(features[:, :384], tokens[:, 1:].transpose(1, 2).unflatten(2, (14, 14)), atol=1e-5)
    assert torch.allclose(features[:, 384:, 3, 5], tokens[:, 0], atol=1e-5)
    seen = []
    model.tap.register_forward_hook(lambda _, __, output: seen.append(output.shape))
    model.tapped(features)
    assert seen == [(2, 384, 14, 14)]


@pytest.mark.parametrize("name", ["imagenet-dino-vits16", "generic-dinov2-vits14"])
def test_a_transformer_refuses_other_sizes(name):
    with pytest.raises(ValueError, match="Expected images of 224 x 224 pixels, but got 96 x 96"):
        outline(MODELS[name], 2).encoder(torch.zeros(1, 3, 96, 96, device="meta"))


def test_weights_behind_the_tap_are_the_encoders(weights):
    """They are stored, hashed and frozen once, as the encoder's; the head's own are the layers it learns."""
    model = build("imagenet-dino-vits16")
    assert {key.split(".")[0] for key in model.state_dict()} == {"encoder", "tapped"}
    assert [key for key in model.state_dict() if key.startswith("tapped")] == [
        f"tapped.head.layers.{layer}.{kind}" for layer in (0, 3) for kind in ("weight", "bias")
    ]
    with torch.no_grad():
        model.eval()
        images = example("imagenet-dino-vits16")
        before = model.embed(images)
        model.encoder.network.blocks[-1].mlp.fc2.bias.add_(1.0)
        assert not torch.allclose(model.embed(images), before)


def test_the_hash_of_the_loaded_file_is_recorded(weights):
    path = file_of(weights, "imagenet-resnet18")
    found = weights_of(MODELS["imagenet-resnet18"], "phantom")
    assert (found.kind, found.ref, found.sha256) == ("hub", "timm/resnet18.tv_in1k", sha256_of_file(path))


def test_missing_weights_name_the_way_to_them(no_weights):
    with pytest.raises(WeightsUnavailable, match=r"weights get timm/resnet18\.tv_in1k") as caught:
        build("imagenet-resnet18")
    assert "hf download timm/resnet18.tv_in1k" in str(caught.value)
    assert "copy that folder to timm/resnet18.tv_in1k in the first folder of LOWSHOT_WEIGHTS" in str(caught.value)
    assert str(no_weights) not in str(caught.value)  # pages show it to every visitor


def test_a_file_in_the_hubs_own_cache_is_found(weights, tmp_path, monkeypatch):
    """Laid out as huggingface_hub downloads: blobs, a snapshot, a ref."""
    cache = tmp_path / "hub"
    repository = cache / "models--timm--resnet18.tv_in1k"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc" / FILE).symlink_to(file_of(weights, "imagenet-resnet18"))
    monkeypatch.setenv("LOWSHOT_WEIGHTS", str(tmp_path / "nothing"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert build("imagenet-resnet18").encoder(example("imagenet-resnet18")).shape[1] == 512


def spoil(kind, path):
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
        return
    state = load_file(path)
    if kind == "lacks a tensor":
        del state["layer4.1.conv2.weight"]
    elif kind == "lacks the classifier":  # timm would load the rest and leave nothing said
        del state["fc.weight"]
    else:
        state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    save_file(state, path)


@pytest.mark.parametrize("kind", ["truncated", "lacks a tensor", "lacks the classifier", "has another shape"])
def test_a_file_that_does_not_fit_is_refused(kind, tmp_path, monkeypatch):
    put_timm(tmp_path, BY_NAME["imagenet-resnet18"])
    spoil(kind, file_of(tmp_path, "imagenet-resnet18"))
    monkeypatch.setenv("LOWSHOT_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match="does not contain the weights of resnet18"):
        build("imagenet-resnet18")


def test_pictures_are_resized_as_the_encoder_wants():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8))
    for name, how in (
        ("imagenet-resnet18", Image.Resampling.BILINEAR),
        ("imagenet-convnext-tiny", Image.Resampling.BICUBIC),
    ):
        image = MODELS[name].image
        steps = preparation("").for_encoder(image)
        assert np.array_equal(steps.image(picture, image.size, 1)[0], np.asarray(picture.resize((224, 224), how)))
    assert preparation("").stamp == ""
    assert steps.stamp == "bicubic"
    assert preparation("clahe").for_encoder(image).stamp == "clahe bicubic"


def test_preprocessing_equals_timms_own_but_for_the_crop():
    import timm
    from timm.data import create_transform

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    for facts in NETWORKS:
        image = facts.image
        given = create_transform(
            (3, image.size, image.size), mean=facts.mean, std=facts.std, interpolation=facts.interpolation, crop_pct=1.0
        )
        theirs = given(picture)
        pixels = preparation("").for_encoder(image).image(picture, image.size, 3)
        assert torch.allclose(normalize(to_unit(pixels[None]), image)[0], theirs, atol=1e-5)
    assert timm


def test_the_key_of_old_embeddings_stays_what_it_was():
    assert str(ImageSpec(160)) == "ImageSpec(size=160, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))"
    changed = [ImageSpec(160, channels=1), ImageSpec(160, dims=3), ImageSpec(160, interpolation="bicubic")]
    assert len({str(image) for image in (ImageSpec(160), *changed)}) == 4


# weights by path


def test_a_file_given_by_path_is_a_model(weights, tmp_path, monkeypatch):
    path = file_of(weights, "imagenet-resnet18")
    name = f"medical:resnet18.tv_in1k@{path}"
    spec = MODELS[name]
    assert name in MODELS
    assert name not in list(MODELS)
    assert (spec.family, spec.image.size, spec.image.interpolation) == ("medical", 224, "bilinear")
    found = weights_of(spec, "kermany")
    assert (found.kind, found.sha256) == ("file", sha256_of_file(path))
    images = example("imagenet-resnet18")
    with torch.no_grad():
        ours, row = (one.eval().embed(images) for one in (spec.build(2, "kermany", 0), build("imagenet-resnet18")))
    assert torch.equal(ours, row)
    assert outline(spec, 2).embed(torch.zeros(1, 3, 64, 64, device="meta")).shape == (1, 512)
    below = MODELS["medical:resnet18@timm/resnet18.tv_in1k"]  # a folder below LOWSHOT_WEIGHTS
    assert weights_of(below, "kermany").sha256 == found.sha256
    assert below.slug == "medical-resnet18-resnet18.tv_in1k"


@pytest.mark.parametrize("classes", [0, 5])
def test_a_file_with_another_classifier_or_none_is_read_in_full(tmp_path, classes):
    network = put_timm(tmp_path, BY_NAME["imagenet-resnet18"], num_classes=classes)
    path = file_of(tmp_path, "imagenet-resnet18")
    images = example("imagenet-resnet18")
    with torch.no_grad():
        wanted = network.forward_head(network.forward_features(images), pre_logits=True)
        model = MODELS[f"imagenet:resnet18@{path}"].build(3, "phantom", 0).eval()
        assert torch.allclose(model.embed(images), wanted, atol=1e-5)
    state = load_file(path)
    del state["layer1.0.bn1.bias"]
    save_file(state, path)
    with pytest.raises(WeightsUnavailable, match="does not contain"):
        MODELS[f"imagenet:resnet18@{path}"].build(3, "phantom", 0)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("resnet18@/x.safetensors", UnknownName, "FAMILY:ARCHITECTURE@PATH"),
        ("other:resnet18@/x.safetensors", UnknownName, "FAMILY:ARCHITECTURE@PATH"),
        ("medical:resnet17@/x.safetensors", UnknownName, "no architecture 'resnet17'"),
        ("medical:resnet18.bogus@/x.safetensors", UnknownName, "no architecture 'resnet18.bogus'"),
        ("medical:resnet18@/nowhere/x.safetensors", WeightsUnavailable, "nothing at"),
        ("medical:resnet18@{folder}/weights.pth", WeightsUnavailable, "Expected a safetensors file"),
        ("medical:resnet18@{folder}/text.safetensors", WeightsUnavailable, "not a safetensors file"),
        ("medical:siglip@{folder}", WeightsUnavailable, "Expected a safetensors file, or a folder with preproc"),
    ],
)
def test_a_wrong_path_or_name_is_reported(name, error, said, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"anything")
    (tmp_path / "text.safetensors").write_bytes(b"anything")
    with pytest.raises(error, match=said):
        MODELS[name.format(folder=tmp_path)].build(2, "phantom", 0)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "mixer_b16_224", "vit_base_patch16_siglip_224"])
def test_networks_without_a_feature_map_are_refused(name):
    with pytest.raises(BadRequest, match="no feature map"):
        check_feature_map(name)


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "vit_small_patch16_224.augreg_in1k"])
def test_networks_with_a_feature_map_or_a_class_token_are_taken(name):
    check_feature_map(name)
