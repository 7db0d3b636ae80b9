"""The row of a model, `ModelSpec`. The table of models is in `core.models.table`.

A model outside the table is named by family, architecture and path; see `core.models.custom_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from core.errors import LowshotError
from core.files import sha256_of
from core.registry import Registry
from core.types import ImageSpec

if TYPE_CHECKING:
    from core.models.classifier import Classifier

Family = Literal["scratch", "imagenet", "generic", "medical", "control"]

FAMILY_TITLES: dict[Family, str] = {
    "scratch": "A · From scratch",
    "imagenet": "B · ImageNet transfer",
    "generic": "B · Generic self-supervised transfer",
    "medical": "C · Medical transfer",
    "control": "Control",
}
FAMILY_LETTERS: dict[str, str] = {family: title.partition(" · ")[0] for family, title in FAMILY_TITLES.items()}
FAMILY_COLORS: dict[Family, str] = {  # from Okabe and Ito 2008; color-blind readers can tell them apart
    "scratch": "#0072B2", "imagenet": "#D55E00", "generic": "#CC79A7", "medical": "#009E73", "control": "#6E6E6E",
}  # fmt: skip
BASELINE_COLOR = "#0F1115"  # of the untuned loops
PATH_MARK = "@"
SCRATCH = ("scratch",)
FROZEN = ("frozen", "frozen-logistic")
TRANSFER = (*FROZEN, "finetune")


@dataclass(frozen=True)
class Weights:
    """Source of an encoder's weights.

    Attributes:
        kind: `random` (no pretraining), `package` (inside a Python package), `own` (pretrained by this program), `hub`
            (a repository of the Hugging Face hub), `converted` (another publisher's file, converted to safetensors),
            `file` (given by path), `joined` (weights of several encoders: `parts`).
        ref: package and file, folder name, repository, or path.
        sha256: hash of the file; empty in rows where it is computed once the file is located (`weights_of`).
        licence, source: terms and origin, as display text.
        terms: page on which the terms must be accepted before download; "" if no acceptance is needed.
        install: command that installs the package or pretrains the encoder; "" for all other kinds.
        parts: weights of each joined encoder; empty for all other kinds.
        shards: number of packages that share a file, named PACKAGE-p1, PACKAGE-p2, ...; 1 for a whole file.
    """

    kind: Literal["random", "package", "own", "hub", "converted", "file", "joined"]
    ref: str = ""
    sha256: str = ""
    licence: str = ""
    source: str = ""
    terms: str = ""
    install: str = ""
    parts: tuple[Weights, ...] = ()
    shards: int = 1

    def record(self) -> dict[str, str]:
        """Return the fields that a run's record stores."""
        record = {name: getattr(self, name) for name in ("kind", "ref", "sha256", "licence", "source", "terms")}
        if self.parts:
            record["parts"] = "; ".join(f"{part.ref} {part.sha256}" for part in self.parts)
        return record


def joined_weights(parts: Iterable[Weights]) -> Weights:
    """Combine the weights of several encoders; the hash stays empty until the hashes of all parts are known."""
    parts = tuple(parts)
    hashes = [part.sha256 for part in parts]
    return Weights(
        kind="joined",
        ref=" + ".join(part.ref for part in parts),
        sha256=sha256_of(hashes) if all(hashes) else "",
        licence="; ".join(part.licence for part in parts),
        source="; ".join(part.source for part in parts),
        parts=parts,
    )


@dataclass(frozen=True)
class EncoderExposure:
    """Training data of a third-party encoder, as far as its publishers state it. Other data may have been used too.

    Attributes:
        named: sources that the publishers name, as display text.
        seen: registered data sets among these sources, or derived from them.
        unknown: registered data sets that may be among sources that are not named individually.
    """

    named: str
    seen: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """Facts about one model.

    Attributes:
        name: key in the registry and in the run store.
        title: display name.
        family: family whose learning curve it belongs to.
        image: its input.
        weights: initial weights of the encoder.
        strategies: names of the training strategies it supports.
        build: (number of classes, name of the data set, seed) -> the classifier with the encoder's initial weights and
            a new head. The data set determines which medical encoder may be used (`variant:NAME` names one); the seed
            determines random weights.
        outline: number of classes -> the same network with arbitrary weights, to read its shape without the weight
            files; None if `build` needs no weight file.
        settings: training settings that differ from the strategy's defaults.
        summary: description in one sentence.
        settings_from: name of the model whose searched settings it uses; "" for its own.
        seen: training data of a third-party encoder; None if none is medical, or if a card lists it.
        uses_batch_norm: whether its output for an image during training depends on the other images of the batch.
    """

    name: str
    title: str
    family: Family
    image: ImageSpec
    weights: Weights
    strategies: tuple[str, ...]
    build: Callable[[int, str, int], Classifier]
    outline: Callable[[int], Classifier] | None = None
    settings: Mapping[str, float] = field(default_factory=dict)
    summary: str = ""
    settings_from: str = ""
    seen: EncoderExposure | None = None
    uses_batch_norm: bool = False

    @property
    def slug(self) -> str:
        """The name in a form that can be part of a folder's name."""
        kind, _, path = self.name.partition(PATH_MARK)
        short = "-".join(filter(None, [kind, path.rstrip("/").rpartition("/")[2].removesuffix(".safetensors")]))
        return "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in short)


class ModelRegistry(Registry[ModelSpec]):
    """Registry of models; look-up also accepts names with a path to weights, which iteration does not list.

    Attributes:
        model_at: (name with a path) -> model.
    """

    model_at: Callable[[str], ModelSpec]

    def __missing__(self, name: str) -> ModelSpec:
        return self.model_at(name) if PATH_MARK in name else super().__missing__(name)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or PATH_MARK not in name:
            return super().__contains__(name)
        try:
            return bool(self[name])
        except LowshotError:
            return False


MODELS = ModelRegistry("model")


def by_family() -> list[ModelSpec]:
    """Return all rows, sorted by family."""
    return sorted(MODELS.values(), key=lambda spec: list(FAMILY_TITLES).index(spec.family))
