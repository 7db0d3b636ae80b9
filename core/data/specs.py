"""The table of data sets: one `DatasetSpec` a row. Loaders of single sets live in modules of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from core.data.datasets.folders import plain, subfolders
from core.data.listing import Listing
from core.errors import DataUnavailable, UnknownName
from core.paths import data_roots
from core.registry import Registry
from core.types import Task

OPTIONS_AFTER = "@"
FINDINGS, JOINED = "findings", "+"


@dataclass(frozen=True)
class Remote:
    """Where a publisher lets a data set be fetched.

    Attributes:
        kind: the way there; `apply` means that a person must ask first.
        ref: its name there.
        files: beginnings of the names of the files that are wanted; empty for all.
    """

    kind: Literal["kaggle", "medmnist", "dataverse", "apply"]
    ref: str
    files: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class PeopleTable:
    """Where a publisher says how old the people of the images were, and of which sex.

    Attributes:
        files: names that the table may have.
        image: column with the images' names, with or without ending.
        age: column with years.
        sex: column with words or letters.
        view: column with the projection of a radiograph (AP, PA); "" where there is none.
        reader: column with a radiologist's reading of the image, yes or no; "" where there is none.
    """

    files: tuple[str, ...]
    image: str
    age: str
    sex: str
    view: str = ""
    reader: str = ""


@dataclass(frozen=True)
class External:
    """A test set of other patients, on which runs of a data set are evaluated too.

    Attributes:
        dataset: name of its row; "" for one's own images.
        classes: its classes or findings -> those of the data set that mean the same; what is not named is left out.
            Without any, classes of the same name are the same.
        caveat: in what classes of one name differ, in a sentence; "" where they do not.
        path: a folder or table of one's own images.
    """

    dataset: str
    classes: Mapping[str, str] = field(default_factory=dict)
    caveat: str = ""
    path: Path | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """Facts about one data set.

    Attributes:
        name: key in the registry and in the run store.
        title: for people.
        modality: what the images are.
        task: binary and multiclass have one class an image, multilabel any number of findings.
        labels: names of the classes, in the order of the logits; empty where the folder itself defines them.
        positive: index of the class whose probability a binary task reports; None for other tasks.
        load: a folder, and the options by name -> its listing. Generated sets ignore the folder.
        folders: names the data set's folder may have (case, hyphens and underscores do not matter).
        files: names of which one must be in that folder, where several sets share it; empty for any folder.
        file_of: the options by name -> that file, where they decide on it.
        titles: classes whose name is a code -> what pages and reports call them, the code with it.
        suspicious: classes that a screen lets through to a second stage, of several classes; empty where there is no
            such division.
        dims: 2 for images, 3 for volumes.
        options: what a reader may choose of the labels or sizes: option -> its values, the default first.
        remote: where `data get` fetches it.
        group_key: what keeps together in a split, for people.
        channels: 1 (grey) or 3 (colour).
        licence, citation, url: where it comes from and on what terms.
        caveats: what a reader of results must know.
        derived_from: the set whose images these are; relatives count as one set wherever sets must be kept apart.
        synthetic: generated images; said wherever they appear.
        people: where ages and sexes of its people are; None where the publisher gives none.
        evidence: an image's name -> (H, W) bool: where what makes it positive was drawn; None where nobody knows.
        corpus_only: why it serves for pretraining only; "" for a task like any other.
        test_share: one in how many groups is set apart for the test where the publisher gives no test part.
        least_positives: test images that must show a finding for it to be judged; one that fewer show is learnt only.
        path: the folder itself, for a set that is not looked up under the data roots.
        external: test sets of other patients, with the classes that both have.
    """

    name: str
    title: str
    modality: str
    task: Task
    labels: tuple[str, ...]
    load: Callable[..., Listing]
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    file_of: Callable[..., str] | None = None
    titles: Mapping[str, str] = field(default_factory=dict)
    suspicious: tuple[str, ...] = ()
    dims: Literal[2, 3] = 2
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    remote: Remote | None = None
    positive: int | None = None
    group_key: str = "image"
    channels: int = 1
    licence: str = ""
    citation: str = ""
    url: str = ""
    caveats: tuple[str, ...] = ()
    derived_from: str | None = None
    synthetic: bool = False
    people: PeopleTable | None = None
    evidence: Callable[[str], np.ndarray] | None = None
    corpus_only: str = ""
    test_share: int = 5
    least_positives: int = 0
    path: Path | None = None
    external: tuple[External, ...] = ()


DATASETS: Registry[DatasetSpec] = Registry("data set")


def find_dataset(name: str) -> DatasetSpec:
    """The row of a name, with options: `chexpert@uncertain=ones,blank=unknown`.

    Of a set of several findings some can be chosen as the task: `chexpert@findings=Edema+Fracture`.

    Raises:
        UnknownName: if there is no such row, option or value.
    """
    base, _, stated = name.partition(OPTIONS_AFTER)
    spec = DATASETS[base]
    chosen: dict[str, str] = {}
    findings: tuple[str, ...] = ()
    for pair in filter(None, stated.split(",")):
        option, _, value = pair.partition("=")
        if option == FINDINGS and spec.task == "multilabel":
            findings = _findings(spec, value)
            continue
        if value not in spec.options.get(option, ()):
            known = "; ".join(f"{key}={'|'.join(values)}" for key, values in spec.options.items())
            raise UnknownName(f"{base} has no option {pair!r}. It has: {known or 'none'}.")
        if value != spec.options[option][0]:
            chosen[option] = value
    spec = _with_options(spec, base, chosen) if chosen else spec
    return _of_findings(spec, findings) if findings else spec


def _findings(spec: DatasetSpec, value: str) -> tuple[str, ...]:
    """The findings that are named, in the order of the set; none where all are.

    Raises:
        UnknownName: if the set has no such finding.
    """
    named = value.split(JOINED)
    if unknown := [name for name in named if name not in spec.labels]:
        raise UnknownName(f"{spec.name} has no finding {unknown[0]!r}. It has: {', '.join(spec.labels)}.")
    return tuple(label for label in spec.labels if label in named) if set(named) < set(spec.labels) else ()


def _of_findings(spec: DatasetSpec, findings: tuple[str, ...]) -> DatasetSpec:
    """The same images with some of their findings only."""
    columns = [spec.labels.index(label) for label in findings]

    def load(folder: Path) -> Listing:
        listing = spec.load(folder)
        return replace(listing, labels=listing.labels[:, columns])

    words = f"{FINDINGS}={JOINED.join(findings)}"
    joined = "," if OPTIONS_AFTER in spec.name else OPTIONS_AFTER
    title = f"{spec.title}: {', '.join(findings)}"
    return replace(spec, name=f"{spec.name}{joined}{words}", title=title, labels=findings, load=load)


def all_findings(spec: DatasetSpec) -> DatasetSpec:
    """The row from which some findings were chosen; the row itself where none were."""
    base, _, stated = spec.name.partition(OPTIONS_AFTER)
    others = [pair for pair in stated.split(",") if not pair.startswith(f"{FINDINGS}=")]
    return find_dataset(f"{base}{OPTIONS_AFTER}{','.join(others)}") if FINDINGS in stated else spec


def _with_options(spec: DatasetSpec, base: str, chosen: dict[str, str]) -> DatasetSpec:
    words = ",".join(f"{option}={chosen[option]}" for option in sorted(chosen))
    return replace(
        spec,
        name=f"{base}{OPTIONS_AFTER}{words}",
        title=f"{spec.title}, {words.replace(',', ', ')}",
        load=partial(spec.load, **chosen),
        files=tuple(spec.file_of(**chosen) for _ in spec.files) if spec.file_of else spec.files,
    )


def family_of(name: str) -> str:
    """The set from whose images a set is made, itself where none is: relatives count as one set."""
    base = name.partition(OPTIONS_AFTER)[0]
    return DATASETS[base].derived_from or base if base in DATASETS else base


def external_names() -> set[str]:
    """Return the names of the data sets that serve another one as an external test set."""
    return {external.dataset for spec in DATASETS.values() for external in spec.external}


def find_folder(spec: DatasetSpec) -> Path | None:
    """The data set's folder under the data roots, or None where it is not on this machine."""
    if spec.path is not None:
        return spec.path if spec.path.is_dir() else None
    wanted = {plain(name) for name in spec.folders}
    for root in data_roots():
        if root.is_dir():
            for path in subfolders(root):
                if plain(path.name) in wanted and (
                    not spec.files or any((path / name).is_file() for name in spec.files)
                ):
                    return path
    return None


def is_present(spec: DatasetSpec) -> bool:
    """Whether the data set's images are on this machine (generated ones always are)."""
    return spec.synthetic or find_folder(spec) is not None


def labels_of(spec: DatasetSpec, listing: Listing) -> tuple[str, ...]:
    """Names of the classes or findings: those that the images here have, where the row leaves that open."""
    return listing.labels_found or spec.labels


def class_titles(dataset: str, labels: Sequence[str]) -> tuple[str, ...]:
    """What people call classes or findings: `melanoma (mel)`; the name itself where the data set's row says no more."""
    base = dataset.partition(OPTIONS_AFTER)[0]
    titles = DATASETS[base].titles if base in DATASETS else {}
    return tuple(titles.get(label, label) for label in labels)


def how_to_get(spec: DatasetSpec) -> str:
    """The way to a data set that is not here, in a sentence."""
    if spec.remote is None:
        return f"Get it from {spec.url or 'its publisher'} and put it below a data root"
    if spec.remote.kind == "apply":
        return f"Apply for it at {spec.remote.ref}"
    return f"Fetch it: python -m trainer data get {spec.name}"


def list_images(spec: DatasetSpec) -> Listing:
    """Reads the data set's layout.

    Raises:
        DataUnavailable: if its folder is not under the data roots, or not laid out as expected.
    """
    folder = Path() if spec.synthetic else find_folder(spec)
    if folder is None:
        raise DataUnavailable(
            f"{spec.title} is not on this machine: no folder {' or '.join(spec.folders)} in "
            f"{', '.join(str(root) for root in data_roots())}. {how_to_get(spec)}; or set LOWSHOT_DATA to the folder "
            "that holds it."
        )
    return spec.load(folder)
