"""`weights`: list, download and convert pretrained weights."""

import argparse
from pathlib import Path

from core.errors import BadRequest
from core.files import cached_sha256_of_file
from core.models.specs import by_family
from core.models.weight_downloads import download_weights, find_weights
from core.models.weights import state_of
from core.models.xrv import PUBLISHED_SHA256, convert
from core.paths import weights_folders
from trainer.progress import print_status
from trainer.reporting.run_lines import print_row


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and their flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|get|convert-xrv")
    listed = actions.add_parser("list", help="list weights: whether they are installed, sources and licenses")
    listed.set_defaults(execute=weights_list)
    listed.add_argument("--json", action="store_true", help="print one JSON object per model")
    get = actions.add_parser("get", help="download the weights of a model from their publisher")
    get.set_defaults(execute=weights_get)
    get.add_argument("name", help="a model's name, or the repository of its weights")
    get.add_argument("--to", type=Path, default=None, help="target folder (default: the first of LOWSHOT_WEIGHTS)")
    xrv = actions.add_parser("convert-xrv", help="convert TorchXRayVision's pickled DenseNet-121 to safetensors")
    xrv.set_defaults(execute=weights_convert)
    xrv.add_argument("file", type=Path, metavar="FILE", help="the .pt file as published")
    xrv.add_argument("--to", type=Path, default=None, help="target folder (default: the first of LOWSHOT_WEIGHTS)")
    xrv.add_argument("--sha256", default=None, help="expected hash (default: that of the published file)")


def weights_list(arguments: argparse.Namespace) -> int:
    """Print a line for each model."""
    for spec in by_family():
        state, path = state_of(spec.weights)
        row = {
            "model": spec.name, "weights": spec.weights.ref, "state": state, "file": str(path) if path else "",
            "sha256": cached_sha256_of_file(path) if path else spec.weights.sha256,
            "licence": spec.weights.licence, "source": spec.weights.source,
        }  # fmt: skip
        about = "; ".join(filter(None, [spec.weights.ref, spec.weights.licence]))
        print_row(row, f"{spec.name:44} {state:17} {about}", arguments.json)
    return 0


def weights_get(arguments: argparse.Namespace) -> int:
    """Download the weights of a model."""
    weights = find_weights(arguments.name)
    path = download_weights(weights, arguments.to or weights_folders()[0])
    print(f"{path}  SHA-256 {cached_sha256_of_file(path)}")
    print_status(f"{weights.ref}: {weights.licence}; {weights.source}")
    return 0


def weights_convert(arguments: argparse.Namespace) -> int:
    """Convert a published file."""
    if not arguments.file.is_file():
        raise BadRequest(f"There is no file {arguments.file}.")
    path = convert(arguments.file, arguments.to or weights_folders()[0], arguments.sha256 or PUBLISHED_SHA256)
    print(f"{path}  SHA-256 {cached_sha256_of_file(path)}")
    return 0
