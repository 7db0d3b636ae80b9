"""TorchXRayVision's weights: converted without running their pickle, and the same network without their library."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.data.transforms import normalize, to_unit
from core.errors import WeightsUnavailable
from core.files import sha256_of_file
from core.models import MODELS, xrv
from core.models.summary import outline
from core.models.weights import exposure_of, weights_of
from tests.random_weights import build, file_of, put_xrv

SPEC = MODELS[xrv.NAME]


@pytest.mark.parametrize("old_format", [True, False])
def test_embeddings_equal_the_librarys_own(tmp_path, monkeypatch, old_format):
    """Published files are of the format before PyTorch 1.6."""
    monkeypatch.setenv("LOWSHOT_WEIGHTS", str(tmp_path))
    theirs = put_xrv(tmp_path, tmp_path / "published.pt", old_format)
    images = (torch.rand(2, 1, 224, 224) * 2 - 1) * 1024
    with torch.no_grad():
        wanted = theirs.features2(images)
        assert torch.allclose(build(xrv.NAME).eval().embed(images), wanted, rtol=1e-5)
    assert weights_of(SPEC, "kermany").sha256 == sha256_of_file(file_of(tmp_path, xrv.NAME))


@pytest.mark.parametrize("shape", [(1, 1, 96, 96), (1, 1, 224, 448)])
def test_another_size_of_image_is_refused(shape):
    """Their library would resize it and warn."""
    with pytest.raises(ValueError, match=f"Expected images of 224 x 224 pixels, but got {shape[2]} x {shape[3]}"):
        outline(SPEC, 2).encoder(torch.zeros(shape, device="meta"))


def test_preprocessing_equals_the_librarys_own():
    import torchxrayvision

    pixels = np.random.default_rng(0).integers(0, 256, (1, 1, 224, 224), dtype=np.uint8)
    wanted = torchxrayvision.utils.normalize(pixels[0, 0], 255)
    found = normalize(to_unit(pixels), SPEC.image)
    assert found.shape == (1, 1, 224, 224)
    assert np.allclose(found[0, 0].numpy(), wanted, atol=1e-3)  # of a range of 2048
    assert found.min() == -1024
    colored = normalize(to_unit(pixels.repeat(3, axis=1)), SPEC.image)
    assert torch.allclose(colored, found, atol=1e-3)


def test_the_address_and_order_are_the_librarys():
    from torchxrayvision.models import model_urls

    assert model_urls["densenet121-res224-all"]["weights_url"] == xrv.ADDRESS


def test_only_the_published_file_is_opened(tmp_path):
    file = tmp_path / "published.pt"
    file.write_bytes(b"anything")
    with pytest.raises(WeightsUnavailable, match="It was not opened"):
        xrv.convert(file, tmp_path)


class Harm:
    """Would make a folder when unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("old_format", [True, False])
def test_no_code_of_the_file_is_run(tmp_path, old_format):
    file, mark = tmp_path / "harm.pt", tmp_path / "made"
    torch.save({"model": Harm(str(mark))}, file, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(WeightsUnavailable, match=r"it contains posix\.mkdir"):
        xrv.convert(file, tmp_path, sha256_of_file(file))
    assert not mark.exists()


@pytest.mark.parametrize("network", [torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3))])
def test_another_network_is_refused(tmp_path, network):
    file = tmp_path / "other.pt"
    torch.save(network, file)
    with pytest.raises(WeightsUnavailable, match="does not contain a DenseNet-121"):
        xrv.convert(file, tmp_path, sha256_of_file(file))
    assert not (tmp_path / xrv.REF).exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02not a pickle"])
def test_a_damaged_file_is_refused(tmp_path, content):
    file = tmp_path / "damaged.pt"
    file.write_bytes(content)
    with pytest.raises(WeightsUnavailable, match="not a pickled DenseNet"):
        xrv.convert(file, tmp_path, sha256_of_file(file))


def test_a_converted_file_without_every_tensor_is_refused(weights, tmp_path, monkeypatch):
    state = load_file(file_of(weights, xrv.NAME))
    del state["features.norm5.weight"]
    (tmp_path / xrv.REF).mkdir(parents=True)
    save_file(state, tmp_path / xrv.REF / "model.safetensors")
    monkeypatch.setenv("LOWSHOT_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=r"features.norm5.weight differs"):
        build(xrv.NAME)


@pytest.mark.parametrize("dataset", ["nih-chestxray14", "chestmnist", "chexpert", "chexpert@uncertain=ones"])
def test_it_is_refused_for_what_it_saw(dataset, weights):
    assert exposure_of(SPEC, dataset) == "seen"
    with pytest.raises(WeightsUnavailable, match="trained on images of"):
        weights_of(SPEC, dataset)
    with pytest.raises(WeightsUnavailable, match="trained on images of"):
        SPEC.build(2, dataset, 0)


def test_it_is_taken_for_what_its_makers_do_not_name(weights):
    assert exposure_of(SPEC, "kermany") == exposure_of(SPEC, "pneumoniamnist") == "not named"
    assert weights_of(SPEC, "kermany").sha256
