"""The table of models: one `ModelSpec` a row. Builders live in modules by family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from core.registry import Registry
from core.types import ImageSpec

if TYPE_CHECKING:
    from core.models.classifier import Classifier

Family = Literal["scratch", "imagenet", "medical", "control"]

FAMILY_TITLES: dict[Family, str] = {
    "scratch": "A · From scratch",
    "imagenet": "B · ImageNet transfer",
    "medical": "C · Medical transfer",
    "control": "Control",
}


@dataclass(frozen=True)
class Weights:
    """Where an encoder's weights come from.

    Attributes:
        kind: `random` (nothing was learnt before), `package` (inside a Python package), `own` (pretrained by this
            program).
        ref: package and file, or folder name.
        sha256: of the file; empty where it is stated elsewhere (an own encoder's card).
        licence, source: terms and origin, for people.
    """

    kind: Literal["random", "package", "own"]
    ref: str = ""
    sha256: str = ""
    licence: str = ""
    source: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """Facts about one model.

    Attributes:
        name: key in the registry and in the run store.
        title: for people.
        family: whose learning curve it belongs to.
        image: its input.
        weights: where the encoder starts.
        strategies: names of the strategies that go with it.
        build: (number of classes, name of the data set, seed) -> the classifier with the encoder's starting weights
            and a new head. The data set decides which medical encoder may be used; the seed draws what is random.
        settings: training settings in which it departs from its strategy's defaults.
        summary: one sentence for people.
    """

    name: str
    title: str
    family: Family
    image: ImageSpec
    weights: Weights
    strategies: tuple[str, ...]
    build: Callable[[int, str, int], Classifier]
    settings: Mapping[str, float] = field(default_factory=dict)
    summary: str = ""


MODELS: Registry[ModelSpec] = Registry("model")
