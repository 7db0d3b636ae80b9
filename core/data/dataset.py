"""A data set ready for use: listed, scanned once, audited, split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from core.data.duplicates import SIZE as SCAN_SIZE
from core.data.duplicates import find_copies
from core.data.image_cache import Bank, Progress, open_bank
from core.data.listing import Listing
from core.data.preprocessing import PLAIN, Preparation
from core.data.specs import DatasetSpec, labels_of, list_images
from core.data.splits import Parts, Subset, halve, nested_subset, split
from core.data.volumes import flattened
from core.files import sha256_of

if TYPE_CHECKING:
    from core.data.external_sets import ExternalSet


@dataclass(frozen=True)
class Dataset:
    """A data set on this machine.

    Attributes:
        spec: its facts.
        listing: its images.
        labels: names of the classes.
        parts: its split.
        fingerprint: SHA-256 over ids, labels and the files' contents; equal on every machine with equal data.
        split_hash: SHA-256 over the fingerprint and who is in which part.
        unreadable: id -> why the image could not be read; such images are in no part.
        leaks_allowed: whether images that cross between parts, or that an encoder has seen, are kept and counted.
        external: test sets of other patients, on which its runs are evaluated too.
        refused: name of another external set -> title and why nothing is evaluated there.
    """

    spec: DatasetSpec
    listing: Listing
    labels: tuple[str, ...]
    parts: Parts
    fingerprint: str
    split_hash: str
    unreadable: dict[str, str]
    leaks_allowed: bool = False
    external: tuple[ExternalSet, ...] = ()
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @cached_property
    def development(self) -> np.ndarray:
        """Validation images on which settings are searched; no run learns from them or is evaluated on them."""
        return self._halves[0]

    @cached_property
    def calibration(self) -> np.ndarray:
        """The other half of the validation images: they calibrate conformal sets and serve nothing else."""
        return self._halves[1]

    @cached_property
    def _halves(self) -> tuple[np.ndarray, np.ndarray]:
        return halve(self.parts.validation, self.listing.ids, self.listing.labels, self.parts.groups)

    def bank(self, size: int, progress: Progress | None = None, preparation: Preparation = PLAIN) -> Bank:
        """All images at one size, in the order of the listing."""
        return open_bank(self.listing, size, self.spec.channels, progress, preparation)

    def subset(self, size: int | None, seed: int) -> Subset:
        """`size` training images a class (None: all), nested within a seed."""
        return nested_subset(self.listing.ids, self.listing.labels, self.parts.train, self.labels, size, seed)


def scan(spec: DatasetSpec, progress: Progress | None = None) -> tuple[Listing, Bank]:
    """Lists a data set and reads every file once, into the small grey bank that the audit compares."""
    listing = list_images(spec)
    return listing, open_bank(flattened(listing), SCAN_SIZE, 1, progress)


def fingerprint_of(listing: Listing, bank: Bank) -> str:
    """Return the SHA-256 over names, labels and contents of all images, in the order of their names."""
    return sha256_of(
        f"{name}|{np.asarray(label).tolist()}|{content}"
        for name, label, content in sorted(
            zip(listing.ids.tolist(), listing.labels.tolist(), bank.content, strict=True), key=lambda row: row[0]
        )
    )


def load_dataset(spec: DatasetSpec, progress: Progress | None = None, allow_leaks: bool = False) -> Dataset:
    """Lists, scans, audits and splits a data set.

    Args:
        spec: its row.
        progress: called with (images done, images in all) while files are read for the first time.
        allow_leaks: keep images whose copy or patient is in another part where the publisher put them, and count them.
    Raises:
        DataUnavailable: if it is not on this machine.
        LeakFound: if a group is on both sides of the split.
    """
    listing, bank = scan(spec, progress)
    readable = np.ones(len(listing), bool)
    readable[list(bank.errors)] = False
    parts = split(
        listing.labels, listing.groups, listing.parts, readable, find_copies(bank), allow_leaks, spec.test_share
    )
    fingerprint = fingerprint_of(listing, bank)
    membership = [fingerprint]
    for name, indices in (("train", parts.train), ("validation", parts.validation), ("test", parts.test)):
        membership += [name, *sorted(listing.ids[indices].tolist())]
    labels = labels_of(spec, listing)
    listing, parts = _judgeable(listing, parts, labels, spec.least_positives)
    unreadable = {str(listing.ids[index]): why for index, why in bank.errors.items()}
    return Dataset(spec, listing, labels, parts, fingerprint, sha256_of(membership), unreadable, allow_leaks)


def _judgeable(listing: Listing, parts: Parts, labels: tuple[str, ...], least: int) -> tuple[Listing, Parts]:
    """Takes the truth of findings that too few test images show out of the test part, and says of which and how many.

    They are learnt like the others. Figures from a handful of positives would say more of these than of a classifier.
    """
    if listing.labels.ndim == 1 or not least:
        return listing, parts
    shown = (listing.labels[parts.test] > 0.5).sum(axis=0)
    few = np.flatnonzero(shown < least)
    if not len(few):
        return listing, parts
    truth = listing.labels.copy()
    truth[np.ix_(parts.test, few)] = np.nan
    named = ", ".join(f"{labels[k]} ({shown[k]})" for k in few)
    note = f"Learnt but not judged, as fewer than {least} test images show them: {named}."
    return replace(listing, labels=truth), replace(parts, notes=(*parts.notes, note))
