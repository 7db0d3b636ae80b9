"""Facts about networks' architectures, against published counts and by hand, and their diagrams."""

import xml.etree.ElementTree

import pytest
import torch

from core.models import MODELS
from core.models.summary import alt_text, architecture, diagram, format_count, format_shape, outline

# multiply-adds in millions and parameters in millions, as torchvision's and the papers' tables state them
PUBLISHED = {
    "imagenet-resnet18": (1814, 11.689512 - 0.513),
    "imagenet-resnet50": (4089, 25.557032 - 2.049),
    "imagenet-densenet121": (2834, 7.978856 - 1.025),
    "imagenet-vgg16": (15470, 138.357544 - 4.097),
    "imagenet-convnext-tiny": (4456, 28.589128 - 0.769),
    "imagenet-dino-vits16": (4600, 21.67),
}


@pytest.mark.parametrize("name", MODELS)
def test_stages_add_up(name):
    facts = architecture(MODELS[name], 3)
    model = outline(MODELS[name], 3)
    assert facts.parameters == sum(value.numel() for value in model.parameters())
    assert facts.parameters == sum(stage.parameters for stage in facts.stages)
    assert facts.macs == pytest.approx(sum(stage.macs for stage in facts.stages), abs=len(facts.stages))
    assert facts.input == MODELS[name].image.shape
    assert facts.stages[-1].shape == (3,)
    assert facts.stages[-2].shape == (facts.embedding,)
    assert facts.head_parameters < facts.parameters
    assert all(stage.name and stage.parameters >= 0 for stage in facts.stages)


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name):
    facts = architecture(MODELS[name])
    macs, parameters = PUBLISHED[name]
    head = facts.stages[-1].macs
    assert (facts.macs - head) / 1e6 == pytest.approx(macs, rel=0.01)
    assert (facts.parameters - facts.head_parameters) / 1e6 == pytest.approx(parameters, rel=0.002)


def test_the_small_cnn_by_hand():
    facts = architecture(MODELS["scratch-cnn"], 2)
    first, second, third, last, pooling, head = facts.stages
    assert (first.shape, first.parameters, first.macs) == ((32, 64, 64), 3 * 32 * 9 + 32, 3 * 32 * 9 * 64 * 64)
    assert (second.shape, second.macs) == ((64, 32, 32), 32 * 64 * 9 * 32 * 32)
    assert third.layers == "1 MaxPool2d, 1 Conv2d, 1 ReLU"
    assert (last.name, last.shape, last.macs) == ("layer 9", (128, 8, 8), 0)
    assert (pooling.parameters, head.parameters, head.macs) == (0, 128 * 2 + 2, 128 * 2)


def test_a_volume_costs_all_its_slices():
    one = architecture(MODELS["imagenet-efficientnet-lite0"])
    many = architecture(MODELS["imagenet-efficientnet-lite0-slices"])
    assert many.slices == 32
    assert many.parameters == one.parameters
    assert (many.macs - many.stages[-1].macs) == pytest.approx(
        32 * (one.macs - one.stages[-1].macs) * (96 / 160) ** 2, rel=0.01
    )
    assert "on each of 32 slices" in alt_text(many)


def test_looking_at_a_network_draws_no_random_number():
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    architecture(MODELS["scratch-cnn"])
    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize("name", ["scratch-cnn", "imagenet-inception-v3", "scratch-resnet18-3d"])
def test_the_diagram_is_valid_svg_and_names_its_layers(name):
    facts = architecture(MODELS[name])
    drawn = xml.etree.ElementTree.fromstring(diagram(facts))
    space = "{http://www.w3.org/2000/svg}"
    assert drawn.get("role") == "img"
    assert drawn.get("aria-label") == alt_text(facts)
    assert len(drawn.findall(f"{space}rect")) == len(facts.stages) + 1
    heights = [float(one.get("height")) for one in drawn.findall(f"{space}rect")]
    assert heights == sorted(heights, reverse=True)
    assert format_shape(facts.features) in alt_text(facts)
    assert "http" not in diagram(facts).replace("http://www.w3.org/2000/svg", "")


def test_counts_in_few_characters():
    assert [format_count(n) for n in (0, 999, 11_176_512, 1_813_561_344)] == ["0", "999", "11.2 M", "1.81 G"]
