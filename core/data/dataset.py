"""A data set ready for use: listed, scanned once, audited for copies, and split."""

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
from core.data.volumes import as_slice_images
from core.files import sha256_of

if TYPE_CHECKING:
    from core.data.external_sets import ExternalSet


@dataclass(frozen=True)
class Dataset:
    """A data set on this machine.

    Attributes:
        spec: facts about the data set.
        listing: its images.
        labels: names of the classes.
        parts: its split.
        fingerprint: SHA-256 over ids, labels and file contents; equal on every machine with equal data.
        split_hash: SHA-256 over the fingerprint and the ids of each part.
        unreadable: id -> why the image could not be read; such images are in no part.
        leaks_allowed: whether images that cross the split, or that an encoder has seen, are kept and counted.
        external: test sets of other patients, on which its runs are also evaluated.
        refused: name of an external set that is not used -> its title and the reason.
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
        """Validation images for the search of settings; no run trains or is evaluated on them."""
        return self._halves[0]

    @cached_property
    def calibration(self) -> np.ndarray:
        """The other half of the validation images, used only to calibrate conformal prediction sets."""
        return self._halves[1]

    @cached_property
    def _halves(self) -> tuple[np.ndarray, np.ndarray]:
        return halve(self.parts.validation, self.listing.ids, self.listing.labels, self.parts.groups)

    def bank(self, size: int, progress: Progress | None = None, preparation: Preparation = PLAIN) -> Bank:
        """Return all images at one size, in the order of the listing."""
        return open_bank(self.listing, size, self.spec.channels, progress, preparation)

    def subset(self, size: int | None, seed: int) -> Subset:
        """Return `size` training images per class (None: all), nested within a seed."""
        return nested_subset(self.listing.ids, self.listing.labels, self.parts.train, self.labels, size, seed)


def scan(spec: DatasetSpec, progress: Progress | None = None) -> tuple[Listing, Bank]:
    """List a data set and read every file once, into the bank of small gray images that the audit compares."""
    listing = list_images(spec)
    return listing, open_bank(as_slice_images(listing), SCAN_SIZE, 1, progress)


def fingerprint_of(listing: Listing, bank: Bank) -> str:
    """Return the SHA-256 over names, labels and contents of all images, sorted by name."""
    return sha256_of(
        f"{name}|{np.asarray(label).tolist()}|{content}"
        for name, label, content in sorted(
            zip(listing.ids.tolist(), listing.labels.tolist(), bank.content, strict=True), key=lambda row: row[0]
        )
    )


def load_dataset(spec: DatasetSpec, progress: Progress | None = None, allow_leaks: bool = False) -> Dataset:
    """List, scan, audit and split a data set.

    Args:
        spec: its row of the registry.
        progress: called with (images done, total images) while files are read for the first time.
        allow_leaks: keep, and count, images whose copy or patient is in another part of the split.
    Raises:
        DataUnavailable: if the data set is not on this machine.
        LeakFound: if a group is in two parts of the split.
    """
    listing, bank = scan(spec, progress)
    copies = find_copies(bank)
    parts = split(listing.labels, listing.groups, listing.parts, bank.readable, copies, allow_leaks, spec.test_share)
    fingerprint = fingerprint_of(listing, bank)
    membership = [fingerprint]
    for name, indices in parts.by_name.items():
        membership += [name, *sorted(listing.ids[indices].tolist())]
    labels = labels_of(spec, listing)
    listing, parts = _hide_rare_findings(listing, parts, labels, spec.min_positives)
    unreadable = {str(listing.ids[index]): why for index, why in bank.errors.items()}
    return Dataset(spec, listing, labels, parts, fingerprint, sha256_of(membership), unreadable, allow_leaks)


def _hide_rare_findings(listing: Listing, parts: Parts, labels: tuple[str, ...], least: int) -> tuple[Listing, Parts]:
    """Hide the test labels of findings with fewer than `least` positive test images, and note which.

    These findings are trained like the others. A metric from a handful of positive images would describe these images
    rather than the classifier.
    """
    if listing.labels.ndim == 1 or not least:
        return listing, parts
    positives = (listing.labels[parts.test] > 0.5).sum(axis=0)
    rare = np.flatnonzero(positives < least)
    if not len(rare):
        return listing, parts
    truth = listing.labels.copy()
    truth[np.ix_(parts.test, rare)] = np.nan
    listed = ", ".join(f"{labels[k]} ({positives[k]})" for k in rare)
    note = f"Trained but not evaluated (fewer than {least} positive test images): {listed}."
    return replace(listing, labels=truth), replace(parts, notes=(*parts.notes, note))
