"""`campaign`: run the protocol's run matrix, unit by unit.

A unit is a list of commands that together take at most two hours. The plan is `docs/protocol/campaign.toml`; a finished
unit is a line of `docs/protocol/campaign.jsonl`. An interrupted unit continues where it stopped, as its commands do.
"""

import argparse
import json
import shlex
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from core.errors import BadRequest
from core.files import locked, write_atomically
from core.paths import PROJECT, code_hash, describe_device, library_versions, pick_device
from core.runs import PROTOCOL
from trainer.commands import parser_of
from trainer.flags import minutes
from trainer.progress import print_status
from trainer.reporting.markdown import table

PLAN = PROJECT / "docs" / "protocol" / "campaign.toml"
LONGEST = 120  # minutes of a unit
NEGATIVE = 1  # exit code of a command with a negative result


@dataclass(frozen=True)
class Unit:
    """Part of the campaign that is run and committed as a whole.

    Attributes:
        name: short name.
        minutes: expected time on one CPU core, while another unit runs on the second.
        commands: command lines, without `python -m trainer`.
    """

    name: str
    minutes: float
    commands: tuple[str, ...]


def read_plan(path: Path) -> list[Unit]:
    """Read and check a plan.

    Raises:
        BadRequest: if the file cannot be read, if a unit has no commands, if a name occurs twice, or if a unit takes
            longer than two hours.
    """
    try:
        rows = tomllib.loads(path.read_text())["unit"]
        units = [Unit(row["name"], float(row["minutes"]), tuple(row["commands"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRequest(
            f"{path} is not a plan ({type(error).__name__}: {error}). Expected tables [[unit]] with name, minutes and "
            "commands."
        ) from None
    names = [unit.name for unit in units]
    for unit in units:
        if names.count(unit.name) > 1:
            raise BadRequest(f"{path.name}: two units are called {unit.name}. Rename one.")
        if not unit.commands:
            raise BadRequest(f"{path.name}: the unit {unit.name} has no commands. Add some, or remove it.")
        if unit.minutes > LONGEST:
            raise BadRequest(f"{path.name}: {unit.name} takes {unit.minutes:g} minutes. Split it: {LONGEST} at most.")
    return units


def parsed_commands(unit: Unit) -> list[argparse.Namespace]:
    """Parse the command lines of a unit."""
    parsed = []
    for line in unit.commands:
        command, *flags = shlex.split(line)
        parsed.append(parser_of(command).parse_args(flags, argparse.Namespace(command=command)))
    return parsed


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--unit", default=None, help="run this unit (default: all that the log lacks, in order)")
    parser.add_argument("--list", action="store_true", help="show the units and run none")
    parser.add_argument("--minutes", type=minutes, default=None, help="start no unit that would end later than this")
    parser.add_argument("--plan", type=Path, default=PLAN, help="(default: docs/protocol/campaign.toml)")


def run(arguments: argparse.Namespace) -> int:
    """List or run units; the exit code is that of the first command that fails: 1, a negative result, is no failure.

    Raises:
        BadRequest: if the plan has no such unit.
    """
    units, log = read_plan(arguments.plan), arguments.plan.with_suffix(".jsonl")
    finished = _finished(log)
    if arguments.list:
        print(_overview(units, finished))
        return 0
    chosen = [unit for unit in units if unit.name == arguments.unit or not (arguments.unit or unit.name in finished)]
    if not chosen and arguments.unit:
        raise BadRequest(f"{arguments.plan.name} has no unit {arguments.unit}. See python -m trainer campaign --list.")
    commands = {unit.name: parsed_commands(unit) for unit in chosen}  # all are parsed before the first one runs
    began = time.monotonic()
    for unit in chosen:
        if arguments.minutes and time.monotonic() - began + 60 * unit.minutes > 60 * arguments.minutes:
            print_status(
                f"{unit.name} would end after {arguments.minutes:g} minutes. Run the same command again to continue."
            )
            break
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(log.with_name(unit.name), timeout=0))
            except Timeout:
                print_status(f"unit {unit.name} is skipped: another process runs it")
                continue
            if not arguments.unit and unit.name in _finished(log):  # by another process, meanwhile
                continue
            if code := _run(unit, commands[unit.name], log):
                return code
    return 0


def _run(unit: Unit, commands: Sequence[argparse.Namespace], log: Path) -> int:
    """Run the commands of a unit and log it; the exit code is that of the first command that fails."""
    print_status(f"unit {unit.name}, about {unit.minutes:g} minutes")
    start, version = time.monotonic(), code_hash()  # before the code on disk can change
    for line, parsed in zip(unit.commands, commands, strict=True):
        print_status(line)
        if (code := parsed.execute(parsed)) > NEGATIVE:
            return int(code)
    devices = {describe_device(pick_device(getattr(parsed, "device", "auto"))) for parsed in commands}
    row = {
        "unit": unit.name, "protocol": PROTOCOL, "minutes": round((time.monotonic() - start) / 60, 1),
        "device": ", ".join(sorted(devices)), "versions": library_versions(), "code": version,
    }  # fmt: skip
    with locked(log):  # units may run side by side
        rows = [*_rows_of(log), row]
        write_atomically(log, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return 0


def _finished(log: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of the units that were finished under the current protocol."""
    return {row["unit"]: row for row in _rows_of(log) if row["protocol"] == PROTOCOL}


def _rows_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _overview(units: Sequence[Unit], finished: Mapping[str, Mapping[str, Any]]) -> str:
    """Return Markdown: the units with their expected and measured minutes."""
    cells = [
        [unit.name, f"{unit.minutes:g}", f"{finished[unit.name]['minutes']:g}" if unit.name in finished else "",
         "; ".join(unit.commands)]
        for unit in units
    ]  # fmt: skip
    left = sum(unit.minutes for unit in units if unit.name not in finished)
    return table(["unit", "expected minutes", "measured minutes", "commands"], cells) + (
        f"\n\n{len(units)} units, {left / 60:.1f} hours left.\n"
    )
