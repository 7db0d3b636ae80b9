"""The commands on models as such: where weights are, fetching and converting them, and what a network looks like."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from core.errors import BadRequest
from core.files import sha256_unless_changed, write_atomically
from core.models import MODELS
from core.models.download import fetch, weights_named
from core.models.specs import ModelSpec, by_family
from core.models.summary import Architecture, alt_text, architecture, as_text, diagram, short
from core.models.weights import state_of
from core.models.xrv import PUBLISHED_SHA256, convert
from core.paths import weights_folders
from trainer.progress import say


def weights_list(arguments: argparse.Namespace) -> int:
    """`weights list`."""
    for spec in by_family():
        state, path = state_of(spec.weights)
        row = {
            "model": spec.name, "weights": spec.weights.ref, "state": state, "file": str(path) if path else "",
            "sha256": sha256_unless_changed(path) if path else spec.weights.sha256,
            "licence": spec.weights.licence, "source": spec.weights.source,
        }  # fmt: skip
        if arguments.json:
            print(json.dumps(row), flush=True)
        else:
            about = "; ".join(filter(None, [spec.weights.ref, spec.weights.licence]))
            print(f"{spec.name:44} {state:17} {about}")
    return 0


def weights_get(arguments: argparse.Namespace) -> int:
    """`weights get`."""
    weights = weights_named(arguments.name)
    path = fetch(weights, arguments.to or weights_folders()[0])
    print(f"{path}  SHA-256 {sha256_unless_changed(path)}")
    say(f"{weights.ref}: {weights.licence}; {weights.source}")
    return 0


def weights_convert(arguments: argparse.Namespace) -> int:
    """`weights convert-xrv`."""
    if not arguments.file.is_file():
        raise BadRequest(f"There is no file {arguments.file}.")
    path = convert(arguments.file, arguments.to or weights_folders()[0], arguments.sha256 or PUBLISHED_SHA256)
    print(f"{path}  SHA-256 {sha256_unless_changed(path)}")
    return 0


def describe(arguments: argparse.Namespace) -> int:
    """`describe`."""
    spec = MODELS[arguments.model]
    facts = architecture(spec, arguments.classes)
    if arguments.svg:
        write_atomically(arguments.svg, diagram(facts).encode())
        say(f"{arguments.svg}: {alt_text(facts)}")
    if arguments.json:
        print(json.dumps({"model": spec.name, **asdict(facts)}))
    else:
        print_architecture(spec, facts)
    return 0


def print_architecture(spec: ModelSpec, facts: Architecture) -> None:
    """The table of stages and the sums, for people."""
    print(f"{spec.name}: {spec.title}. {spec.summary}")
    print(alt_text(facts))
    rows = [("stage", "shape", "parameters", "multiply-adds", "layers")]
    rows += [(one.name, as_text(one.shape), f"{one.parameters:,}", short(one.macs), one.layers) for one in facts.stages]
    rows.append(("in all", "", f"{facts.parameters:,}", short(facts.macs), ""))
    rows.append(("trained where the encoder is frozen", "", f"{facts.trainable(True):,}", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for name, shape, parameters, macs, layers in rows:
        line = f"{name:{widths[0]}}  {shape:{widths[1]}}  {parameters:>{widths[2]}}  {macs:>{widths[3]}}  {layers}"
        print(line.rstrip())
