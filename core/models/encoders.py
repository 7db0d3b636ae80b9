"""Encoders from timm and transformers, and the ImageNet weights of EfficientNet-Lite0 from a Python package.

References:
    EfficientNet: Tan and Le 2019, arXiv:1905.11946. The Lite variants: github.com/tensorflow/tpu.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from core.models.specs import MODELS
from core.models.weights import package_file


class TimmEncoder(nn.Module):
    """A timm network up to its last feature map: (B, 3, S, S) -> (B, C, h, w).

    Args:
        network: the timm network.
        size: the only input side in pixels that is accepted; 0 accepts any, as convolutional networks do.
    """

    network: Any  # has methods that nn.Module does not declare

    def __init__(self, network: nn.Module, size: int = 0) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.size:
            expect_size(images, self.size)
        return self.network.forward_features(images)

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Pool the feature map as timm does: (B, C, h, w) -> (B, D)."""
        return self.network.forward_head(features, pre_logits=True)

    @property
    def finer(self) -> nn.Module | None:
        """The last stage with a higher resolution than the encoder's output; None if there is none."""
        stages = list(self.network.feature_info)
        finer = [stage["module"] for stage in stages if stage["reduction"] < stages[-1]["reduction"]]
        return self.network.get_submodule(finer[-1]) if finer else None


class StagesEncoder(TimmEncoder):
    """The last feature map of each stage of a timm network, pooled to the coarsest and concatenated.

    (B, 3, S, S) -> (B, C, h, w), where C is the sum of the stages' channels. Layers after the stages are not used.

    References:
        Features of all levels for targets far from the pretraining data: Evci et al. 2022, Head2Toe, arXiv:2201.03529.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.network.forward_intermediates(images, intermediates_only=True)
        return torch.cat(
            [_pooled_to(stage_map, int(maps[-1].shape[2]), int(maps[-1].shape[3])) for stage_map in maps], dim=1
        )

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Average over positions: (B, C, h, w) -> (B, C)."""
        return features.mean((2, 3))


def _pooled_to(features: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Average-pool to the positions of a coarser map: (B, C, H, W) -> (B, C, height, width)."""
    rows, columns = int(features.shape[2]), int(features.shape[3])  # Python integers, also during tracing
    if rows % height == 0 and columns % width == 0:
        return F.avg_pool2d(features, (rows // height, columns // width))
    return F.adaptive_avg_pool2d(features, (height, width))  # not supported by ONNX


class ClassTokenEncoder(TimmEncoder):
    """A timm transformer that pools by its class token, up to its last block: (B, 3, S, S) -> (B, C + P * C, h, w).

    After the last block only the class token is used, so a map of patch tokens would have no gradient there. The map is
    therefore taken before the last block: the patch tokens as (B, C, h, w), followed by the P prefix tokens as channels
    that are equal at every position and bypass the tap.
    """

    @property
    def bypass_channels(self) -> int:
        """Number of channels that hold the prefix tokens."""
        return int(self.network.num_prefix_tokens) * int(self.network.embed_dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        expect_size(images, self.network.patch_embed.img_size[0])
        before_last = len(self.network.blocks) - 2
        patches, prefix = self.network.forward_intermediates(
            images, indices=[before_last], return_prefix_tokens=True, stop_early=True, intermediates_only=True
        )[0]
        expanded = prefix.flatten(1)[:, :, None, None].expand(-1, -1, *patches.shape[2:])  # (B, P * C, h, w)
        return torch.cat([patches, expanded], dim=1)

    def tokens_of(self, features: torch.Tensor) -> torch.Tensor:
        """Convert a map back to tokens: (B, C + P * C, h, w) -> (B, P + h * w, C)."""
        patches, expanded = features.split([features.shape[1] - self.bypass_channels, self.bypass_channels], dim=1)
        prefix = expanded[:, :, 0, 0].unflatten(1, (-1, patches.shape[1]))  # (B, P, C)
        return torch.cat([prefix, patches.flatten(2).transpose(1, 2)], dim=1)

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Apply the last block and the norm, and return the class token: (B, C + P * C, h, w) -> (B, C)."""
        tokens = self.network.norm(self.network.blocks[-1](self.tokens_of(features)))
        return self.network.forward_head(tokens, pre_logits=True)


class SiglipEncoder(nn.Module):
    """The vision tower of a transformers SigLIP model: (B, 3, S, S) -> patch tokens after the norm, (B, C, h, w).

    It pools by attention over all patches, so heatmaps use its last map. Its pooled embedding is not normalized to unit
    length.
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

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Pool by attention over the patches: (B, C, h, w) -> (B, C)."""
        return self.network.head(features.flatten(2).transpose(1, 2))


def expect_size(images: torch.Tensor, size: int) -> None:
    """Raise ValueError if images do not have the only size that an encoder accepts."""
    if tuple(images.shape[-2:]) != (size, size):
        raise ValueError(
            f"Expected images of {size} x {size} pixels, but got {images.shape[-2]} x {images.shape[-1]}. Resize them: "
            "this encoder accepts no other size."
        )


def layer_groups(encoder: nn.Module, lr: float, decay: float, frozen_below: float) -> list[dict[str, Any]]:
    """Return parameter groups with layer-wise learning-rate decay.

    Args:
        encoder: a `TimmEncoder`.
        lr: learning rate of the last layer.
        decay: factor from each layer to the one before it.
        frozen_below: layers whose learning rate is a smaller fraction of `lr` are frozen and left out.
    """
    from timm.optim import param_groups_layer_decay

    network: Any = encoder.network
    groups = param_groups_layer_decay(network, layer_decay=decay, no_opt_scale=frozen_below)
    return [{"params": group["params"], "lr": lr * group["lr_scale"]} for group in groups]


def lite0_network() -> Any:
    """Return timm's EfficientNet-Lite0 with random weights.

    The `tf_` variant pads as TensorFlow does; the other variant loads the same weights but gives wrong logits.
    """
    import timm

    return timm.create_model("tf_efficientnet_lite0", pretrained=False)


def imagenet_lite0_state() -> dict[str, torch.Tensor]:
    """Load the ImageNet weights of EfficientNet-Lite0 from the installed package, under timm's names.

    The pinned file lists the same tensors in the same order as timm's network.

    Raises:
        WeightsUnavailable: if the package is missing or its file is not the pinned one.
    """
    state = torch.load(
        package_file(MODELS["imagenet-efficientnet-lite0"].weights), map_location="cpu", weights_only=True
    )
    with torch.device("meta"):
        names = lite0_network().state_dict()
    return dict(zip(names, state.values(), strict=True))
