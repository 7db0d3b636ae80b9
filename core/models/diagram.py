"""A drawing of a network: its stages as blocks in a row, the smaller the map the lower, and the sentence for it.

An SVG text without scripts, fonts or references to anything outside it, fit for a page or a file.
"""

from __future__ import annotations

import math
from html import escape

from core.models.architecture import Architecture, Shape

_STEP, _WIDTH, _TOP, _TALL, _MARGIN = 132, 84, 34, 150, 16
_ENCODER, _HEAD, _INPUT, _INK = "#56B4E9", "#E69F00", "#BBBBBB", "#222222"


def diagram(model: Architecture) -> str:
    """The drawing as SVG: input, the encoder's stages, pooling, head."""
    blocks = [("input", model.input, "", _INPUT)]
    for stage in model.stages:
        colour = _HEAD if len(stage.shape) == 1 else _ENCODER
        blocks.append((stage.name, stage.shape, f"{short(stage.parameters)} parameters", colour))
    width, height = 2 * _MARGIN + _STEP * len(blocks), _TOP + _TALL + 76
    largest = max(max(shape[1:], default=1) for _, shape, _, _ in blocks)
    drawn = [_block(index, *block, largest=largest) for index, block in enumerate(blocks)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(alt_text(model))}" font-family="sans-serif" font-size="11" fill="{_INK}">'
        f"<title>{escape(model.title)}</title>{''.join(drawn)}</svg>"
    )


def _block(index: int, name: str, shape: Shape, note: str, colour: str, largest: int) -> str:
    side = max(shape[1:], default=1)
    tall = max(10.0, _TALL * math.log2(1 + side) / math.log2(1 + largest))
    left, top, middle = _MARGIN + index * _STEP, _TOP + (_TALL - tall) / 2, _TOP + _TALL / 2
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
        f'{arrow}<rect x="{left}" y="{top:.1f}" width="{_WIDTH}" height="{tall:.1f}" rx="3" fill="{colour}" '
        f'stroke="{_INK}" stroke-width="0.8"/><text x="{left + _WIDTH / 2}" y="{_TOP - 12}" text-anchor="middle">'
        f"{escape(as_text(shape))}</text>{text}"
    )


def _wrapped(name: str) -> list[str]:
    """A stage's name in lines that fit below its block."""
    first, _, last = name.partition(" to ")
    return [_cut(first), f"to {_cut(last, 16)}"] if last else [_cut(first)]


def _cut(name: str, most: int = 20) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def alt_text(model: Architecture) -> str:
    """What the drawing shows, in sentences."""
    encoder = [stage for stage in model.stages if len(stage.shape) > 1]
    stages = f"{len(encoder)} stages" if len(encoder) > 1 else "one stage"
    each = f" on each of {model.slices} slices" if model.slices > 1 else ""
    return (
        f"{model.title}: from an input of {as_text(model.input)} through {stages}{each} to a feature map of "
        f"{as_text(model.features)}, pooled to {model.embedding} numbers, then {model.classes} outputs. "
        f"{short(model.parameters)} parameters, {short(model.head_parameters)} of them in the head; "
        f"{short(model.macs)} multiply-adds."
    )


def as_text(shape: Shape) -> str:
    """`512 x 7 x 7`."""
    return " x ".join(map(str, shape))


def short(count: int) -> str:
    """A count in few characters: 11.2 M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)
