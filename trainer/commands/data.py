"""`data`: list the data sets with their state on this machine, and download them."""

import argparse
from pathlib import Path
from typing import Any

from core.data import DATASETS
from core.data.overview import class_counts, part_counts
from core.data.specs import DatasetSpec, find_dataset, find_folder, how_to_get, is_present, labels_of, list_images
from core.errors import LowshotError
from core.paths import data_roots
from trainer.progress import print_status
from trainer.reporting.run_lines import print_row


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and their flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|get")
    listed = actions.add_parser("list", help="list data sets: whether they are installed, counts and licenses")
    listed.set_defaults(execute=data_list)
    listed.add_argument("--json", action="store_true", help="print one JSON object per data set")
    get = actions.add_parser("get", help="download a data set from its publisher")
    get.set_defaults(execute=data_get)
    get.add_argument("name", help="a data set's name; see python -m trainer data list")
    get.add_argument("--to", type=Path, default=None, help="target folder (default: the first data root)")


def data_list(arguments: argparse.Namespace) -> int:
    """Print a line for each data set."""
    for row in [facts_of(spec) for spec in DATASETS.values()]:
        counts = ", ".join(f"{part} {count:,}" for part, count in row["counts"].items())
        state = f"{row['images']:,} images ({counts})" if row["present"] else "not on this machine"
        missing = f"\n{'':22} {row['missing']}" if row["missing"] else ""
        print_row(row, f"{row['name']:22} {row['task']:10} {state}; {row['licence']}{missing}", arguments.json)
    return 0


def facts_of(spec: DatasetSpec) -> dict[str, Any]:
    """Return what is known about a data set on this machine, without decoding an image."""
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
        labels = labels_of(spec, listing)
        facts |= {
            "images": len(listing),
            "counts": part_counts(listing.parts),
            "classes": class_counts(listing.labels, labels),
        }
        if absent := [label for label in spec.labels if label not in labels]:
            facts["missing"] = f"no images of {', '.join(absent)}"
    return facts


def data_get(arguments: argparse.Namespace) -> int:
    """Download a data set unless it is installed."""
    from core.data.download import download_dataset

    spec = find_dataset(arguments.name)
    if (folder := find_folder(spec)) and not arguments.to:
        print_status(f"{spec.title} is already installed: {folder}")
        return 0
    folder = download_dataset(spec, (arguments.to or data_roots()[0]).expanduser().resolve())
    print_status(f"{spec.title} is now in {folder}")
    return 0
