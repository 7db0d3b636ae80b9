"""`subgroups`: store ages and sexes of the test images with the runs, so that results by group need no data set."""

import argparse

from core.analysis.subgroups import characteristics, save_demographics
from core.data.dataset import load_dataset
from core.data.demographics import read_demographics
from core.data.specs import find_dataset
from core.errors import BadRequest
from core.paths import runs_folder
from core.runs import open_store
from trainer.progress import print_status, progress_bar


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--dataset", default="ham10000")


def run(arguments: argparse.Namespace) -> int:
    """Store the demographics of a data set's test images.

    Raises:
        BadRequest: if no run of the data set was evaluated on the installed test images.
        DataUnavailable: if the data set is not installed, or has neither ages nor sexes.
    """
    spec = find_dataset(arguments.dataset)
    metas = open_store().metas(spec.name)
    with progress_bar(f"{spec.name}: reading") as show:
        dataset = load_dataset(spec, show, allow_leaks=any(meta.leaks for meta in metas))
    if dataset.split_hash not in {meta.split_hash for meta in metas}:
        raise BadRequest(f"No stored run of {spec.name} was evaluated on the installed test images.")
    ids = dataset.listing.ids[dataset.parts.test]
    facts = {"dataset": spec.name, "split_hash": dataset.split_hash, "source": spec.citation, "licence": spec.licence}
    folder = runs_folder() / spec.name
    path = save_demographics(folder, ids, read_demographics(spec, ids), facts)
    print_status(f"{path}: {characteristics(folder)}")
    return 0
