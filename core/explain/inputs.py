"""Explainers that attribute to the pixels: they run the whole network and take longer than those at the tap.

Removed pixels are replaced by the image's own mean, because black is meaningful on a radiograph.

References:
    HiResCAM: Draelos and Carin 2020, arXiv:2011.08891. Occlusion: Zeiler and Fergus 2013, arXiv:1311.2901. Integrated
    gradients: Sundararajan et al. 2017, arXiv:1703.01365. Guided backpropagation: Springenberg et al. 2014,
    arXiv:1412.6806; why it needs caution: Adebayo et al. 2018, arXiv:1810.03292.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from core.explain.methods import EXPLAINERS, Attribution, Explainer, ExplainerInput
from core.models.classifier import channels_last

WINDOWS = 5  # windows per side that cover an image; they move by half their side
STEPS = 20
REACH, SHIFTS = 0.075, 4  # largest shift as a share of the side; number of shifts per axis
CELLS = 28  # cells per side over which pixel attributions are averaged
_AT_ONCE = 16
_ACTIVATIONS = {
    "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "gelu", "silu", "mish", "elu", "elu_", "celu", "selu", "sigmoid",
    "sigmoid_", "tanh", "tanh_", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "hardswish", "hardsigmoid", "softplus",
    "logsigmoid", "softsign", "glu",
}  # fmt: skip
_TITLES = {"hardtanh": "ReLU6", "hardtanh_": "ReLU6", "relu6": "ReLU6", "gelu": "GELU", "silu": "SiLU"}


def mean_image(images: torch.Tensor) -> torch.Tensor:
    """Return an image filled with each image's own channel means: (B, C, S, S) -> the same shape."""
    return images.mean(dim=tuple(range(2, images.ndim)), keepdim=True).expand_as(images).contiguous()


def window_of(images: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape and stride of the window that occlusion moves, channels first."""
    side = max(2, round(images.shape[-1] / WINDOWS))
    dims = images.ndim - 2
    return (images.shape[1], *[side] * dims), (images.shape[1], *[max(1, side // 2)] * dims)


def _reporting(inputs: ExplainerInput, passes: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the model, which then reports progress after each call.

    Args:
        inputs: the explainer's input.
        passes: number of images that the method will put through the model.
    """
    done = 0

    def forward(images: torch.Tensor) -> torch.Tensor:
        nonlocal done
        logits: torch.Tensor = inputs.model(images)
        done += len(images)
        inputs.progress(min(1.0, done / passes))
        return logits

    return forward


def _occlusion(inputs: ExplainerInput) -> Attribution:
    from captum.attr import Occlusion

    shape, strides = window_of(inputs.images)
    places = [
        1 + -(-(size - side) // stride)
        for size, side, stride in zip(inputs.images.shape[2:], shape[1:], strides[1:], strict=True)
    ]
    model = _reporting(inputs, len(inputs.images) * (1 + prod(places)))
    with torch.no_grad():
        drop = Occlusion(model).attribute(
            inputs.images,
            sliding_window_shapes=shape,
            strides=strides,
            baselines=mean_image(inputs.images),
            target=inputs.targets,
            perturbations_per_eval=_AT_ONCE,
        )
    return Attribution(drop[:, 0].clamp(min=0))  # equal for all channels, which are hidden together


def _integrated_gradients(inputs: ExplainerInput) -> Attribution:
    from captum.attr import IntegratedGradients

    baseline = mean_image(inputs.images)
    model = _reporting(inputs, len(inputs.images) * (STEPS + 2))  # the ends too, for the error
    with torch.enable_grad():
        attributions, errors = IntegratedGradients(model).attribute(
            inputs.images.detach().requires_grad_(),
            baseline,
            target=inputs.targets,
            n_steps=STEPS,
            internal_batch_size=max(_AT_ONCE, len(inputs.images)),
            return_convergence_delta=True,
        )
    sums = attributions.detach().sum(dim=tuple(range(1, attributions.ndim)))
    notes = tuple(
        f"The pixel attributions sum to {total:+.2f}; the score rose by {total - off:+.2f} from the mean image."
        for total, off in zip(sums.tolist(), errors.tolist(), strict=True)
    )
    return Attribution(by_places(attributions.detach().sum(dim=1)).clamp(min=0), notes)


def by_places(signed: torch.Tensor) -> torch.Tensor:
    """Average (B, S, S) signed attributions over a grid of cells, (B, c, c), so that noise within a cell cancels."""
    pool = F.adaptive_avg_pool2d if signed.ndim == 3 else F.adaptive_avg_pool3d
    return pool(signed[:, None], min(CELLS, signed.shape[-1]))[:, 0]


def _guided_grad_cam(inputs: ExplainerInput) -> Attribution:
    from captum.attr import GuidedGradCam

    with torch.enable_grad():
        attributions = GuidedGradCam(inputs.model, inputs.model.tap).attribute(
            inputs.images.detach().requires_grad_(),
            target=inputs.targets,
            interpolate_mode="bilinear" if inputs.images.ndim == 4 else "trilinear",
        )
    return Attribution(attributions.detach().sum(dim=1).clamp(min=0))


def _grad_cam_anew(inputs: ExplainerInput) -> Attribution:
    """Compute Grad-CAM of images that have not been encoded yet."""
    with torch.no_grad():
        features = inputs.model.encoder(inputs.images)
    return EXPLAINERS["grad-cam"].attribute(inputs._replace(features=features))


def _over_shifts(attribute: Callable[[ExplainerInput], Attribution], inputs: ExplainerInput) -> Attribution:
    """Average a method's maps of slightly shifted images, each shifted back; borders are padded by repetition.

    The features are not those of the shifted images, so the method must not use them.
    """
    side = inputs.images.shape[-1]
    reach = max(1, round(REACH * side))
    steps = sorted({round(step) for step in torch.linspace(-reach, reach, SHIFTS).tolist()})
    padded = F.pad(inputs.images, (reach,) * 4, mode="replicate")
    heat, counts, passes = torch.zeros_like(padded[:, 0]), torch.zeros_like(padded[:1, 0]), 0
    for down in steps:
        for right in steps:
            place = (..., slice(reach + down, reach + down + side), slice(reach + right, reach + right + side))
            maps = attribute(inputs._replace(images=channels_last(padded[place]))).maps
            passes += 1
            inputs.progress(passes / len(steps) ** 2)
            heat[place] += F.interpolate(maps[:, None], size=(side, side), mode="bilinear", align_corners=False)[:, 0]
            counts[place] += 1
    center = slice(reach, reach + side)
    return Attribution((heat / counts.clamp(min=1))[:, center, center], places=maps.shape[-1])


def _hires_cam(inputs: ExplainerInput) -> Attribution:
    """Compute gradient times activation, place by place.

    At earlier stages, averaging gradients over places as Grad-CAM does would mix evidence for the class at one place
    with evidence against it at another.
    """
    from captum.attr import LayerGradientXActivation

    with torch.enable_grad():
        attributions = LayerGradientXActivation(inputs.model, inputs.model.finer).attribute(
            inputs.images.detach().requires_grad_(), target=inputs.targets
        )
    return Attribution(attributions.detach().sum(dim=1).clamp(min=0))


def _no_finer_stage(inputs: ExplainerInput) -> str:
    return "" if inputs.model.finer else "This network has no earlier stage with a finer feature map."


def _images_only(inputs: ExplainerInput) -> str:
    return "" if inputs.images.ndim == 4 else "It shifts two-dimensional images, but this network takes volumes."


class _Recorder(TorchFunctionMode):
    """Records which activation functions are called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in _ACTIVATIONS:
            self.called.append(name)
        return function(*args, **(kwargs or {}))


def activations(model: nn.Module, images: torch.Tensor) -> tuple[list[str], int]:
    """Return the names of the activation functions that a pass calls, and how many calls came from `nn.ReLU`."""
    layers: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: layers.append(module))
        for module in model.modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        with torch.no_grad(), _Recorder() as recorder:
            model(images[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.called, len(layers)


def _other_than_relu(inputs: ExplainerInput) -> str:
    called, from_layers = activations(inputs.model, inputs.images)
    others = sorted({_TITLES.get(name, name) for name in called if name not in ("relu", "relu_")})
    if others:
        return f"It supports ReLU activations only, but this network uses {', '.join(others)}."
    if len(called) > from_layers:
        return "It supports ReLU layers only, but this network calls ReLU outside its layers."
    return ""


EXPLAINERS.add(
    Explainer(
        name="grad-cam-shifted",
        title="Grad-CAM over shifts",
        meaning="The mean of Grad-CAM over slightly shifted images: finer than one cell of the feature map.",
        attribute=partial(_over_shifts, _grad_cam_anew),
        caution="It explains the mean over shifts and takes sixteen passes instead of one.",
        unsupported=_images_only,
        slow=True,
    ),
    Explainer(
        name="hires-cam",
        title="HiResCAM, one stage earlier",
        meaning="Regions whose features at an earlier, finer stage of the network raise the score.",
        attribute=_hires_cam,
        caution="Earlier features are simpler: a region may be highlighted for a strong edge, as it is for networks "
        "with random weights. The paper's proof holds for the last stage only. If the head reads several stages, the "
        "map omits what the other stages contribute.",
        unsupported=_no_finer_stage,
    ),
    Explainer(
        name="hires-cam-shifted",
        title="HiResCAM over shifts",
        meaning="The mean of HiResCAM, one stage earlier, over slightly shifted images: artifacts of the grid's "
        "position are averaged out.",
        attribute=partial(_over_shifts, _hires_cam),
        caution="The same as for HiResCAM. It explains the mean over shifts and takes sixteen times as long.",
        unsupported=lambda inputs: _no_finer_stage(inputs) or _images_only(inputs),
        slow=True,
    ),
    Explainer(
        name="occlusion",
        title="Occlusion",
        meaning="Patches that lower the score of the class when hidden: each is replaced by the image's mean in turn.",
        attribute=_occlusion,
        caution="A patch smaller than the evidence may be missed. Takes seconds.",
        slow=True,
    ),
    Explainer(
        name="integrated-gradients",
        title="Integrated gradients",
        meaning="Each pixel's contribution to the score, relative to the mean image, averaged over small regions.",
        attribute=_integrated_gradients,
        caution="Another baseline image gives another map. Edges stand out whether they matter or not.",
        slow=True,
    ),
    Explainer(
        name="guided-grad-cam",
        title="Guided Grad-CAM",
        meaning="Grad-CAM times guided backpropagation: sharp edges inside the regions of Grad-CAM.",
        attribute=_guided_grad_cam,
        caution="Guided backpropagation draws similar edges for a network with random weights (Adebayo et al. 2018): "
        "the sharpness comes from the image, not from the evidence. For experts.",
        unsupported=_other_than_relu,
    ),
)
