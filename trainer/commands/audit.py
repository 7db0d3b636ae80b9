"""`audit`: find copies of images between the parts of a data set, or between two data sets."""

import argparse
import json
from dataclasses import asdict

from core.data.dataset import scan
from core.data.duplicates import find_copies
from core.data.overlap import copies_by_source
from core.data.specs import find_dataset
from trainer.flags import add_folder, requested_dataset
from trainer.progress import print_status, progress_bar
from trainer.reporting.run_lines import print_row


def _sources(arguments: argparse.Namespace) -> int:
    """Print the copies of images of every other set of the modality, by class; return 1 if there are any."""
    spec = requested_dataset(arguments)
    sources = copies_by_source(spec, progress_bar)
    if not sources:
        print_status(f"No other data set of modality {spec.modality!r} is on this machine.")
    for row in sources:
        classes = ", ".join(f"{label} {count:,}" for label, count in row.by_class.items() if count)
        parts = ", ".join(f"{part} {count:,}" for part, count in row.by_part.items())
        text = f"{row.other:22} {row.images:,} of {row.of:,} images are copies" + (f": {classes}" if classes else "")
        text += f"\n{'':22} parts of the other set: {parts}" if parts else ""
        print_row(asdict(row), text, arguments.json)
    return 1 if any(row.images for row in sources) else 0


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("dataset", nargs="?", help="a data set's name")
    add_folder(subject)
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--against", metavar="DATASET", help="another data set")
    other.add_argument("--sources", action="store_true", help="copies of every other set of its modality, by class")
    parser.add_argument("--json", action="store_true", help="print one JSON object per pair")


def run(arguments: argparse.Namespace) -> int:
    """Print the copies; return 1 if there are any between parts, or between the two sets."""
    if arguments.sources:
        return _sources(arguments)
    spec = requested_dataset(arguments)
    with progress_bar(f"{spec.name}: reading") as show:
        listing, bank = scan(spec, show)
    if arguments.against:
        with progress_bar(f"{arguments.against}: reading") as show:
            other, other_bank = scan(find_dataset(arguments.against), show)
    else:
        other, other_bank = listing, None
    with progress_bar("comparing") as show:
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
    print_status(f"{len(copies)} pairs of copies, {crossing} of them {between}.")
    return 1 if crossing else 0
