"""Where the tasks of meta-learning come from: other data sets, and other findings of other patients of the same set.

Never the target, nor a relative of it, nor copies of their images. What is gathered here holds no image of the target
but those of a set of several findings, of patients that are in none of its parts that are judged or learnt from, with
labels of findings that are not the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from core.data import DATASETS
from core.data.dataset import Dataset, scan
from core.data.duplicates import find_copies
from core.data.image_cache import Bank, open_bank
from core.data.listing import UNLABELLED, Listing
from core.data.preprocessing import preparation
from core.data.specs import (
    OPTIONS_AFTER,
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
from trainer.meta_learning.episodes import Pool
from trainer.progress import bar
from trainer.training.settings import Cell

JOINED = "+"
RESERVED = (200, 50)  # images a class whose patients no task is made of, so that smaller subsets share a start


@dataclass(frozen=True)
class Source:
    """A data set, or the part of it, that tasks may be made of.

    Attributes:
        spec, listing: the set.
        rows: its images that may be used.
        labels: (N,) or (N, F) of the whole set.
        removed: images left out because they are copies of the target's or its relatives'.
        hash: SHA-256 over ids, labels and contents of those that may be used.
        title: for people.
    """

    spec: DatasetSpec
    listing: Listing
    rows: np.ndarray
    labels: np.ndarray
    removed: int
    hash: str
    title: str

    def pool(self, size: int, steps: str) -> Pool:
        """Its images at a size, prepared by some steps; decoded first where they are not yet."""
        with bar(f"{self.spec.name}: decoding at {size} px") as show:
            bank = open_bank(self.listing, size, self.spec.channels, show, preparation(steps))
        _, groups = np.unique(self.listing.groups, return_inverse=True)
        return Pool(self.spec.name, bank.images, self.labels, groups, self.rows)


def sources_for(dataset: Dataset, cell: Cell, named: str) -> list[Source]:
    """What may be meta-learnt from before a cell is trained.

    Args:
        dataset: the target.
        cell: whose subset must not be among it.
        named: data sets joined by `+`; "" for all that are here and unrelated.
    Raises:
        UnknownName: if a named set does not exist.
        DataUnavailable: if a named set is not here.
        BadRequest: if a named set may not be used, or there is none.
    """
    names = named.split(JOINED) if named else _unrelated(dataset)
    for name in names if named else ():
        _check(name, dataset)
    found = [_cleaned(find_dataset(name), dataset) for name in names]
    others = None if named else _other_findings(dataset, cell)
    if not found and others is None:
        raise BadRequest(_alone(dataset))
    return [*found, others] if others else found


def _unrelated(dataset: Dataset) -> list[str]:
    """Real sets on this machine that are not the target or its relatives, and whose labels are of the same kind.

    External test sets are left out: they must be named.
    """
    apart = relatives(dataset.spec.name) | external_names()
    return [
        name
        for name, spec in DATASETS.items()
        if name not in apart and not spec.synthetic and is_present(spec) and not _unfit(spec, dataset)
    ]


def _unfit(spec: DatasetSpec, dataset: Dataset) -> str:
    """Why no task for a target can be made of a set; "" if some can."""
    if spec.corpus_only:
        return spec.corpus_only
    if spec.dims != dataset.spec.dims:
        return "one holds images and the other volumes"
    if dataset.spec.task == "multilabel" and spec.task != "multilabel":
        return f"{dataset.spec.name} asks for several findings an image, which {spec.name} does not have"
    if dataset.spec.task == "multiclass" and spec.task == "multilabel":
        return f"a finding has two sides, but {dataset.spec.name} has {len(dataset.labels)} classes"
    return ""


def _check(name: str, dataset: Dataset) -> None:
    spec = find_dataset(name)
    if name.partition(OPTIONS_AFTER)[0] in relatives(dataset.spec.name):
        raise BadRequest(f"{name} is {dataset.spec.name} or made of the same images; no task may come from it.")
    if why := _unfit(spec, dataset):
        raise BadRequest(f"No task for {dataset.spec.name} can be made of {name}: {why}.")
    if not is_present(spec):
        raise DataUnavailable(f"{spec.title} is not on this machine; see python -m trainer data list.")


def _alone(dataset: Dataset) -> str:
    kind = "several findings" if dataset.spec.task == "multilabel" else f"{len(dataset.labels)} classes"
    remedy = "Put other data sets below a data root (python -m trainer data list)"
    if dataset.spec.task == "multilabel":
        remedy += f", or keep some findings for it: --dataset {dataset.spec.name}{OPTIONS_AFTER}findings=A+B"
    return (
        f"Meta-learning learns from other tasks how to learn, and {dataset.spec.name} is alone here: one task of "
        f"{kind} gives no other. {remedy}, or choose another strategy."
    )


def _cleaned(spec: DatasetSpec, dataset: Dataset) -> Source:
    """A set without what cannot be read and without copies of the target's and its relatives' images."""
    listing, small = _scanned(spec)
    keep = np.ones(len(listing), bool)
    keep[list(small.errors)] = False
    if listing.labels.ndim == 1:
        keep &= listing.labels != UNLABELLED
    before = int(keep.sum())
    for guard in _guards(dataset):
        with bar(f"{spec.name}: looking for copies") as show:
            keep[find_copies(small, guard, show).first] = False
    return _source(spec, listing, np.flatnonzero(keep), listing.labels, before - int(keep.sum()), small, spec.name)


def _guards(dataset: Dataset) -> list[Bank]:
    """Small pictures of the target and of its relatives that are here."""
    others = [DATASETS[name] for name in sorted(relatives(dataset.spec.name)) if name in DATASETS]
    here = [spec for spec in others if is_present(spec) and spec.dims == dataset.spec.dims]
    own = [] if dataset.spec.name.partition(OPTIONS_AFTER)[0] in DATASETS else [scan(dataset.spec)[1]]
    return [*own, *(_scanned(spec)[1] for spec in here)]


def _other_findings(dataset: Dataset, cell: Cell) -> Source | None:
    """Findings that are not the task, of patients in no other part and not in the subset; None where there are none."""
    whole = all_findings(dataset.spec)
    others = [index for index, label in enumerate(whole.labels) if label not in dataset.labels]
    if dataset.spec.task != "multilabel" or not others:
        return None
    if cell.train_size is None:
        raise BadRequest("The full training part leaves no patients to make other tasks of; state a --size.")
    listing, rows = list_images(whole), np.array([], int)
    groups, train = dataset.parts.groups, dataset.parts.train
    for least in (*RESERVED, 0):
        reserved = dataset.subset(max(cell.train_size, least), cell.seed).indices
        rows = train[~np.isin(groups[train], groups[reserved])]
        if len(rows) >= len(train) / 2:
            break
    if not len(rows):
        raise BadRequest(f"The patients of {cell.train_size} images a finding are all there are; lower --size.")
    title = f"{whole.name} (other findings of other patients)"
    return _source(whole, listing, rows, listing.labels[:, others], 0, _scanned(whole)[1], title)


def _source(
    spec: DatasetSpec,
    listing: Listing,
    rows: np.ndarray,
    labels: np.ndarray,
    removed: int,
    small: Bank,
    title: str,
) -> Source:
    content = sha256_of(f"{listing.ids[row]}|{labels[row].tolist()}|{small.content[row]}" for row in rows)
    return Source(spec, listing, rows, labels, removed, content, title)


def _scanned(spec: DatasetSpec) -> tuple[Listing, Bank]:
    return _scanned_once(spec.name, str(find_folder(spec)))


@lru_cache(maxsize=32)
def _scanned_once(name: str, folder: str) -> tuple[Listing, Bank]:
    with bar(f"{name}: reading") as show:
        return scan(find_dataset(name), show)
