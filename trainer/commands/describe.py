"""`describe`: summarize a network: stages, parameters, multiply-adds and drawing."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from core.files import write_atomically
from core.models import MODELS
from core.models.summary import alt_text, architecture, diagram, format_count, format_shape
from trainer.progress import print_status


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("model")
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the drawing to a file")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Print the summary, and write the drawing if requested."""
    spec = MODELS[arguments.model]
    facts = architecture(spec, arguments.classes)
    if arguments.svg:
        write_atomically(arguments.svg, diagram(facts).encode())
        print_status(f"{arguments.svg}: {alt_text(facts)}")
    if arguments.json:
        print(json.dumps({"model": spec.name, **asdict(facts)}))
        return 0
    print(f"{spec.name}: {spec.title}. {spec.summary}")
    print(alt_text(facts))
    rows = [("stage", "shape", "parameters", "multiply-adds", "layers")]
    rows += [
        (stage.name, format_shape(stage.shape), f"{stage.parameters:,}", format_count(stage.macs), stage.layers)
        for stage in facts.stages
    ]
    rows.append(("total", "", f"{facts.parameters:,}", format_count(facts.macs), ""))
    rows.append(("trained with a frozen encoder", "", f"{facts.head_parameters:,}", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for name, shape, parameters, macs, layers in rows:
        line = f"{name:{widths[0]}}  {shape:{widths[1]}}  {parameters:>{widths[2]}}  {macs:>{widths[3]}}  {layers}"
        print(line.rstrip())
    return 0
