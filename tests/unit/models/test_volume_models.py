"""Networks for volumes: inflated kernels, encoders over slices, attention, and data sets in MedMNIST's format."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.datasets.phantom import make_cube
from core.data.transforms import normalize, to_unit
from core.errors import BadRequest
from core.inference.predictor import Predictor
from core.metrics.calibration import probabilities_of
from core.models import MODELS
from core.models.classifier import average_pool, mlp_layers
from core.models.volume_models import SliceAttention, SlicePool, SlicesEncoder, inflate
from core.runs import open_store, read_predictions, read_run
from core.runs.selection import candidates
from core.types import ImageSpec
from tests.random_weights import build, example, file_of
from trainer.training.embedding_cache import EmbeddingCache
from trainer.training.heads import fit_mlp, logits_of
from trainer.training.run_cell import run_cell
from trainer.training.run_plan import plan_run
from trainer.training.settings import Cell, Settings
from trainer.training.strategies import STRATEGIES

VOLUMES = [name for name in MODELS if MODELS[name].image.dims == 3]


def put_medmnist(folder, name, counts=(40, 8, 12)):
    """An archive as MedMNIST publishes its volumes: (N, 28, 28, 28) uint8, labels (N, 1)."""
    arrays = {}
    for part, count in zip(("train", "val", "test"), counts, strict=True):
        cubes = [make_cube(1000 * len(part) + index, index % 2)[0][:28, :28, :28] for index in range(count)]
        arrays[f"{part}_images"] = np.stack(cubes)
        arrays[f"{part}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    folder.mkdir(parents=True)
    np.savez_compressed(folder / f"{name}.npz", **arrays)


@pytest.fixture(scope="module")
def cubes(tmp_path_factory):
    """A small set of volumes, read from an archive."""
    root = tmp_path_factory.mktemp("data")
    put_medmnist(root / "medmnist", "nodulemnist3d")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("LOWSHOT_DATA", str(root))
        return load_dataset(DATASETS["nodulemnist3d"])


def test_an_inflated_kernel_sees_a_volume_without_depth_as_its_slice():
    torch.manual_seed(0)
    two = nn.Sequential(nn.Conv2d(3, 4, 5, stride=2, padding=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    two[1].running_mean.uniform_(-1, 1)
    picture = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        wanted = two.eval()(picture)
        three = inflate(nn.Sequential(*two)).eval()
        found = three(picture[:, :, None].expand(-1, -1, 24, -1, -1))
    assert found.shape == (2, 4, 6, 6, 6)
    assert torch.allclose(found[:, :, 2:4], wanted[:, :, None].expand(-1, -1, 2, -1, -1), atol=1e-5)


def test_inflation_keeps_every_weight_of_the_published_network(weights):
    two = MODELS["imagenet-resnet18"].build(2, "phantom-3d", 0).encoder.network.state_dict()
    three = build("imagenet-resnet18-inflated").encoder.network.state_dict()
    assert set(two) == set(three)
    for name, value in two.items():
        if value.ndim == 4:
            assert torch.allclose(three[name].sum(dim=2), value, atol=1e-6)
            assert torch.equal(three[name][:, :, 0], three[name][:, :, -1])
        else:
            assert torch.equal(three[name], value)


class OverDepth(nn.Module):
    """A layer for images on a volume: the mean, or for pooling the maximum, over neighboring slices, then the layer on
    each slice. With kernels that are alike along depth this is what a layer for volumes does.
    """

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, volumes):
        if isinstance(self.layer, nn.Conv2d | nn.MaxPool2d):
            side, stride, padding = (
                one[0] if isinstance(one, tuple) else one
                for one in (self.layer.kernel_size, self.layer.stride, self.layer.padding)
            )
            mean = isinstance(self.layer, nn.Conv2d)
            volumes = F.pad(volumes, (0, 0, 0, 0, padding, padding), value=0.0 if mean else -torch.inf)
            volumes = (F.avg_pool3d if mean else F.max_pool3d)(volumes, (side, 1, 1), (stride, 1, 1))
        slices = self.layer(volumes.transpose(1, 2).flatten(0, 1))
        return slices.unflatten(0, (len(volumes), -1)).transpose(1, 2)


def over_depth(network):
    for name, layer in network.named_children():
        takes_slices = isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d)
        setattr(network, name, OverDepth(layer) if takes_slices else over_depth(layer))
    return network


def test_the_inflated_networks_embedding_equals_the_published_networks_layers_slice_by_slice(weights):
    import timm

    name = "imagenet-resnet18"
    published = timm.create_model("resnet18.tv_in1k", pretrained=False).eval()
    published.load_state_dict(load_file(file_of(weights, name)))
    volumes = torch.randn(1, *MODELS["imagenet-resnet18-inflated"].image.shape)
    model = build("imagenet-resnet18-inflated").eval()
    with torch.no_grad():
        wanted = over_depth(published).forward_features(volumes).mean(dim=(2, 3, 4))
        found = model.embed(volumes)
    assert wanted.shape == (1, 512)
    assert wanted.std() > 0.01
    assert torch.allclose(found, wanted, atol=1e-5)


def test_far_from_its_ends_a_volume_without_depth_has_its_slices_map(weights):
    """The network sees 435 voxels around a place; the volume is deeper than that, and one place of its map is free."""
    picture = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        wanted = build("imagenet-resnet18").eval().encoder(picture)
        model = build("imagenet-resnet18-inflated").eval()
        found = model.encoder(picture[:, :, None].expand(-1, -1, 480, -1, -1))
    assert found.shape == (1, 512, 15, 1, 1)
    assert torch.allclose(found[:, :, 7], wanted, atol=1e-5)
    assert not torch.allclose(found[:, :, 0], wanted, atol=1e-2), "at its ends it sees nothing beyond"


def test_a_layer_without_a_counterpart_is_reported():
    with pytest.raises(TypeError, match="AvgPool2d has no counterpart"):
        inflate(nn.Sequential(nn.AvgPool2d(2)))


def test_random_kernels_differ_along_depth():
    kernel = build("scratch-resnet18-3d").encoder.network.layer1[0].conv1.weight.detach()
    assert not torch.allclose(kernel[:, :, 0], kernel[:, :, 1])
    assert kernel.std().item() == pytest.approx((2 / (64 * 27)) ** 0.5, rel=0.05)


def test_a_slice_is_seen_as_an_image():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU())
    volumes = torch.randn(6, 3, 32, 16, 16)  # 192 slices: more than one pass
    with torch.no_grad():
        maps = SlicesEncoder(encoder, 16)(volumes)
        assert maps.shape == (6, 5, 32, 8, 8)
        assert torch.allclose(maps[4, :, 7], encoder(volumes[4:5, :, 7])[0], atol=1e-6)


def test_the_mean_over_slices_is_the_mean_of_their_embeddings():
    maps = torch.randn(2, 5, 4, 3, 3)
    slices = SlicePool()(maps).unflatten(1, (4, 5))
    assert torch.allclose(slices[1, 2], maps[1, :, 2].mean(dim=(1, 2)), atol=1e-6)
    assert torch.allclose(average_pool(3)(maps), slices.mean(dim=1), atol=1e-6)


def test_attention_over_slices_by_hand():
    attention = SliceAttention(2)
    nn.init.zeros_(attention.score[3].weight)
    slices = torch.tensor([[[1.0, 5.0], [7.0, 3.0]]])
    assert torch.allclose(attention(slices.flatten(1)), torch.tensor([[4.0, 4.0]]))  # nothing scored: the mean
    nn.init.constant_(attention.score[3].weight, 1e3)  # everything on the slice that scores higher
    with torch.no_grad():
        best = attention.score(slices)[0, :, 0].argmax()
        assert torch.allclose(attention(slices.flatten(1))[0], slices[0, best], atol=1e-3)
        assert torch.allclose(attention(slices.flip(1).flatten(1)), attention(slices.flatten(1)), atol=1e-5)


def test_attention_learns_where_to_look_with_the_head():
    """One of sixteen slices holds the evidence; the mean drowns it in the noise of the others."""
    random = np.random.default_rng(0)
    labels = np.arange(300) % 2
    slices = random.normal(size=(300, 1, 16, 8)).astype(np.float32)
    at = random.integers(0, 16, 300)
    slices[np.arange(300), 0, at, 0] = 6
    slices[np.arange(300), 0, at, 1] = np.where(labels == 1, 3.0, -3.0)
    embeddings = slices.reshape(300, 1, 128)
    settings = Settings(epochs=1, min_steps=250, batch_size=32, lr=3e-3, weight_decay=1e-2)
    torch.manual_seed(0)
    weighed = nn.Sequential(SliceAttention(8), *mlp_layers(8, 2))
    head = fit_mlp(weighed, embeddings[:200], labels[:200], settings, 0)
    attended = roc_auc_score(labels[200:], logits_of(head, embeddings[200:, 0])[:, 1])
    means = slices.mean(axis=2)
    plain = fit_mlp(mlp_layers(8, 2), means[:200], labels[:200], settings, 0)
    averaged = roc_auc_score(labels[200:], logits_of(plain, means[200:, 0])[:, 1])
    assert attended > 0.95
    assert attended > averaged + 0.03


def test_volumes_are_brought_to_an_encoders_channels():
    voxels = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8, 8), dtype=np.uint8)
    one = normalize(to_unit(voxels), ImageSpec(8, channels=1, dims=3))
    three = normalize(to_unit(voxels), ImageSpec(8, mean=(0.1, 0.2, 0.3), dims=3))
    assert one.shape == (2, 1, 8, 8, 8)
    assert three.shape == (2, 3, 8, 8, 8)
    assert torch.allclose(three[:, 2], (to_unit(voxels)[:, 0] - 0.3) / 0.5)


def test_models_and_data_sets_go_together_by_dimension(cubes):
    flat = replace(cubes, spec=DATASETS["phantom"])
    with pytest.raises(BadRequest, match="nodulemnist3d holds volumes, but scratch-cnn takes images"):
        plan_run(Cell("nodulemnist3d", "scratch-cnn", "scratch", 4, 0), cubes)
    with pytest.raises(BadRequest, match="phantom holds images, but scratch-resnet18-3d takes volumes"):
        plan_run(Cell("phantom", "scratch-resnet18-3d", "scratch", 4, 0), flat)
    with pytest.raises(BadRequest, match="clahe-jitter does not take volumes"):
        plan_run(Cell("nodulemnist3d", "scratch-resnet18-3d", "scratch", 4, 0), cubes, {"augment": "clahe-jitter"})


def quick(monkeypatch):
    settings = Settings(epochs=1, min_steps=2, batch_size=6, lr=1e-3, weight_decay=1e-2, patience=1, views=1, folds=2)
    monkeypatch.setattr("trainer.training.run_plan.settings_of", lambda *_: settings)


@pytest.mark.parametrize(
    ("name", "model", "strategy", "size"),
    [("nodulemnist3d", "imagenet-efficientnet-lite0-slices", "frozen", "3"),
     ("vesselmnist3d", "scratch-resnet18-3d", "scratch", "1")],  # kernels in three dimensions take seconds an image
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*is not the file that MedMNIST publishes")
def test_data_sets_in_medmnists_format_need_no_change(name, model, strategy, size, tmp_path, runs, monkeypatch, capsys):
    from trainer.cli import main

    quick(monkeypatch)
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "data"))
    put_medmnist(tmp_path / "data" / "medmnist", name, (12, 8, 6))
    argv = ["run", "--dataset", name, "--model", model, "--strategy", strategy, "--size", size, "--json"]
    assert main(argv) == 0
    row = json.loads(capsys.readouterr().out)
    assert 0 <= row["metrics"]["auroc"] <= 1


def test_a_run_on_volumes_predicts_explains_and_refuses_images(cubes, runs, monkeypatch):
    quick(monkeypatch)
    prepared = plan_run(Cell("nodulemnist3d", "imagenet-efficientnet-lite0-slices", "frozen", 3, 0), cubes)
    folder, _ = run_cell(prepared, cubes, "all", torch.device("cpu"), runs)
    meta, test = read_run(folder), read_predictions(folder)
    predictor = Predictor(folder)
    volumes = [cubes.listing.read(index) for index in cubes.parts.test[:2]]
    answers = predictor(volumes, "grad-cam")
    stored = probabilities_of(test.logits[:2], meta.temperature)
    assert np.allclose([one.probabilities for one in answers], stored, atol=2e-3)
    assert answers[0].explanation.heat.shape == (32, 32, 32)
    with pytest.raises(BadRequest, match="expects volumes, but got an image"):
        predictor([Image.new("L", (32, 32))])
    assert candidates(open_store(runs), "nodulemnist3d", "imagenet") == []  # the page is asked about pictures


def test_two_ways_to_pool_one_encoder_share_no_embeddings(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path))
    found = []
    volumes = np.stack([make_cube(index, index % 2)[0][None] for index in range(2)])
    for name in ("imagenet-efficientnet-lite0-slices", "imagenet-efficientnet-lite0-slices-attention"):
        cache = EmbeddingCache(build(name, 2), MODELS[name].image, "set", "", 2, "none", torch.device("cpu"))
        found.append(cache.get(volumes, np.arange(2), 0))
    mean, slices = found
    assert (mean.shape, slices.shape) == ((2, 1, 1280), (2, 1, 32 * 1280))
    assert np.allclose(slices.reshape(2, 32, 1280).mean(axis=1), mean[:, 0], atol=1e-5)


def test_models_for_volumes_are_marked():
    assert {"scratch-resnet18-3d", "imagenet-resnet18-inflated", "imagenet-efficientnet-lite0-slices"} <= set(VOLUMES)
    for name in VOLUMES:
        assert example(name).ndim == 5
        assert set(MODELS[name].strategies) <= set(STRATEGIES)
