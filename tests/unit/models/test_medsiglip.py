"""MedSigLIP through transformers: parity with the library's own model and processor on a tiny relative."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from core.data.preprocessing import preparation
from core.data.transforms import normalize, to_unit
from core.errors import WeightsUnavailable
from core.explain import EXPLAINERS, ExplainerInput, explain
from core.files import sha256_of_file
from core.models import MODELS
from core.models.weights import FILE, exposure_of, weights_of
from tests.random_weights import build, example, put_siglip

NAME = "medical-medsiglip"
SPEC = MODELS[NAME]


@pytest.fixture
def tower(tmp_path, monkeypatch):
    """A tower alone, where the hub's folder would lie."""
    monkeypatch.setenv("LOWSHOT_WEIGHTS", str(tmp_path))
    return put_siglip(tmp_path / SPEC.weights.ref)


@pytest.mark.parametrize("whole", [False, True])
def test_embeddings_equal_the_librarys_own(tmp_path, monkeypatch, whole):
    from transformers import SiglipModel, SiglipVisionModel

    monkeypatch.setenv("LOWSHOT_WEIGHTS", str(tmp_path))
    folder = put_siglip(tmp_path / SPEC.weights.ref, whole=whole)
    theirs = SiglipModel.from_pretrained(folder).vision_model if whole else SiglipVisionModel.from_pretrained(folder)
    model, images = build(NAME).eval(), example(NAME)
    with torch.no_grad():
        wanted = theirs.eval()(pixel_values=images).pooler_output
        found = model.embed(images)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.allclose(found.norm(dim=1), torch.ones(2), atol=1e-2), "it must not be brought to length 1"
    assert model.encoder(images).shape == (2, 8, 32, 32)


def test_preprocessing_equals_the_processors(tower):
    from transformers import AutoImageProcessor, SiglipImageProcessorPil

    random = np.random.default_rng(0)
    for shape in ((600, 500, 3), (300, 448, 3)):
        picture = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
        pixels = preparation("").for_encoder(SPEC.image).image(picture, 448, 3)
        ours = normalize(to_unit(pixels[None]), SPEC.image)
        theirs = SiglipImageProcessorPil.from_pretrained(tower)(picture, return_tensors="pt").pixel_values
        assert torch.allclose(ours, theirs, atol=1e-5)
        quick = AutoImageProcessor.from_pretrained(tower)(picture, return_tensors="pt").pixel_values
        assert (ours - quick).abs().max() <= 2 / 127.5 + 1e-5  # its resizing rounds to integers otherwise


def test_grad_cam_is_the_gradient_through_the_attention_pool(tower):
    model, images = build(NAME, 2).eval(), example(NAME, 1)
    with torch.no_grad():
        features = model.encoder(images)
    asked = [ExplainerInput(model, images, features, torch.tensor([target])) for target in (0, 1)]
    maps = [explain(EXPLAINERS["grad-cam"], one)[0] for one in asked]
    assert not all(one.degenerate for one in maps)
    taken = features.clone().requires_grad_()
    gradient = torch.autograd.grad(model.tapped(taken)[0, 0], taken)[0]
    wanted = (gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1).relu()
    found = EXPLAINERS["grad-cam"].attribute(asked[0])
    assert torch.allclose(found.maps, wanted, atol=1e-7)


def test_another_size_of_image_is_refused(tower):
    with pytest.raises(ValueError, match="Expected images of 448 x 448 pixels, but got 224 x 224"):
        build(NAME).encoder(torch.zeros(1, 3, 224, 224))


def test_the_head_is_the_one_that_all_frozen_families_share(tower):
    layers = [type(layer).__name__ for layer in build(NAME).head.layers]
    assert layers == ["Linear", "ReLU", "Dropout", "Linear"]
    assert SPEC.strategies == ("frozen", "frozen-logistic")


def test_the_hash_of_the_loaded_file_is_recorded(tower):
    assert weights_of(SPEC, "kermany").sha256 == sha256_of_file(tower / FILE)


def test_a_file_without_every_tensor_is_refused(tower):
    """Transformers would draw what is missing at random and only warn."""
    state = load_file(tower / FILE)
    lost = next(key for key in state if key.endswith("layers.1.mlp.fc1.weight"))
    del state[lost]
    save_file(state, tower / FILE, {"format": "pt"})
    with pytest.raises(WeightsUnavailable, match=r"lacks 1 tensors.*fc1.weight"):
        build(NAME)


def test_damaged_and_foreign_files_are_refused(tower):
    content = (tower / FILE).read_bytes()
    (tower / FILE).write_bytes(content[:200])
    with pytest.raises(WeightsUnavailable, match="does not contain a transformers SigLIP"):
        build(NAME)
    (tower / FILE).write_bytes(content)
    (tower / "config.json").write_text("{")
    with pytest.raises(WeightsUnavailable, match="does not contain a transformers SigLIP"):
        build(NAME)


@pytest.mark.parametrize(
    "changed", [{"image_mean": [0.4] * 3}, {"resample": 3}, {"size": {"height": 384, "width": 384}}]
)
def test_a_processor_that_prepares_otherwise_is_refused(tower, changed):
    path = tower / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(WeightsUnavailable, match="prepares images as"):
        build(NAME)
    path.write_text("{")
    with pytest.raises(WeightsUnavailable, match="is not a transformers processor"):
        build(NAME)


def test_a_tower_of_another_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_WEIGHTS", str(tmp_path))
    folder = put_siglip(tmp_path / SPEC.weights.ref, size=28)
    stated = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**stated, "size": {"height": 448, "width": 448}}))
    with pytest.raises(WeightsUnavailable, match="Expected a tower for 448 pixels"):
        build(NAME)


def test_missing_weights_name_the_steps(no_weights):
    with pytest.raises(
        WeightsUnavailable, match=r"accept the terms on https://huggingface\.co/google/medsiglip-448"
    ) as e:
        build(NAME)
    assert "hf auth login" in str(e.value)
    assert "LOWSHOT_WEIGHTS" in str(e.value)


def test_its_training_data_are_named_and_never_called_unseen():
    assert exposure_of(SPEC, "ham10000") == exposure_of(SPEC, "dermamnist") == "unknown"
    assert exposure_of(SPEC, "kermany") == "not named"


def test_a_folder_given_by_path_is_a_model(tmp_path):
    folder = put_siglip(tmp_path / "mine", size=56)
    spec = MODELS[f"medical:siglip@{folder}"]
    assert (spec.image.size, spec.image.mean, spec.strategies) == (56, (0.5, 0.5, 0.5), SPEC.strategies)
    assert spec.build(2, "kermany", 0).encoder(torch.zeros(1, 3, 56, 56)).shape == (1, 8, 4, 4)
    assert weights_of(spec, "kermany").sha256 == sha256_of_file(folder / FILE)


def test_the_outline_is_the_published_tower():
    from core.models.summary import architecture

    facts = architecture(SPEC)
    assert (facts.features, facts.embedding) == ((1152, 32, 32), 1152)
    assert 425e6 < facts.parameters - facts.head_parameters < 430e6
