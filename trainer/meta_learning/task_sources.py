"""Sources of meta-learning tasks: other data sets, and other findings of other patients of the same data set.

The target, its relatives and copies of their images are excluded. There is one exception, for a target of several
findings: images of patients who are in neither the evaluated parts nor the subset, with labels of findings that are not
part of the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from core.data import DATASETS
from core.data.dataset import Dataset, scan
from core.data.duplicates import find_copies
from core.data.image_cache import Bank, open_bank
from core.data.listing import UNLABELED, Listing
from core.data.preprocessing import preparation
from core.data.specs import (
    OPTIONS_SEPARATOR,
    DatasetSpec,
    all_findings,
    external_names,
    find_dataset,
    find_folder,
    is_present,
    list_images,
)
from core.errors import BadRequest, DataUnavailable
from core.files import sha256_of
from core.models.medical_encoders import relatives
from trainer.progress import progress_bar
from trainer.training.settings import Cell, Settings

if TYPE_CHECKING:
    from trainer.meta_learning.episodes import Pool

JOINED = "+"
RESERVED = (200, 50)  # images per class whose patients are in no task, so that smaller subsets share initial weights


@dataclass(frozen=True)
class Source:
    """A data set, or a part of it, from which tasks may be drawn.

    Attributes:
        spec, listing: the data set.
        rows: images that may be used.
        labels: (N,) or (N, F) labels of the whole data set.
        removed: number of images left out because they are copies of images of the target or its relatives.
        title: name for display.
    """

    spec: DatasetSpec
    listing: Listing
    rows: np.ndarray
    labels: np.ndarray
    removed: int
    title: str

    @cached_property
    def hash(self) -> str:
        """SHA-256 over ids, labels and contents of the images that may be used."""
        content, ids = _scanned(self.spec)[1].content, self.listing.ids
        return sha256_of(f"{ids[row]}|{self.labels[row].tolist()}|{content[row]}" for row in self.rows)

    def pool(self, size: int, steps: str) -> Pool:
        """Return its images at a size after preprocessing."""
        from trainer.meta_learning.episodes import Pool

        _, groups = np.unique(self.listing.groups, return_inverse=True)
        return Pool(self.spec.name, self.bank(size, steps).images, self.labels, groups, self.rows)

    def bank(self, size: int, steps: str) -> Bank:
        """Return all images of its data set at a size after preprocessing; they are decoded first where necessary."""
        with progress_bar(f"{self.spec.name}: decoding at {size} px") as show:
            return open_bank(self.listing, size, self.spec.channels, show, preparation(steps))


def sources_for(dataset: Dataset, cell: Cell, named: str) -> list[Source]:
    """Return the sources of meta-learning for a cell.

    Args:
        dataset: the target.
        cell: the cell, whose subset must not be used.
        named: data sets joined by `+`; "" for all that are installed and unrelated.
    Raises:
        UnknownName: if a named data set does not exist.
        DataUnavailable: if a named data set is not installed.
        BadRequest: if a named data set may not be used, or there is no source.
    """
    names = named.split(JOINED) if named else _unrelated(dataset)
    for name in names if named else ():
        _check_named(name, dataset)
    sources = [_without_copies(find_dataset(name), dataset) for name in names]
    others = None if named else _other_findings(dataset, cell)
    if not sources and others is None:
        raise BadRequest(_no_source_message(dataset))
    return [*sources, others] if others else sources


def hashes_of(sources: Sequence[Source]) -> dict[str, str]:
    """Return the content hashes of the sources, for a run's record and name."""
    return {source.spec.name: source.hash for source in sources}


def source_notes(sources: Sequence[Source], settings: Settings) -> tuple[str, ...]:
    """Return notes for readers of the results on the meta-learned start."""
    if not sources:
        return ()
    copies = sum(source.removed for source in sources)
    names = ", ".join(source.title for source in sources)
    return (
        f"Its start was meta-learned from {settings.episodes:,} tasks of {names}; {copies} images there that are "
        "copies of images of this set or its relatives were left out.",
    )


def _unrelated(dataset: Dataset) -> list[str]:
    """Return the installed real data sets that are not related to the target and have the same kind of labels.

    External test sets are left out unless they are named.
    """
    excluded = relatives(dataset.spec.name) | external_names()
    return [
        name
        for name, spec in DATASETS.items()
        if name not in excluded and not spec.synthetic and is_present(spec) and not _incompatibility(spec, dataset)
    ]


def _incompatibility(spec: DatasetSpec, dataset: Dataset) -> str:
    """Return why no task for a target can be drawn from a data set; "" if some can."""
    if spec.corpus_only:
        return spec.corpus_only
    if spec.dims != dataset.spec.dims:
        return "one holds images and the other volumes"
    if dataset.spec.task == "multilabel" and spec.task != "multilabel":
        return f"{dataset.spec.name} has several findings per image, which {spec.name} does not have"
    if dataset.spec.task == "multiclass" and spec.task == "multilabel":
        return f"a finding gives tasks of two classes, but {dataset.spec.name} has {len(dataset.labels)} classes"
    return ""


def _check_named(name: str, dataset: Dataset) -> None:
    spec = find_dataset(name)
    if name.partition(OPTIONS_SEPARATOR)[0] in relatives(dataset.spec.name):
        raise BadRequest(
            f"{name} is {dataset.spec.name} or has the same images, so that no task may be drawn from it. Name other "
            "--sources."
        )
    if why := _incompatibility(spec, dataset):
        raise BadRequest(f"No task for {dataset.spec.name} can be drawn from {name}: {why}. Name other --sources.")
    if not is_present(spec):
        raise DataUnavailable(f"{spec.title} is not on this machine; see python -m trainer data list.")


def _no_source_message(dataset: Dataset) -> str:
    kind = "several findings" if dataset.spec.task == "multilabel" else f"{len(dataset.labels)} classes"
    remedy = "Put other data sets below a data root (python -m trainer data list)"
    if dataset.spec.task == "multilabel":
        remedy += f", or leave some findings for it: --dataset {dataset.spec.name}{OPTIONS_SEPARATOR}findings=A+B"
    return (
        f"Meta-learning needs tasks from other data sets, but no data set on this machine suits "
        f"{dataset.spec.name} ({kind}). {remedy}, or choose another strategy."
    )


def _without_copies(spec: DatasetSpec, dataset: Dataset) -> Source:
    """Return a data set without unreadable images and without copies of images of the target and its relatives."""
    listing, small = _scanned(spec)
    keep = small.readable
    if listing.labels.ndim == 1:
        keep &= listing.labels != UNLABELED
    before = int(keep.sum())
    for guard in _guards(dataset):
        with progress_bar(f"{spec.name}: looking for copies") as show:
            keep[find_copies(small, guard, show).first] = False
    return Source(spec, listing, np.flatnonzero(keep), listing.labels, before - int(keep.sum()), spec.name)


def _guards(dataset: Dataset) -> list[Bank]:
    """Return small images of the target and of its installed relatives."""
    others = [DATASETS[name] for name in sorted(relatives(dataset.spec.name)) if name in DATASETS]
    installed = [spec for spec in others if is_present(spec) and spec.dims == dataset.spec.dims]
    own = [] if dataset.spec.name.partition(OPTIONS_SEPARATOR)[0] in DATASETS else [scan(dataset.spec)[1]]
    return [*own, *(_scanned(spec)[1] for spec in installed)]


def _other_findings(dataset: Dataset, cell: Cell) -> Source | None:
    """Return the findings that are not the task, of patients in no other part and not in the subset; None if none."""
    whole = all_findings(dataset.spec)
    others = [index for index, label in enumerate(whole.labels) if label not in dataset.labels]
    if dataset.spec.task != "multilabel" or not others:
        return None
    if cell.train_size is None:
        raise BadRequest("The full training part leaves no patients for meta-learning tasks. Give a --size.")
    listing, rows = list_images(whole), np.array([], int)
    groups, train = dataset.parts.groups, dataset.parts.train
    for least in (*RESERVED, 0):
        reserved = dataset.subset(max(cell.train_size, least), cell.seed).indices
        rows = train[~np.isin(groups[train], groups[reserved])]
        if len(rows) >= len(train) / 2:
            break
    if not len(rows):
        raise BadRequest(
            f"A subset of {cell.train_size} images per finding leaves no patients for meta-learning tasks. Lower "
            "--size."
        )
    title = f"{whole.name} (other findings of other patients)"
    return Source(whole, listing, rows, listing.labels[:, others], 0, title)


def _scanned(spec: DatasetSpec) -> tuple[Listing, Bank]:
    return _scanned_once(spec.name, str(find_folder(spec)))


@lru_cache(maxsize=32)
def _scanned_once(name: str, folder: str) -> tuple[Listing, Bank]:
    with progress_bar(f"{name}: reading") as show:
        return scan(find_dataset(name), show)
