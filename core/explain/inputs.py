"""Explainers that go back to the pixels: they ask the whole network, not its tap alone, and take longer.

Where pixels are taken away, the image's own mean stands in for them: black is meaningful on a radiograph.

References:
    HiResCAM: Draelos and Carin 2020, arXiv:2011.08891. Occlusion: Zeiler and Fergus 2013, arXiv:1311.2901. Integrated
    gradients: Sundararajan et al. 2017, arXiv:1703.01365. Guided backpropagation: Springenberg et al. 2014,
    arXiv:1412.6806; why it is to be read with caution: Adebayo et al. 2018, arXiv:1810.03292.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from core.explain.methods import EXPLAINERS, Explainer, Heat, Question
from core.models.classifier import channels_last

WINDOWS = 6  # windows side by side that cover an image; they move by half their side
STEPS = 20
REACH, SHIFTS = 0.075, 4  # of the side; places a side to which explainers over shifts move the image
CELLS = 28  # pixel attributions are averaged over so many places a side
_AT_ONCE = 16
_ACTIVATIONS = {
    "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "gelu", "silu", "mish", "elu", "elu_", "celu", "selu", "sigmoid",
    "sigmoid_", "tanh", "tanh_", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "hardswish", "hardsigmoid", "softplus",
    "logsigmoid", "softsign", "glu",
}  # fmt: skip
_KNOWN_AS = {"hardtanh": "ReLU6", "hardtanh_": "ReLU6", "relu6": "ReLU6", "gelu": "GELU", "silu": "SiLU"}


def mean_image(images: torch.Tensor) -> torch.Tensor:
    """(B, C, S, S) -> the same shape: each image's own mean of each channel, everywhere."""
    return images.mean(dim=tuple(range(2, images.ndim)), keepdim=True).expand_as(images).contiguous()


def window_of(images: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and stride of the window that occlusion moves, channels first."""
    side = max(2, round(images.shape[-1] / WINDOWS))
    dims = images.ndim - 2
    return (images.shape[1], *[side] * dims), (images.shape[1], *[max(1, side // 2)] * dims)


def _occlusion(asked: Question) -> Heat:
    from captum.attr import Occlusion

    shape, strides = window_of(asked.images)
    with torch.no_grad():
        fall = Occlusion(asked.model).attribute(
            asked.images,
            sliding_window_shapes=shape,
            strides=strides,
            baselines=mean_image(asked.images),
            target=asked.targets,
            perturbations_per_eval=_AT_ONCE,
        )
    return Heat(fall[:, 0].clamp(min=0))  # the same for all channels, which are hidden together


def _integrated_gradients(asked: Question) -> Heat:
    from captum.attr import IntegratedGradients

    baseline = mean_image(asked.images)
    with torch.enable_grad():
        found, missed = IntegratedGradients(asked.model).attribute(
            asked.images.detach().requires_grad_(),
            baseline,
            target=asked.targets,
            n_steps=STEPS,
            internal_batch_size=max(_AT_ONCE, len(asked.images)),
            return_convergence_delta=True,
        )
    rise = found.detach().sum(dim=tuple(range(1, found.ndim)))
    notes = tuple(
        f"The pixels' shares sum to {total:+.2f}; the score rose by {total - off:+.2f} from the mean image."
        for total, off in zip(rise.tolist(), missed.tolist(), strict=True)
    )
    return Heat(by_places(found.detach().sum(dim=1)).clamp(min=0), notes)


def by_places(signed: torch.Tensor) -> torch.Tensor:
    """(B, S, S) signed attributions -> (B, c, c) means over places: what cancels out within a place says nothing."""
    pool = F.adaptive_avg_pool2d if signed.ndim == 3 else F.adaptive_avg_pool3d
    places: torch.Tensor = pool(signed[:, None], min(CELLS, signed.shape[-1]))[:, 0]
    return places


def _guided_grad_cam(asked: Question) -> Heat:
    from captum.attr import GuidedGradCam

    with torch.enable_grad():
        found = GuidedGradCam(asked.model, asked.model.tap).attribute(
            asked.images.detach().requires_grad_(),
            target=asked.targets,
            interpolate_mode="bilinear" if asked.images.ndim == 4 else "trilinear",
        )
    return Heat(found.detach().sum(dim=1).clamp(min=0))


def _grad_cam_anew(asked: Question) -> Heat:
    """Grad-CAM of images that the encoder has not seen yet."""
    with torch.no_grad():
        features = asked.model.encoder(asked.images)
    return EXPLAINERS["grad-cam"].attribute(asked._replace(features=features))


def _over_shifts(attribute: Callable[[Question], Heat], asked: Question) -> Heat:
    """The mean of a method's maps of the image moved a little, each moved back; borders are repeated where it came
    from. The question's features are not those of the moved images: the method must not look at them.
    """
    side = asked.images.shape[-1]
    reach = max(1, round(REACH * side))
    steps = sorted({round(step) for step in torch.linspace(-reach, reach, SHIFTS).tolist()})
    padded = F.pad(asked.images, (reach,) * 4, mode="replicate")
    heat, seen = torch.zeros_like(padded[:, 0]), torch.zeros_like(padded[:1, 0])
    for down in steps:
        for right in steps:
            place = (..., slice(reach + down, reach + down + side), slice(reach + right, reach + right + side))
            maps = attribute(asked._replace(images=channels_last(padded[place]))).maps
            heat[place] += F.interpolate(maps[:, None], size=(side, side), mode="bilinear", align_corners=False)[:, 0]
            seen[place] += 1
    inside = slice(reach, reach + side)
    return Heat((heat / seen.clamp(min=1))[:, inside, inside], places=maps.shape[-1])


def _hires_cam(asked: Question) -> Heat:
    """Gradient times activation, place by place: further down, averaging gradients over places as Grad-CAM does would
    mix what speaks for the class at one place with what speaks against it at another.
    """
    from captum.attr import LayerGradientXActivation

    with torch.enable_grad():
        found = LayerGradientXActivation(asked.model, asked.model.finer).attribute(
            asked.images.detach().requires_grad_(), target=asked.targets
        )
    return Heat(found.detach().sum(dim=1).clamp(min=0))


def _no_finer_stage(asked: Question) -> str:
    return "" if asked.model.finer else "No earlier stage of this network is known that tells more places apart."


def _pictures_only(asked: Question) -> str:
    return "" if asked.images.ndim == 4 else "It moves pictures; this network takes volumes."


class _Recorder(TorchFunctionMode):
    """Notes which activation functions are called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in _ACTIVATIONS:
            self.called.append(name)
        return function(*args, **(kwargs or {}))


def activations(model: nn.Module, images: torch.Tensor) -> tuple[list[str], int]:
    """Names of the activation functions that a pass calls, one each call, and how many came from `nn.ReLU` modules."""
    through: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: through.append(module))
        for module in model.modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        with torch.no_grad(), _Recorder() as recorder:
            model(images[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.called, len(through)


def _other_than_relu(asked: Question) -> str:
    called, through = activations(asked.model, asked.images)
    others = sorted({_KNOWN_AS.get(name, name) for name in called if name not in ("relu", "relu_")})
    if others:
        return f"It follows ReLU activations only, and this network uses {', '.join(others)}."
    if len(called) > through:
        return "It follows ReLU layers only, and this network calls ReLU outside its layers."
    return ""


EXPLAINERS.add(
    Explainer(
        name="grad-cam-shifted",
        title="Grad-CAM over shifts",
        meaning="The mean of Grad-CAM over the image moved a little each way: finer than a cell of the feature map.",
        attribute=partial(_over_shifts, _grad_cam_anew),
        caution="It explains the mean over shifts, and takes sixteen passes instead of one.",
        refuses=_pictures_only,
    )
)
EXPLAINERS.add(
    Explainer(
        name="hires-cam",
        title="HiResCAM, one stage earlier",
        meaning="Places of an earlier stage, more and smaller than Grad-CAM's, whose features raise the score there.",
        attribute=_hires_cam,
        caution="Earlier features are simpler: a place may count for an edge that stands out, as it does for networks "
        "with random weights. The paper's proof holds for the last stage alone. Of a network that is read after every "
        "stage, what earlier stages say past this one is not in the map.",
        refuses=_no_finer_stage,
    )
)
EXPLAINERS.add(
    Explainer(
        name="hires-cam-shifted",
        title="HiResCAM over shifts",
        meaning="The mean of HiResCAM, one stage earlier, over the image moved a little each way: what stands out in "
        "one place of the grid by chance is evened out.",
        attribute=partial(_over_shifts, _hires_cam),
        caution="As of HiResCAM. It explains the mean over shifts, and takes sixteen times as long.",
        refuses=lambda asked: _no_finer_stage(asked) or _pictures_only(asked),
    )
)
EXPLAINERS.add(
    Explainer(
        name="occlusion",
        title="Occlusion",
        meaning="Patches whose hiding lowers the score of the class: each is replaced by the image's mean in turn.",
        attribute=_occlusion,
        caution="A patch smaller than the evidence may be missed. Takes seconds.",
    )
)
EXPLAINERS.add(
    Explainer(
        name="integrated-gradients",
        title="Integrated gradients",
        meaning="Each pixel's share of the score's rise from the image's mean to the image, averaged over places.",
        attribute=_integrated_gradients,
        caution="Another starting image gives another map. Edges stand out whether they matter or not.",
    )
)
EXPLAINERS.add(
    Explainer(
        name="guided-grad-cam",
        title="Guided Grad-CAM",
        meaning="Grad-CAM times the gradient that only active ReLU layers let through: sharp edges inside its places.",
        attribute=_guided_grad_cam,
        caution="Guided backpropagation draws much the same edges for a network with random weights (Adebayo et al. "
        "2018): the sharpness is the image's, not the evidence's. For experts.",
        refuses=_other_than_relu,
    )
)
