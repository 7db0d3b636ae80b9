"""External test sets: images of other patients, checked against the data set whose runs are evaluated on them.

Runs and encoders are unknown here; `trainer.training.external` decides whether an encoder has seen an external set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from core.data.dataset import Dataset, fingerprint_of, scan
from core.data.datasets.custom import own_images
from core.data.datasets.folders import plain
from core.data.demographics import read_people
from core.data.duplicates import find_copies
from core.data.image_cache import Progress
from core.data.listing import UNLABELLED, Listing
from core.data.specs import DatasetSpec, External, family_of, find_dataset, labels_of
from core.data.splits import Parts, unite_groups
from core.errors import BadRequest, LeakFound, UnknownName
from core.types import READER, VIEW

_SHOWN = 3


@dataclass(frozen=True, eq=False)
class ExternalSet:
    """An external test set that may serve a data set.

    Attributes:
        name: of its row.
        dataset: its images, labelled by the classes of the data set that it serves; all that count are its test part.
        labels: the classes or findings that both have, as the served data set names them.
        caveat: in what classes or people differ, in a sentence; "" where nothing is known.
        facts: what else is known of each image of the listing, by name: (N,) text, "" where it is not known.
    """

    name: str
    dataset: Dataset
    labels: tuple[str, ...]
    caveat: str
    facts: Mapping[str, np.ndarray]


def spec_of(external: External) -> DatasetSpec:
    """Return the row of an external test set: a registered one, or one's own images."""
    return own_images(external.path) if external.path else find_dataset(external.dataset)


def matched(spec: DatasetSpec, labels: tuple[str, ...], own: tuple[str, ...]) -> dict[str, str]:
    """Map the classes of an external set to those of the same name; case, hyphens and underscores do not matter."""
    named = {plain(label): label for label in own}
    return {label: named[plain(label)] for label in labels if plain(label) in named}


def load_external(external: External, dataset: Dataset, progress: Progress | None = None) -> ExternalSet:
    """List an external test set, match its classes and check that it shares no patient or image with the data set.

    Args:
        external: the set, with its classes; without any they are matched by name.
        dataset: the data set that it is to serve.
        progress: called with (images done, images in all) while files are read for the first time.
    Raises:
        UnknownName: if a class is mapped that one of them does not have.
        BadRequest: if they are of different kinds, or share fewer classes than an evaluation needs.
        LeakFound: if both are made of the same images, or share patients or copies.
        DataUnavailable: if the external set is not on this machine.
    """
    spec, own = spec_of(external), dataset.spec
    if family_of(spec.name) == family_of(own.name):
        raise LeakFound(
            f"{spec.name} cannot be an external test set of {own.name}: both are made of the images of "
            f"{family_of(own.name)}. Choose a set of other patients."
        )
    if spec.dims != own.dims or (spec.task == "multilabel") != (own.task == "multilabel"):
        raise BadRequest(
            f"{spec.name} ({spec.task}, {spec.dims}D) cannot be an external test set of {own.name} ({own.task}, "
            f"{own.dims}D): expected the same kind of images and labels. Choose another set."
        )
    listing, bank = scan(spec, progress)
    labels = labels_of(spec, listing)
    classes = _checked(external, spec, labels, dataset)
    relabelled = _relabelled(listing, labels, classes, dataset.labels)
    readable = np.ones(len(listing), bool)
    readable[list(bank.errors)] = False
    known = relabelled != UNLABELLED if relabelled.ndim == 1 else ~np.isnan(relabelled).all(axis=1)
    rows = np.flatnonzero(readable & known)
    _check_patients(spec, listing.groups[rows], dataset)
    _check_copies(spec, listing, rows, dataset)
    shared = tuple(label for label in dataset.labels if label in _shown(relabelled[rows], dataset.labels))
    _check_enough(spec, labels, shared, dataset)
    groups = unite_groups(listing.groups, find_copies(bank))
    nobody = np.array([], int)
    served = Dataset(
        spec=replace(spec, channels=own.channels),
        listing=replace(listing, labels=relabelled),
        labels=dataset.labels,
        parts=Parts(nobody, nobody, rows, groups, ()),
        fingerprint=fingerprint_of(listing, bank),
        split_hash=dataset.split_hash,  # that of the split against which it was checked
        unreadable={str(listing.ids[index]): why for index, why in bank.errors.items()},
    )
    return ExternalSet(spec.name, served, shared, external.caveat, _facts(spec, listing))


def _checked(external: External, spec: DatasetSpec, labels: tuple[str, ...], dataset: Dataset) -> dict[str, str]:
    """Return class there -> class here; every name is one that there is."""
    classes = dict(external.classes) or matched(spec, labels, dataset.labels)
    for there, here in classes.items():
        for name, known, of in ((there, spec.labels or labels, spec.name), (here, dataset.labels, dataset.spec.name)):
            if name not in known:
                raise UnknownName(
                    f"The classes of the external test set {spec.name} are mapped by {there}={here}, but {of} has no "
                    f"class {name!r}. It has: {', '.join(known)}. Correct the mapping."
                )
    return classes


def _check_enough(spec: DatasetSpec, labels: tuple[str, ...], shared: tuple[str, ...], dataset: Dataset) -> None:
    least = 1 if dataset.spec.task == "multilabel" else 2
    if len(shared) >= least:
        return
    what = f"only the class {shared[0]!r}" if shared else "no class"
    raise BadRequest(
        f"{spec.name} shares {what} with {dataset.spec.name}; an external test set needs {least} or more. It has "
        f"{', '.join(labels)}; {dataset.spec.name} has {', '.join(dataset.labels)}. Name its classes alike, or say "
        "which are the same: --external-classes THERE=HERE,..."
    )


def _relabelled(
    listing: Listing, labels: tuple[str, ...], classes: Mapping[str, str], own: tuple[str, ...]
) -> np.ndarray:
    """Return the labels as indices of the data set's own classes; what is not mapped is without a label."""
    place = [own.index(classes[label]) if label in classes else UNLABELLED for label in labels]
    if listing.labels.ndim == 1:
        return np.array([*place, UNLABELLED])[listing.labels]  # an unlabelled image takes the last, which is -1
    found = np.full((len(listing), len(own)), np.nan)
    for column, target in enumerate(place):
        if target != UNLABELLED:  # of several findings that mean one, any that is shown counts
            found[:, target] = np.fmax(found[:, target], listing.labels[:, column])
    return found


def _shown(labels: np.ndarray, names: tuple[str, ...]) -> set[str]:
    """Return the classes that are there, or the findings with both positive and negative images."""
    if labels.ndim == 1:
        return {names[index] for index in np.unique(labels)}
    both = (labels > 0.5).any(axis=0) & (labels <= 0.5).any(axis=0)
    return {names[index] for index in np.flatnonzero(both)}


def _check_patients(spec: DatasetSpec, groups: np.ndarray, dataset: Dataset) -> None:
    """Raise LeakFound where tables of one's own name the same patients; registered sets number theirs independently."""
    tables = all(one.path is not None and one.group_key != "image" for one in (spec, dataset.spec))
    if not tables:
        return
    shared = np.intersect1d(groups, dataset.listing.groups[_used(dataset)])
    if len(shared):
        raise LeakFound(
            f"{len(shared)} patients of {spec.name} are in {dataset.spec.name} too: "
            f"{', '.join(map(str, shared[:_SHOWN]))}. Take them out of the external table; if they are other people "
            "with the same number, give them other numbers."
        )


def _check_copies(spec: DatasetSpec, listing: Listing, rows: np.ndarray, dataset: Dataset) -> None:
    """Raise LeakFound where an image is a copy of one that trains, validates or tests."""
    copies = find_copies(scan(spec)[1], scan(dataset.spec)[1])
    crossing = np.isin(copies.first, rows) & np.isin(copies.second, _used(dataset))
    if not crossing.any():
        return
    which = np.unique(copies.first[crossing])
    parts = {"training": dataset.parts.train, "validation": dataset.parts.validation, "test": dataset.parts.test}
    counts = [
        f"{count} of {part} images"
        for part, members in parts.items()
        if (count := len(np.unique(copies.first[crossing & np.isin(copies.second, members)])))
    ]
    raise LeakFound(
        f"{len(which)} images of {spec.name} are copies of images of {dataset.spec.name} ({', '.join(counts)}): "
        f"{', '.join(listing.ids[which[:_SHOWN]].tolist())}. Take them out of the external test set."
    )


def _used(dataset: Dataset) -> np.ndarray:
    """Return the images that train, validate or test."""
    return np.concatenate([dataset.parts.train, dataset.parts.validation, dataset.parts.test])


def _facts(spec: DatasetSpec, listing: Listing) -> dict[str, np.ndarray]:
    """Return the view of each image and what a radiologist read, `yes` or `no`, where the publisher's table says."""
    if spec.people is None:
        return {}
    people, found = read_people(spec, listing.ids), {}
    if len(people.view):
        found[VIEW] = people.view
    if len(people.reader):
        found[READER] = np.where(np.isnan(people.reader), "", np.where(people.reader == 1, "yes", "no"))
    return found
