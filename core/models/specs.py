"""The table of models: one `ModelSpec` a row. Builders live in modules by family or kind.

A model outside the table is named by its family, architecture and path; see `core.models.custom_weights`.
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
PATH_MARK = "@"
SCRATCH = ("scratch",)
FROZEN = ("frozen", "frozen-logistic")
TRANSFER = (*FROZEN, "finetune")


@dataclass(frozen=True)
class Weights:
    """Where an encoder's weights come from.

    Attributes:
        kind: `random` (nothing was learnt before), `package` (inside a Python package), `own` (pretrained by this
            program), `hub` (a repository of the Hugging Face hub), `converted` (another publisher's file, made into
            safetensors), `file` (named by path), `joined` (those of several encoders: `parts`).
        ref: package and file, folder name, repository, or path.
        sha256: of the file; empty in rows of which it is found out when the file is (`weights_of`).
        licence, source: terms and origin, for people.
        terms: page on which terms must be accepted before the file is given; "" where it is given to all.
        install: command that installs the package, or makes what this program pretrains; "" for all other kinds.
        parts: the weights of each encoder that is joined; empty for all other kinds.
        shards: packages over which a file is spread, named PACKAGE-p1, PACKAGE-p2, ...; 1 for a whole file.
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
        """What a run stores of them."""
        stated = {name: getattr(self, name) for name in ("kind", "ref", "sha256", "licence", "source", "terms")}
        if self.parts:
            stated["parts"] = "; ".join(f"{part.ref} {part.sha256}" for part in self.parts)
        return stated


def joined_weights(parts: Iterable[Weights]) -> Weights:
    """The weights of several encoders as one's; where a part's hash is not known yet, neither is the whole's."""
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
class Exposure:
    """What somebody else's encoder has seen, as far as its makers say. What they do not name is not known to be unseen.

    Attributes:
        named: the sources that they name, for people.
        seen: registered data sets among these, and sets known to be made of them.
        unknown: registered data sets whose images may be among sources that they do not name one by one.
    """

    named: str
    seen: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


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
            and a new head. The data set decides which medical encoder may be used (`variant:NAME` names one); the seed
            draws what is random.
        outline: number of classes -> the same network with arbitrary weights, from which its shape is read where its
            weights are not here; None where `build` needs no weights.
        settings: training settings in which it departs from its strategy's defaults.
        summary: one sentence for people.
        twin_of: name of the model of the same architecture whose searched settings it takes; "" for its own.
        seen: what a third party's encoder has seen; None where nothing medical, or where its card lists it.
        batch_normalised: whether what it says of an image, while it is trained, depends on the others of the batch.
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
    twin_of: str = ""
    seen: Exposure | None = None
    batch_normalised: bool = False

    @property
    def slug(self) -> str:
        """The name as part of a folder's name."""
        kind, _, path = self.name.partition(PATH_MARK)
        short = "-".join(filter(None, [kind, path.rstrip("/").rpartition("/")[2].removesuffix(".safetensors")]))
        return "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in short)


class ModelRegistry(Registry[ModelSpec]):
    """The rows, and by name every model whose weights are given by path; those are not listed.

    Attributes:
        model_at: name with a path -> model; set by `core.models.custom_weights`.
    """

    model_at: Callable[[str], ModelSpec]

    def __getitem__(self, name: str) -> ModelSpec:
        return self.model_at(name) if PATH_MARK in name else super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or PATH_MARK not in name:
            return super().__contains__(name)
        try:
            return bool(self[name])
        except LowshotError:
            return False


MODELS = ModelRegistry("model")


def by_family() -> list[ModelSpec]:
    """All rows, family by family."""
    return sorted(MODELS.values(), key=lambda spec: list(FAMILY_TITLES).index(spec.family))
