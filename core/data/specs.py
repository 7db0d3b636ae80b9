"""The table of data sets: one `DatasetSpec` per row. Loaders are in `core.data.datasets`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from core.data.datasets.folders import normalized_name, subfolders
from core.data.listing import Listing
from core.errors import DataUnavailable, UnknownName
from core.paths import data_roots
from core.registry import Registry
from core.types import Task

OPTIONS_SEPARATOR = "@"
FINDINGS, JOINED = "findings", "+"
OWN = "own-"  # begins the names of the user's own data sets


@dataclass(frozen=True)
class Remote:
    """Where to download a data set.

    Attributes:
        kind: the service; `apply` means that a person must apply first.
        ref: name of the data set at the service, or address of the application.
        files: prefixes of the names of the files to download; the default matches all.
    """

    kind: Literal["kaggle", "medmnist", "dataverse", "apply"]
    ref: str
    files: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class DemographicsTable:
    """A publisher's table with the age and sex of the people in the images.

    Attributes:
        files: possible names of the table.
        image: column with the names of the images, with or without suffix.
        age: column with the age in years.
        sex: column with the sex, as a word or a letter.
        view: column with the projection of a radiograph (AP, PA); "" if there is none.
        reader: column with a radiologist's reading of the image, yes or no; "" if there is none.
    """

    files: tuple[str, ...]
    image: str
    age: str
    sex: str
    view: str = ""
    reader: str = ""


@dataclass(frozen=True)
class External:
    """A test set of other patients, on which runs of a data set are also evaluated.

    Attributes:
        dataset: name of its row; "" for the user's own images.
        classes: its classes or findings -> the equivalent ones of the data set; classes that are not listed are left
            out. If empty, classes are matched by name.
        caveat: how classes of the same name differ, in a sentence; "" if they do not.
        path: folder or table of the user's own images.
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
        title: display name.
        modality: kind of images.
        question: what a network predicts, as a question that a clinician would ask; "" if only the classes tell.
        population: whose images these are, in a sentence; "" if unknown.
        task: binary and multiclass have one class per image, multilabel any number of findings.
        labels: names of the classes, in the order of the logits; empty if the folder defines them.
        positive: index of the class whose probability a binary task reports; None for other tasks.
        load: (folder, options by name) -> the listing. Generated data sets ignore the folder.
        folders: possible names of the data set's folder (case, hyphens, underscores and spaces do not matter).
        file_of: (options by name) -> a file that the folder must have; None if no other data set shares the folder.
        titles: class whose name is a code -> its display name, including the code.
        suspicious: classes that a screening stage passes on to a second stage; empty if the task has no such stage.
        dims: 2 for images, 3 for volumes.
        options: variants of labels or sizes: option -> its values, the default first.
        remote: where `data get` downloads it.
        group_key: unit that a split keeps together, as a display text.
        channels: 1 (gray) or 3 (color).
        licence, citation, url: source and terms of use.
        caveats: what a reader of results must know.
        derived_from: the data set that these images come from; sets of one family count as one wherever sets must be
            disjoint.
        synthetic: whether images are generated; pages and reports say so.
        demographics: table with age and sex; None if the publisher gives none.
        evidence: (name of an image) -> (H, W) bool, the region that makes it positive; None if unknown.
        corpus_only: reason why it is used for pretraining only; "" if it is also a task.
        test_share: n, where one in n groups becomes test data if the publisher gives no test part.
        min_positives: minimum number of positive test images for a finding to be evaluated; rarer findings are only
            trained.
        path: the folder itself, for a data set outside the data roots.
        external: test sets of other patients, with the classes that both have.
    """

    name: str
    title: str
    modality: str
    task: Task
    labels: tuple[str, ...]
    load: Callable[..., Listing]
    folders: tuple[str, ...] = ()
    file_of: Callable[..., str] | None = None
    titles: Mapping[str, str] = field(default_factory=dict)
    suspicious: tuple[str, ...] = ()
    dims: Literal[2, 3] = 2
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    question: str = ""
    population: str = ""
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
    demographics: DemographicsTable | None = None
    evidence: Callable[[str], np.ndarray] | None = None
    corpus_only: str = ""
    test_share: int = 5
    min_positives: int = 0
    path: Path | None = None
    external: tuple[External, ...] = ()


DATASETS: Registry[DatasetSpec] = Registry("data set")


def find_dataset(name: str) -> DatasetSpec:
    """Return the row of a name with options, such as `chexpert@uncertain=ones,blank=unknown`.

    A task may use some findings of a multilabel set: `chexpert@findings=Edema+Fracture`.

    Raises:
        UnknownName: if there is no such row, option or value.
    """
    base, _, options = name.partition(OPTIONS_SEPARATOR)
    spec = DATASETS[base]
    chosen: dict[str, str] = {}
    findings: tuple[str, ...] = ()
    for pair in filter(None, options.split(",")):
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


def known_dataset(name: str) -> DatasetSpec | None:
    """Return the row of a name with options; None for own images and for rows that no longer exist."""
    try:
        return find_dataset(name)
    except UnknownName:
        return None


def _findings(spec: DatasetSpec, value: str) -> tuple[str, ...]:
    """Return the named findings in the order of the data set; an empty tuple if they are all findings.

    Raises:
        UnknownName: if the data set has no such finding.
    """
    named = value.split(JOINED)
    if unknown := [name for name in named if name not in spec.labels]:
        raise UnknownName(f"{spec.name} has no finding {unknown[0]!r}. It has: {', '.join(spec.labels)}.")
    return tuple(label for label in spec.labels if label in named) if set(named) < set(spec.labels) else ()


def _of_findings(spec: DatasetSpec, findings: tuple[str, ...]) -> DatasetSpec:
    """Return the row of the same images with only some of their findings; the question about all no longer fits."""
    columns = [spec.labels.index(label) for label in findings]

    def load(folder: Path) -> Listing:
        listing = spec.load(folder)
        return replace(listing, labels=listing.labels[:, columns])

    option = f"{FINDINGS}={JOINED.join(findings)}"
    separator = "," if OPTIONS_SEPARATOR in spec.name else OPTIONS_SEPARATOR
    title = f"{spec.title}: {', '.join(findings)}"
    name = f"{spec.name}{separator}{option}"
    return replace(spec, name=name, title=title, question="", labels=findings, load=load)


def all_findings(spec: DatasetSpec) -> DatasetSpec:
    """Return the row with all findings if only some were chosen; else the row itself."""
    base, _, options = spec.name.partition(OPTIONS_SEPARATOR)
    others = [pair for pair in options.split(",") if not pair.startswith(f"{FINDINGS}=")]
    return find_dataset(f"{base}{OPTIONS_SEPARATOR}{','.join(others)}") if FINDINGS in options else spec


def _with_options(spec: DatasetSpec, base: str, chosen: dict[str, str]) -> DatasetSpec:
    options = ",".join(f"{option}={chosen[option]}" for option in sorted(chosen))
    return replace(
        spec,
        name=f"{base}{OPTIONS_SEPARATOR}{options}",
        title=f"{spec.title}, {options.replace(',', ', ')}",
        load=partial(spec.load, **chosen),
        file_of=partial(spec.file_of, **chosen) if spec.file_of else None,
    )


def family_of(name: str) -> str:
    """Return the data set that a set's images come from, or the set itself; a family counts as one set."""
    base = name.partition(OPTIONS_SEPARATOR)[0]
    return DATASETS[base].derived_from or base if base in DATASETS else base


def external_names() -> set[str]:
    """Return the names of the data sets that are an external test set of another one."""
    return {external.dataset for spec in DATASETS.values() for external in spec.external}


def find_folder(spec: DatasetSpec) -> Path | None:
    """Return the data set's folder under the data roots, or None if it is not on this machine."""
    if spec.path is not None:
        return spec.path if spec.path.is_dir() else None
    wanted = {normalized_name(name) for name in spec.folders}
    for path in (path for root in data_roots() if root.is_dir() for path in subfolders(root)):
        if normalized_name(path.name) in wanted and (spec.file_of is None or (path / spec.file_of()).is_file()):
            return path
    return None


def is_present(spec: DatasetSpec) -> bool:
    """Whether the data set's images are on this machine; generated ones always are."""
    return spec.synthetic or find_folder(spec) is not None


def labels_of(spec: DatasetSpec, listing: Listing) -> tuple[str, ...]:
    """Return the names of the classes or findings: those found in the folder, else those of the row."""
    return listing.class_names or spec.labels


def class_titles(dataset: str, labels: Sequence[str]) -> tuple[str, ...]:
    """Return the display names of classes or findings, such as `melanoma (mel)`; by default the name itself."""
    base = dataset.partition(OPTIONS_SEPARATOR)[0]
    titles = DATASETS[base].titles if base in DATASETS else {}
    return tuple(titles.get(label, label) for label in labels)


def how_to_get(spec: DatasetSpec) -> str:
    """Return a sentence that says how to get a data set that is not on this machine."""
    if spec.remote is None:
        return f"Get it from {spec.url or 'its publisher'} and put it in a data root"
    if spec.remote.kind == "apply":
        return f"Apply for it at {spec.remote.ref}"
    return f"Download it: python -m trainer data get {spec.name}"


def list_images(spec: DatasetSpec) -> Listing:
    """List the images of a data set.

    Raises:
        DataUnavailable: if its folder is not in the data roots, or not laid out as expected.
    """
    folder = Path() if spec.synthetic else find_folder(spec)
    if folder is None:
        raise DataUnavailable(
            f"{spec.title} is not on this machine: no folder {' or '.join(spec.folders)} in "
            f"{', '.join(str(root) for root in data_roots())}. {how_to_get(spec)}; or set LOWSHOT_DATA to the folder "
            "that holds it."
        )
    return spec.load(folder)
