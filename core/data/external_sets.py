"""External test sets: images of other patients, checked against the data set whose runs are evaluated on them.

This module knows neither runs nor encoders; `trainer.training.external` decides whether an encoder has seen an external
set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from core.data.dataset import Dataset, fingerprint_of, scan
from core.data.datasets.custom import custom_dataset
from core.data.datasets.folders import normalized_name
from core.data.demographics import read_demographics
from core.data.duplicates import find_copies
from core.data.image_cache import Progress
from core.data.listing import UNLABELED, Listing
from core.data.specs import DatasetSpec, External, family_of, find_dataset, labels_of
from core.data.splits import Parts, merge_groups
from core.errors import BadRequest, LeakFound, UnknownName

_SHOWN = 3


@dataclass(frozen=True, eq=False)
class ExternalSet:
    """An external test set, matched to a data set.

    Attributes:
        name: name of its row.
        dataset: its images with the classes of the matched data set as labels; all usable ones form the test part.
        labels: classes or findings that both have, as the matched data set names them.
        caveat: how its classes or patients differ, in a sentence; "" if no difference is known.
        facts: further facts about each image of the listing, by name: (N,) text, "" if unknown.
    """

    name: str
    dataset: Dataset
    labels: tuple[str, ...]
    caveat: str
    facts: Mapping[str, np.ndarray]


def external_spec(external: External) -> DatasetSpec:
    """Return the row of an external test set: a registered data set, or the user's own images."""
    return custom_dataset(external.path) if external.path else find_dataset(external.dataset)


def match_classes(spec: DatasetSpec, labels: tuple[str, ...], own: tuple[str, ...]) -> dict[str, str]:
    """Map the classes of an external set to those of the same name; case, hyphens and underscores do not matter."""
    named = {normalized_name(label): label for label in own}
    return {label: named[normalized_name(label)] for label in labels if normalized_name(label) in named}


def load_external(external: External, dataset: Dataset, progress: Progress | None = None) -> ExternalSet:
    """List an external test set, match its classes and check that it shares no patient or image with the data set.

    Args:
        external: the external set; without a class mapping, classes are matched by name.
        dataset: the data set whose runs are evaluated on it.
        progress: called with (images done, total images) while files are read for the first time.
    Raises:
        UnknownName: if the mapping names a class that either set lacks.
        BadRequest: if the sets differ in dimensions or task, or share fewer classes than an evaluation needs.
        LeakFound: if both derive from the same images, or share patients or copies.
        DataUnavailable: if the external set is not on this machine.
    """
    # Refuse sets that cannot be compared before any file is read.
    spec, own = external_spec(external), dataset.spec
    if family_of(spec.name) == family_of(own.name):
        raise LeakFound(
            f"{spec.name} cannot be an external test set of {own.name}: both are made from the images of "
            f"{family_of(own.name)}. Choose a set of other patients."
        )
    if spec.dims != own.dims or (spec.task == "multilabel") != (own.task == "multilabel"):
        raise BadRequest(
            f"{spec.name} ({spec.task}, {spec.dims}D) cannot be an external test set of {own.name} ({own.task}, "
            f"{own.dims}D): expected the same kind of images and labels. Choose another set."
        )
    # Express its labels in the data set's classes; keep readable images with a label.
    listing, bank = scan(spec, progress)
    labels = labels_of(spec, listing)
    classes = _class_mapping(external, spec, labels, dataset)
    relabeled = _relabeled(listing, labels, classes, dataset.labels)
    known = relabeled != UNLABELED if relabeled.ndim == 1 else ~np.isnan(relabeled).all(axis=1)
    rows = np.flatnonzero(bank.readable & known)
    # Check for shared patients and images, and for enough shared classes.
    _check_patients(spec, listing.groups[rows], dataset)
    _check_copies(spec, listing, rows, dataset)
    shared = tuple(label for label in dataset.labels if label in _present_classes(relabeled[rows], dataset.labels))
    _check_enough(spec, labels, shared, dataset)
    # All remaining images form the test part.
    groups = merge_groups(listing.groups, find_copies(bank))
    empty = np.array([], int)
    matched_dataset = Dataset(
        spec=replace(spec, channels=own.channels),
        listing=replace(listing, labels=relabeled),
        labels=dataset.labels,
        parts=Parts(empty, empty, rows, groups, ()),
        fingerprint=fingerprint_of(listing, bank),
        split_hash=dataset.split_hash,  # of the split that it was checked against
        unreadable={str(listing.ids[index]): why for index, why in bank.errors.items()},
    )
    facts = read_demographics(spec, listing.ids).facts if spec.demographics else {}
    return ExternalSet(spec.name, matched_dataset, shared, external.caveat, facts)


def _class_mapping(external: External, spec: DatasetSpec, labels: tuple[str, ...], dataset: Dataset) -> dict[str, str]:
    """Return external class -> class of the data set, after checking that both exist."""
    classes = dict(external.classes) or match_classes(spec, labels, dataset.labels)
    for external_class, own_class in classes.items():
        for name, known, owner in (
            (external_class, spec.labels or labels, spec.name), (own_class, dataset.labels, dataset.spec.name)
        ):  # fmt: skip
            if name not in known:
                raise UnknownName(
                    f"The classes of the external test set {spec.name} are mapped by {external_class}={own_class}, but "
                    f"{owner} has no class {name!r}. It has: {', '.join(known)}. Correct the mapping."
                )
    return classes


def _check_enough(spec: DatasetSpec, labels: tuple[str, ...], shared: tuple[str, ...], dataset: Dataset) -> None:
    least = 1 if dataset.spec.task == "multilabel" else 2
    if len(shared) >= least:
        return
    overlap = f"only the class {shared[0]!r}" if shared else "no class"
    raise BadRequest(
        f"{spec.name} shares {overlap} with {dataset.spec.name}; an external test set needs {least} or more. It has "
        f"{', '.join(labels)}; {dataset.spec.name} has {', '.join(dataset.labels)}. Give its classes the same "
        "names, or map them: --external-classes THERE=HERE,..."
    )


def _relabeled(
    listing: Listing, labels: tuple[str, ...], classes: Mapping[str, str], own: tuple[str, ...]
) -> np.ndarray:
    """Return the labels as indices of the data set's own classes; images of unmapped classes have no label."""
    target_of = [own.index(classes[label]) if label in classes else UNLABELED for label in labels]
    if listing.labels.ndim == 1:
        return np.array([*target_of, UNLABELED])[listing.labels]  # index -1 (unlabeled) selects the last entry
    relabeled = np.full((len(listing), len(own)), np.nan)
    for column, target in enumerate(target_of):
        if target != UNLABELED:  # several findings may map to one: it is positive if any is
            relabeled[:, target] = np.fmax(relabeled[:, target], listing.labels[:, column])
    return relabeled


def _present_classes(labels: np.ndarray, names: tuple[str, ...]) -> set[str]:
    """Return the classes present, or the findings with both positive and negative images."""
    if labels.ndim == 1:
        return {names[index] for index in np.unique(labels)}
    both = (labels > 0.5).any(axis=0) & (labels <= 0.5).any(axis=0)
    return {names[index] for index in np.flatnonzero(both)}


def _check_patients(spec: DatasetSpec, groups: np.ndarray, dataset: Dataset) -> None:
    """Raise LeakFound if two tables of own images share patients; registered sets number theirs independently."""
    if any(row.path is None or row.group_key == "image" for row in (spec, dataset.spec)):
        return
    shared = np.intersect1d(groups, dataset.listing.groups[_used(dataset)])
    if len(shared):
        raise LeakFound(
            f"{len(shared)} patients of {spec.name} are in {dataset.spec.name} too: "
            f"{', '.join(map(str, shared[:_SHOWN]))}. Take them out of the external table; if they are other people "
            "with the same number, give them other numbers."
        )


def _check_copies(spec: DatasetSpec, listing: Listing, rows: np.ndarray, dataset: Dataset) -> None:
    """Raise LeakFound if an image is a copy of a training, validation or test image."""
    copies = find_copies(scan(spec)[1], scan(dataset.spec)[1])
    crossing = np.isin(copies.first, rows) & np.isin(copies.second, _used(dataset))
    if not crossing.any():
        return
    copied = np.unique(copies.first[crossing])
    counts = [
        f"{count} of {part} images".replace("train ", "training ")
        for part, members in dataset.parts.by_name.items()
        if (count := len(np.unique(copies.first[crossing & np.isin(copies.second, members)])))
    ]
    raise LeakFound(
        f"{len(copied)} images of {spec.name} are copies of images of {dataset.spec.name} ({', '.join(counts)}): "
        f"{', '.join(listing.ids[copied[:_SHOWN]].tolist())}. Take them out of the external test set."
    )


def _used(dataset: Dataset) -> np.ndarray:
    """Return the images of the training, validation and test parts."""
    return np.concatenate(list(dataset.parts.by_name.values()))
