"""The table of data sets: one `DatasetSpec` a row. Loaders of single sets live in modules of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.data.folders import list_class_folders, plain, subfolders
from core.data.listing import Listing
from core.errors import DataUnavailable
from core.registry import Registry
from core.runtime import data_roots
from core.storage import sha256_of
from core.types import Task


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
        load: a folder -> its listing. Generated sets ignore the folder.
        folders: names the data set's folder may have (case, hyphens and underscores do not matter).
        group_key: what keeps together in a split, for people.
        channels: 1 (grey) or 3 (colour).
        licence, citation, url: where it comes from and on what terms.
        caveats: what a reader of results must know.
        derived_from: the set whose images these are; relatives count as one set wherever sets must be kept apart.
        synthetic: generated images; said wherever they appear.
        corpus_only: known for pretraining, not offered as a task of its own yet.
        path: the folder itself, for a set that is not looked up under the data roots.
    """

    name: str
    title: str
    modality: str
    task: Task
    labels: tuple[str, ...]
    load: Callable[[Path], Listing]
    folders: tuple[str, ...] = ()
    positive: int | None = None
    group_key: str = "image"
    channels: int = 1
    licence: str = ""
    citation: str = ""
    url: str = ""
    caveats: tuple[str, ...] = ()
    derived_from: str | None = None
    synthetic: bool = False
    corpus_only: bool = False
    path: Path | None = None


DATASETS: Registry[DatasetSpec] = Registry("data set")


def find_folder(spec: DatasetSpec) -> Path | None:
    """The data set's folder under the data roots, or None where it is not on this machine."""
    if spec.path is not None:
        return spec.path if spec.path.is_dir() else None
    wanted = {plain(name) for name in spec.folders}
    for root in data_roots():
        if root.is_dir():
            for path in subfolders(root):
                if plain(path.name) in wanted:
                    return path
    return None


def is_present(spec: DatasetSpec) -> bool:
    """Whether the data set's images are on this machine (generated ones always are)."""
    return spec.synthetic or find_folder(spec) is not None


def list_images(spec: DatasetSpec) -> Listing:
    """Reads the data set's layout.

    Raises:
        DataUnavailable: if its folder is not under the data roots, or not laid out as expected.
    """
    folder = Path() if spec.synthetic else find_folder(spec)
    if folder is None:
        raise DataUnavailable(
            f"{spec.title} is not on this machine: no folder {' or '.join(spec.folders)} in "
            f"{', '.join(str(root) for root in data_roots())}. Fetch it from {spec.url or 'its publisher'} and put it "
            "there, or set LOWSHOT_DATA to the folder that holds it."
        )
    return spec.load(folder)


def own_folder(path: Path) -> DatasetSpec:
    """A row for anyone's own folder of class folders, with or without train, val and test above them.

    Raises:
        DataUnavailable: if the folder is missing or holds fewer than two classes.
    """
    path = path.expanduser().resolve()
    if not path.is_dir():
        raise DataUnavailable(f"There is no folder {path}. Give the folder that holds one folder a class.")
    labels = list_class_folders(path).labels_found
    return DatasetSpec(
        name=f"own-{plain(path.name) or 'folder'}-{sha256_of([str(path)])[:6]}",
        title=f"Own folder: {path.name}",
        modality="own images",
        task="binary" if len(labels) == 2 else "multiclass",
        labels=labels,
        positive=1 if len(labels) == 2 else None,
        load=list_class_folders,
        folders=(path.name,),
        path=path,
        channels=3,
        caveats=("Nothing says which images are of one patient: only copies of one image are kept together.",),
    )
