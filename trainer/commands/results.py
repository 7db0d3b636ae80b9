"""`results`: list the stored runs of a data set, give the verdicts of the protocol, or fill a document."""

import argparse
import json
from pathlib import Path

from core.analysis.contest import planned, verdicts
from core.runs import open_store
from core.runs.series import by_series
from trainer.progress import print_status
from trainer.reporting.document_tables import every_verdict, write_tables
from trainer.reporting.run_lines import print_runs


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--dataset", default="kermany")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--verdicts", action="store_true", help="print every contrast of docs/protocol.md with its verdict instead"
    )
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="fill the result tables of a Markdown file")


def run(arguments: argparse.Namespace) -> int:
    """Print the runs or the verdicts, or fill the tables."""
    store = open_store()
    for name, why in store.problems.items():
        print_status(f"left out: {name}: {why}")
    if arguments.write:
        changed = write_tables(arguments.write, store)
        print_status(f"{arguments.write}: {'tables updated' if changed else 'tables were up to date'}")
    elif arguments.verdicts and arguments.json:
        differences = verdicts(store)
        for contrast in planned():
            row = differences[contrast].record() if contrast in differences else {"verdict": "not run"}
            print(json.dumps(contrast._asdict() | row))
    elif arguments.verdicts:
        print(every_verdict(store), end="")
    else:
        metas = [meta for group in by_series(store.metas(arguments.dataset)).values() for meta in group]
        print_runs(metas, arguments.json)
    return 0
