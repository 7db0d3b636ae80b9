"""The commands on data sets as such: what is on this machine, fetching what is not, and copies among them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

import numpy as np

from core.data import DATASETS
from core.data.dataset import scan
from core.data.datasets.custom import own_images
from core.data.duplicates import find_copies
from core.data.overlap import copies_by_source
from core.data.overview import class_counts
from core.data.specs import DatasetSpec, find_dataset, find_folder, how_to_get, is_present, labels_of, list_images
from core.errors import LowshotError
from core.paths import data_roots
from trainer.progress import bar, say


def data_list(arguments: argparse.Namespace) -> int:
    """`data list`."""
    for row in [facts_of(spec) for spec in DATASETS.values()]:
        if arguments.json:
            print(json.dumps(row), flush=True)
            continue
        counts = ", ".join(f"{part} {count:,}" for part, count in row["counts"].items())
        state = f"{row['images']:,} images ({counts})" if row["present"] else "not on this machine"
        print(f"{row['name']:22} {row['task']:10} {state}; {row['licence']}")
        if row["missing"]:
            print(f"{'':22} {row['missing']}")
    return 0


def asked_for(arguments: argparse.Namespace) -> DatasetSpec:
    """The row that `--dataset` or `--folder` names."""
    return own_images(arguments.folder) if arguments.folder else find_dataset(arguments.dataset)


def _sources(arguments: argparse.Namespace) -> int:
    """`audit --sources`: copies of every other set of the same kind of image, by class; 1 if there are any."""
    spec = asked_for(arguments)
    found = copies_by_source(spec, bar)
    if not found:
        say(f"No other set of the kind {spec.modality!r} is on this machine.")
    for row in found:
        if arguments.json:
            print(json.dumps(asdict(row)))
            continue
        classes = ", ".join(f"{label} {count:,}" for label, count in row.by_class.items() if count)
        parts = ", ".join(f"{part} {count:,}" for part, count in row.by_part.items())
        print(f"{row.other:22} {row.images:,} of {row.of:,} images are copies" + (f": {classes}" if classes else ""))
        if parts:
            print(f"{'':22} of these images there: {parts}")
    return 1 if any(row.images for row in found) else 0


def facts_of(spec: DatasetSpec) -> dict[str, Any]:
    """What is known of a data set on this machine, without decoding an image."""
    facts: dict[str, Any] = {
        "name": spec.name, "title": spec.title, "task": spec.task, "labels": list(spec.labels),
        "licence": spec.licence, "present": is_present(spec), "images": 0, "counts": {}, "classes": {},
        "missing": "" if is_present(spec) else how_to_get(spec),
    }  # fmt: skip
    if facts["present"]:
        try:
            listing = list_images(spec)
        except LowshotError as error:
            return {**facts, "present": False, "missing": str(error)}
        parts, counts = np.unique(listing.parts, return_counts=True)
        labels = labels_of(spec, listing)
        facts |= {
            "images": len(listing),
            "counts": {part or "not split": int(n) for part, n in zip(parts.tolist(), counts, strict=True)},
            "classes": class_counts(listing.labels, labels),
        }
        if absent := [label for label in spec.labels if label not in labels]:
            facts["missing"] = f"no images of {', '.join(absent)}"
    return facts


def data_get(arguments: argparse.Namespace) -> int:
    """`data get`."""
    from core.data.download import fetch

    spec = find_dataset(arguments.name)
    if (folder := find_folder(spec)) and not arguments.to:
        say(f"{spec.title} is here already: {folder}")
        return 0
    folder = fetch(spec, (arguments.to or data_roots()[0]).expanduser().resolve())
    say(f"{spec.title} is now in {folder}")
    return 0


def audit(arguments: argparse.Namespace) -> int:
    """`audit`: 1 when copies cross between parts, or between the sets."""
    if arguments.sources:
        return _sources(arguments)
    spec = asked_for(arguments)
    with bar(f"{spec.name}: reading") as show:
        listing, bank = scan(spec, show)
    if arguments.against:
        with bar(f"{arguments.against}: reading") as show:
            other, other_bank = scan(find_dataset(arguments.against), show)
    else:
        other, other_bank = listing, None
    with bar("comparing") as show:
        copies = find_copies(bank, other_bank, show)
    crossing = 0
    for i, j, similarity in zip(copies.first, copies.second, copies.similarity, strict=True):
        crosses = bool(arguments.against) or listing.parts[i] != listing.parts[j]
        crossing += crosses
        row = {
            "first": f"{spec.name}/{listing.ids[i]}",
            "second": f"{arguments.against or spec.name}/{other.ids[j]}",
            "similarity": round(float(similarity), 4),
            "crosses": crosses,
        }
        if arguments.json:
            print(json.dumps(row))
        elif crosses:
            print(f"{row['first']}  =  {row['second']}  ({row['similarity']:.3f})")
    between = f"between {spec.name} and {arguments.against}" if arguments.against else "between parts"
    say(f"{len(copies)} pairs of copies, {crossing} of them {between}.")
    return 1 if crossing else 0
