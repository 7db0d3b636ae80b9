"""Summary of a network: resolution, channels, parameters and multiply-adds by stage, and a diagram.

The network runs once on PyTorch's meta device, where nothing is computed and no weights are needed. A stage consists of
all layers that run at one resolution. Multiply-adds are half of PyTorch's count of floating-point operations. The
diagram is an SVG without scripts, fonts or external references.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from html import escape

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from core.models.classifier import Classifier, EncoderPooling
from core.models.specs import ModelSpec
from core.models.volume_models import SlicesEncoder

Shape = tuple[int, ...]
_RESIZING = (
    nn.Conv2d, nn.Conv3d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d,
)  # fmt: skip
_UNSEEN = (nn.Identity, nn.Dropout, nn.Flatten, EncoderPooling)


@dataclass(frozen=True)
class Stage:
    """All layers that run at one resolution.

    Attributes:
        name: its first and last layer, as the library names them.
        layers: types of layers and their counts, as text.
        shape: (C, h, w) of its output, without the batch; (D,) after the pooling.
        parameters: number of parameters.
        macs: multiply-adds for one image.
    """

    name: str
    layers: str
    shape: Shape
    parameters: int
    macs: int


@dataclass(frozen=True)
class Architecture:
    """The architecture of a model.

    Attributes:
        title: display name of the model.
        input: (C, S, S), for volumes (C, S, S, S).
        features: (C, h, w) of the feature map at the tap.
        embedding: width of the pooled features.
        classes: number of classes.
        stages: stages of the encoder, then pooling and head.
        slices: number of encoder passes for one input; its stages describe one pass.
        parameters: total number of parameters.
        head_parameters: parameters of the head, the only ones trained if the encoder is frozen.
        macs: multiply-adds for one image or volume.
    """

    title: str
    input: Shape
    features: Shape
    embedding: int
    classes: int
    stages: tuple[Stage, ...]
    slices: int
    parameters: int
    head_parameters: int
    macs: int


@dataclass
class _Open:
    """A stage that is still being recorded."""

    names: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    shape: Shape = ()
    parameters: int = 0
    macs: int = 0

    def closed(self, name: str = "") -> Stage:
        ends = dict.fromkeys(_readable(layer_name) for layer_name in (self.names[:1] + self.names[-1:]))
        layers = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        return Stage(name or " to ".join(ends), layers, self.shape, self.parameters, self.macs)


def _readable(name: str) -> str:
    return f"layer {int(name) + 1}" if name.isdigit() else name


class _Walk:
    """Recorder that adds each layer that runs to the stage of its resolution."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self.counter = counter
        self.stages: dict[Shape, _Open] = {}  # by resolution, in order of execution
        self.side: Shape = ()
        self.counted: set[int] = set()
        self.flops = 0

    @property
    def now(self) -> _Open:
        """The stage of the current resolution."""
        return self.stages.setdefault(self.side, _Open())

    def listen(self, model: nn.Module) -> list[RemovableHandle]:
        """Register hooks on all layers and return them; layers keep the library's names."""
        hooks = []
        for name, layer in model.named_modules():
            has_own = next(layer.parameters(recurse=False), None) is not None
            if (has_own or not list(layer.children())) and not isinstance(layer, _UNSEEN):
                short = name
                for outer in ("encoder.", "encoder.", "network."):
                    short = short.removeprefix(outer)
                hooks.append(layer.register_forward_hook(partial(self._ran, short)))
        return hooks

    def _ran(self, name: str, layer: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(layer, _RESIZING):
            side = tuple(output.shape[2:])
            if side < self.side and not self.now.shape:  # the first branch sets the shape
                self.now.shape = tuple(given[0].shape[1:])
            self.side = side
        inside = [value for child in layer.children() for value in child.parameters()]
        if not inside or isinstance(layer, nn.MultiheadAttention):
            self.now.names.append(name)
            self.now.kinds[type(layer).__name__] += 1
        self.count(layer)

    def count(self, layer: nn.Module | None = None) -> None:
        """Add a layer's parameters, each only once, and the operations since the previous layer."""
        for value in layer.parameters() if layer else ():
            if id(value) not in self.counted:
                self.counted.add(id(value))
                self.now.parameters += value.numel()
        total = self.counter.get_total_flops()
        self.now.macs += (total - self.flops) // 2
        self.flops = total

    def take(self, shape: Shape) -> list[_Open]:
        """Return the stages recorded since the last call; `shape` is the output of the last one."""
        self.count()
        self.now.shape = shape
        stages = [stage for stage in self.stages.values() if stage.names or stage.macs or stage.parameters]
        self.stages = {}
        return stages or [_Open(shape=shape)]


def outline(spec: ModelSpec, classes: int) -> Classifier:
    """Build a model on the meta device, which holds no values: no weights are needed."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = spec.outline(classes) if spec.outline else spec.build(classes, "", 0)
    return model.eval()


def architecture(spec: ModelSpec, classes: int = 2) -> Architecture:
    """Return the architecture of a model with a head for some number of classes."""
    model = outline(spec, classes)
    image = torch.zeros(1, *spec.image.shape, device="meta")
    # Run encoder, pooling and head one after another, recording each.
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        recorder = _Walk(counter)
        hooks = recorder.listen(model)
        features = model.encoder(image)
        slices = features.shape[2] if isinstance(model.encoder, SlicesEncoder) else 1
        spatial = tuple(features[:, : features.shape[1] - model.tapped.bypass_channels].shape[1:])
        encoder = recorder.take((spatial[0], *spatial[2:]) if slices > 1 else spatial)
        embedding = model.head.pool(features)
        pooling = recorder.take(tuple(embedding.shape[1:]))
        model.head.layers(embedding)
        head = recorder.take((classes,))
        total = counter.get_total_flops() // 2
    for hook in hooks:
        hook.remove()
    parameters = sum(value.numel() for value in model.parameters())
    # Position embeddings and class tokens belong to no layer that runs; they count in the first stage.
    encoder[0].parameters += parameters - sum(stage.parameters for stage in (*encoder, *pooling, *head))
    return Architecture(
        title=spec.title,
        input=spec.image.shape,
        features=spatial,
        embedding=embedding.shape[1],
        classes=classes,
        stages=(*(stage.closed() for stage in encoder), pooling[-1].closed("pooling"), head[-1].closed("head")),
        slices=slices,
        parameters=parameters,
        head_parameters=sum(value.numel() for value in model.head.parameters()),
        macs=total,
    )


_STEP, _WIDTH, _TOP, _TALL, _MARGIN = 132, 84, 34, 150, 16
_ENCODER, _HEAD, _INPUT, _INK = "#56B4E9", "#E69F00", "#BBBBBB", "#222222"


def diagram(model: Architecture) -> str:
    """Draw an architecture as SVG: input, the encoder's stages, pooling, head."""
    blocks = [("input", model.input, "", _INPUT)]
    for stage in model.stages:
        color = _HEAD if len(stage.shape) == 1 else _ENCODER
        blocks.append((stage.name, stage.shape, f"{format_count(stage.parameters)} parameters", color))
    width, height = 2 * _MARGIN + _STEP * len(blocks), _TOP + _TALL + 76
    largest = max(max(shape[1:], default=1) for _, shape, _, _ in blocks)
    rendered = [_block(index, *block, largest=largest) for index, block in enumerate(blocks)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(alt_text(model))}" font-family="sans-serif" font-size="11" fill="{_INK}">'
        f"<title>{escape(model.title)}</title>{''.join(rendered)}</svg>"
    )


def _block(index: int, name: str, shape: Shape, note: str, color: str, largest: int) -> str:
    side = max(shape[1:], default=1)
    block_height = max(10.0, _TALL * math.log2(1 + side) / math.log2(1 + largest))
    left, top, middle = _MARGIN + index * _STEP, _TOP + (_TALL - block_height) / 2, _TOP + _TALL / 2
    arrow = ""
    if index:
        start, end = left - (_STEP - _WIDTH) + 4, left - 4
        arrow = f'<path d="M{start} {middle}H{end}m-6 -4l6 4l-6 4" fill="none" stroke="{_INK}" stroke-width="1.2"/>'
    lines = [*_wrapped(name), note]
    text = "".join(
        f'<text x="{left + _WIDTH / 2}" y="{_TOP + _TALL + 18 + 14 * row}" text-anchor="middle">{escape(line)}</text>'
        for row, line in enumerate(lines)
    )
    return (
        f'{arrow}<rect x="{left}" y="{top:.1f}" width="{_WIDTH}" height="{block_height:.1f}" rx="3" fill="{color}" '
        f'stroke="{_INK}" stroke-width="0.8"/><text x="{left + _WIDTH / 2}" y="{_TOP - 12}" text-anchor="middle">'
        f"{escape(format_shape(shape))}</text>{text}"
    )


def _wrapped(name: str) -> list[str]:
    """Split a stage's name into lines that fit below its block."""
    first, _, last = name.partition(" to ")
    return [_cut(first), f"to {_cut(last, 16)}"] if last else [_cut(first)]


def _cut(name: str, most: int = 20) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def alt_text(model: Architecture) -> str:
    """Describe the diagram in sentences, for screen readers."""
    encoder = [stage for stage in model.stages if len(stage.shape) > 1]
    stages = f"{len(encoder)} stages" if len(encoder) > 1 else "one stage"
    each = f" on each of {model.slices} slices" if model.slices > 1 else ""
    return (
        f"{model.title}: from an input of {format_shape(model.input)} through {stages}{each} to a feature map of "
        f"{format_shape(model.features)}, pooled to {model.embedding} numbers, then {model.classes} outputs. "
        f"{format_count(model.parameters)} parameters, {format_count(model.head_parameters)} of them in the head; "
        f"{format_count(model.macs)} multiply-adds."
    )


def format_shape(shape: Shape) -> str:
    """Format a shape: `512 x 7 x 7`."""
    return " x ".join(map(str, shape))


def format_count(count: int) -> str:
    """Format a count with three significant digits: 11.2 M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)
