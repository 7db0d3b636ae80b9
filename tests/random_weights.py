"""Checkpoints in their publishers' formats, with random values, and small inputs for every model."""

from pathlib import Path

import torch

from core.files import sha256_of_file
from core.models import MODELS
from core.models.timm_models import NETWORKS
from core.models.weights import FILE, state_of
from core.models.xrv import NAME, convert

HEAVY = {"imagenet-vgg16", "imagenet-vgg19"}  # half a gigabyte each: never written to disk
LARGE = {"medical-astra-i3resnet152"}  # has tests of its own
KEPT = {"imagenet-resnet18", "imagenet-dino-vits16"}  # the other rows through timm differ from these by facts alone
RUN = [
    name
    for name, spec in MODELS.items()
    if name not in HEAVY | LARGE
    and (
        state_of(spec.weights)[0] == "with the program"
        or spec.weights.kind in ("random", "converted")
        or name in KEPT
        or spec.weights.terms
        or spec.image.dims == 3
    )
]  # of what `pretrain` makes, what ships


def build(name, classes=3, seed=0):
    return MODELS[name].build(classes, "phantom-3d" if MODELS[name].image.dims == 3 else "phantom", seed)


def example(name, count=2):
    """A random batch, as small as the model takes it: transformers and TorchXRayVision know one size, the rest any."""
    image = MODELS[name].image
    smallest = 75 if "inception" in name else 64
    side = image.size if "vits" in name or name in ("medical-medsiglip", NAME) else min(image.size, smallest)
    return torch.randn(count, image.channels, *[side] * image.dims)


def put_timm(folder: Path, facts, **options) -> torch.nn.Module:
    """A file as timm saves it for the hub, below a folder of weights."""
    import timm
    from timm.models._hub import save_for_hf

    torch.manual_seed(0)
    network = timm.create_model(facts.timm, pretrained=False, **options)
    with_spread(network)
    save_for_hf(network, folder / "timm" / facts.timm, safe_serialization=True)
    return network.eval()


def put_siglip(folder: Path, size=448, patch=14, whole=False) -> Path:
    """A tiny SigLIP as transformers saves it: the vision tower alone, or with its text tower as MedSigLIP comes."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    tower = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**tower, "image_size": size, "patch_size": patch}
    if whole:
        text = {**tower, "vocab_size": 32, "projection_size": 8}
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    else:
        model = SiglipVisionModel(SiglipVisionConfig(**vision))
    model.save_pretrained(folder)
    stated = {"size": {"height": size, "width": size}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    SiglipImageProcessorPil(**stated).save_pretrained(folder)
    return folder


def put_xrv(folder: Path, file: Path, old_format=True) -> torch.nn.Module:
    """TorchXRayVision's DenseNet-121, pickled as its publishers did, and converted into a folder of weights."""
    import torchxrayvision

    torch.manual_seed(0)
    network = torchxrayvision.models.DenseNet()
    with_spread(network)
    torch.save(network, file, _use_new_zipfile_serialization=not old_format)
    convert(file, folder, sha256_of_file(file))
    return network.eval()


def with_spread(network):
    """Gives batch normalization statistics of its own, so that mixed-up ones are noticed."""
    for name, value in network.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            value.uniform_(-0.05, 0.05)


def put_all(folder: Path) -> Path:
    """A random checkpoint for every row of `RUN` that needs one."""
    for facts in NETWORKS:
        if facts.name in KEPT:
            put_timm(folder, facts)
    put_siglip(folder / MODELS["medical-medsiglip"].weights.ref, whole=True)
    put_xrv(folder, folder / "published.pt")
    return folder


def file_of(folder: Path, name: str) -> Path:
    """Where a row's weights lie below a folder."""
    return folder / MODELS[name].weights.ref / FILE
