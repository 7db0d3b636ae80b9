"""`python -m benchmarks`, called by `make bench`: measure Lowshot against what a user would pick instead.

Measurements are stored after each, in `benchmarks/results.json`. A pair that was measured on this machine with these
versions of libraries is not measured again, even if Lowshot's own code has changed; an interrupted one continues.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks import (
    decoding,
    encoder_engine,
    growth,
    learning_curve,
    page_times,
    prediction,
    start_up,
    training_speed,
    visitors,
)
from benchmarks.document import HEAD, cells, write_document
from benchmarks.harness import (
    BUSY,
    RESULTS,
    Pair,
    Record,
    busy_share,
    describe_machine,
    measure,
    read_results,
    recorded_code,
    recorded_versions,
    write_results,
)
from core.errors import BadRequest, LowshotError
from trainer.reporting.markdown import table

PAIRS = {
    module.PAIR.name: module.PAIR
    for module in (learning_curve, training_speed, prediction, encoder_engine, decoding, start_up, growth)
}
MODULES = {"fastai": "fastai", "grad-cam": "pytorch_grad_cam"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and store; returns 0, 2 for an invalid request, or 130 for an interruption."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Lowshot against its peers")
    parser.add_argument("--only", default="", metavar="PAIR,...", help=f"of {', '.join(PAIRS)} (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="measure the smallest sizes once, to test the pairs; store nothing"
    )
    parser.add_argument("--again", action="store_true", help="measure again what is stored")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="(default: %(default)s)")
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="put the stored figures into a document instead")
    parsed = parser.parse_args(arguments)
    try:
        results = read_results(parsed.results)
        if parsed.write:
            for path in (visitors.path_beside(parsed.results), page_times.path_beside(parsed.results)):
                results |= read_results(path)
            changed = write_document(parsed.write, list(PAIRS.values()), results)
            print(f"{parsed.write}: {'updated' if changed else 'was up to date'}", file=sys.stderr)
            return 0
        run(chosen_pairs(parsed.only), {} if parsed.quick else results, parsed)
    except LowshotError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("\nInterrupted. Measurements are kept; the same command continues from here.", file=sys.stderr)
        return 130
    return 0


def chosen_pairs(only: str) -> list[Pair]:
    """Return the pairs that `--only` names.

    Raises:
        BadRequest: if there is no such pair, or a package that one needs is missing.
    """
    names = [name for name in only.split(",") if name] or list(PAIRS)
    if unknown := [name for name in names if name not in PAIRS]:
        raise BadRequest(f"There is no pair {', '.join(unknown)}; the pairs are {', '.join(PAIRS)}.")
    missing = {package for package, module in MODULES.items() if not find_spec(module)}
    if lacking := sorted(missing & {need for name in names for need in PAIRS[name].needs}):
        complete = ",".join(name for name, pair in PAIRS.items() if not missing.intersection(pair.needs))
        raise BadRequest(
            f"{' and '.join(lacking)} cannot be imported here. Run make bench, which installs requirements-bench.txt "
            f"in an environment of its own, or measure only pairs that need no other package: --only {complete}."
        )
    return [PAIRS[name] for name in names]


def run(pairs: Sequence[Pair], results: dict[str, Record], parsed: argparse.Namespace) -> None:
    """Measure what is missing, pair by pair, and print a JSON line for each row and then a table of all."""
    here = describe_machine(), recorded_versions()
    waiting = []
    for pair in pairs:
        stored = results.get(pair.name)
        if parsed.again or not stored or (stored.machine, stored.versions) != here:
            results[pair.name] = Record(*here, 1 if parsed.quick else pair.turns, code=recorded_code())
        if not results[pair.name].is_complete:
            waiting.append(pair)
    if waiting and not parsed.quick:
        listed = ", ".join(f"{pair.name} {pair.minutes:g}" for pair in waiting)
        total = sum(pair.minutes for pair in waiting)
        print(f"This takes about {total:g} min on two idle cores: {listed}. Machine: {here[0]}", file=sys.stderr)
        if (busy := busy_share()) > BUSY:
            print(f"Other programs use {busy:.0%} of the processors: the figures will be wrong.", file=sys.stderr)

    def save() -> None:
        if not parsed.quick:
            write_results(parsed.results, results)

    lines = []
    for pair in pairs:
        if pair in waiting:
            measure(pair, parsed.quick, results[pair.name], save)
        for row in pair.rows(results[pair.name].measured):
            print(row.json_line, flush=True)
            lines.append([*cells(row)[: 5 if parsed.quick else 6], row.note])
    print(table([*HEAD[: 5 if parsed.quick else 6], "note"], lines))


if __name__ == "__main__":
    sys.exit(main())
