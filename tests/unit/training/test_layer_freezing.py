"""Which layers of an encoder are fine-tuned, from when on, and at which rate."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch import nn

from core.errors import BadRequest
from core.models.classifier import Classifier, Head, average_pool, linear_layers
from core.models.encoders import TimmEncoder
from core.types import ImageSpec
from trainer.training.layer_freezing import THAW, check_unfreezing, parameter_groups, stages_of, unfreeze_due
from trainer.training.settings import FitContext, FitData
from trainer.training.strategies import STRATEGIES
from trainer.training.training_loop import train_network

SETTINGS = STRATEGIES["finetune"].settings
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "stages", "first_of_last"),
    [
        ("tf_efficientnet_lite0", 5, "blocks.5.0.conv_pw.weight"),
        ("resnet18", 5, "layer4.0.conv1.weight"),
        ("densenet121", 5, "features.transition3.norm.weight"),
        ("convnext_atto", 4, "stages.3.downsample.0.weight"),
        ("vit_tiny_patch16_224", 12, "blocks.11.norm1.weight"),
    ],
)
def test_stages_of_networks_that_name_their_maps(name, stages, first_of_last):
    network = timm.create_model(name, pretrained=False, num_classes=0)
    found = stages_of(TimmEncoder(network))
    names = {id(parameter): key for key, parameter in network.named_parameters()}
    assert [names[id(p)] for stage in found for p in stage] == list(names.values())
    assert len(found) == stages
    assert names[id(found[-1][0])] == first_of_last


def test_stages_of_other_networks_are_their_layers_and_blocks():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(2, 2)
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), nn.Linear(2, 3)])
            self.norm = nn.LayerNorm(3)

    assert [len(stage) for stage in stages_of(Wrapper())] == [2, 2, 2, 2, 2]
    assert [len(stage) for stage in stages_of(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.BatchNorm2d(1)))] == [
        2,
        2,
    ]
    assert [len(stage) for stage in stages_of(nn.Linear(1, 1))] == [2]


def test_depth_freezes_the_rest_and_rates_fall_towards_it():
    encoder = TimmEncoder(timm.create_model("resnet18", pretrained=False, num_classes=0))
    groups = parameter_groups(encoder, replace(SETTINGS, depth=2, thaw_every=3))
    trained = {id(p) for group in groups for p in group["params"]}
    stages = stages_of(encoder)
    assert trained == {id(p) for stage in stages[-2:] for p in stage}
    assert {group[THAW] for group in groups} == {0, 3}
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert max(rate[id(p)] for p in stages[-2]) < min(rate[id(p)] for p in stages[-1]) <= SETTINGS.lr
    assert not any(p.requires_grad for p in encoder.parameters())  # until `unfreeze_due` says when
    unfreeze_due(groups, 2)
    assert {id(p) for p in encoder.parameters() if p.requires_grad} == {id(p) for p in stages[-1]}
    unfreeze_due(groups, 3)
    assert {id(p) for p in encoder.parameters() if p.requires_grad} == trained


def test_the_usual_fine_tuning_is_as_it_was():
    encoder = TimmEncoder(timm.create_model("resnet18", pretrained=False, num_classes=0))
    assert all(THAW not in group for group in parameter_groups(encoder, SETTINGS))


def test_too_deep_or_too_late_is_refused():
    encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    with pytest.raises(BadRequest, match="has 2 stages, but --depth is 3"):
        parameter_groups(encoder, replace(SETTINGS, depth=3))
    groups = parameter_groups(encoder, replace(SETTINGS, depth=2, thaw_every=5))
    check_unfreezing(groups, 6)
    with pytest.raises(BadRequest, match="after 5 epochs, but there are only 5"):
        check_unfreezing(groups, 5)


@pytest.mark.parametrize(("depth", "every", "moved"), [(1, 0, [False, False, True]), (0, 2, [False, True, True])])
def test_only_what_has_thawed_moves(depth, every, moved):
    torch.manual_seed(0)
    encoder = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(3)))
    model = Classifier(encoder, Head(average_pool(), linear_layers(3, 2)))
    random = np.random.default_rng(0)
    rows = np.arange(8)
    data = FitData(random.integers(0, 256, (8, 1, 6, 6), np.uint8), rows % 2, rows, rows, 2, "set", "", 8)
    settings = replace(
        SETTINGS, depth=depth, thaw_every=every, epochs=5, min_steps=0, average=0.0, patience=0, augment="none", lr=0.01
    )
    before = copy.deepcopy(encoder.state_dict())
    groups = [*parameter_groups(encoder, settings), {"params": list(model.head.parameters()), "lr": settings.lr}]
    after_three = {}

    def watch(done, total):
        if done == 4:
            after_three.update(copy.deepcopy(encoder.state_dict()))

    nothing = data.part(np.array([], int))
    train_network(model, groups, data, nothing, ImageSpec(6), settings, FitContext(0, CPU, watch), True)
    found = [not torch.equal(before[f"{i}.weight"], after_three[f"{i}.weight"]) for i in range(3)]
    assert found == moved
    last = [not torch.equal(before[f"{i}.weight"], encoder[i].weight) for i in range(3)]
    assert last == ([False, False, True] if depth else [True, True, True])
