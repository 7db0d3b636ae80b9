"""The command line: finds the command, runs it, and turns errors into sentences and exit codes."""

import argparse
import os
import sys
from collections.abc import Sequence

from core.errors import DISK_FULL, LowshotError, disk_problem
from core.files import remove_unfinished
from core.jobs.events import EXIT_DISK_FULL
from core.paths import written_folders
from trainer.commands import COMMANDS, parser_of

PROGRAM = "python -m trainer"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line: `command` is its name, `execute` the function to call with the result."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    meanings = "\n".join(f"  {name:12} {meaning}" for name, meaning in COMMANDS.items())
    top = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Lowshot: model families compared on few labeled images",
        epilog=f"commands:\n{meanings}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="COMMAND --help lists its flags")
    command = top.parse_args(argv[:1]).command
    return parser_of(command).parse_args(argv[1:], argparse.Namespace(command=command))


def main(arguments: Sequence[str] | None = None) -> int:
    """Remove what killed processes left half-written, then run a command.

    Returns:
        the exit code: 0 for success, 1 for a negative result of the command, 2 for an invalid request, 74 for a full
        disk, 130 for an interruption.
    """
    parsed = parse(arguments)
    from trainer.progress import write_event

    code, why = 1, ""
    remove_unfinished(written_folders())
    try:
        code = parsed.execute(parsed)
    except BrokenPipeError:  # the reader closed the output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except BaseException as error:
        expected = explain(error)
        if expected is None:
            raise
        code, why = expected
        try:
            print(f"\n{why}" if code == INTERRUPTED else f"lowshot: {why}", file=sys.stderr, flush=True)
        except OSError:  # the log is on the full disk, so only the exit code can tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    finally:
        write_event("end", code=code, why=why)
    return code


INTERRUPTED = 130
REFUSED = 2
_RESUME = "Finished runs are kept; the same command continues from here."


def explain(error: BaseException) -> tuple[int, str] | None:
    """Return exit code and message of an error that a user can fix; None for any other error."""
    if isinstance(error, LowshotError):
        return REFUSED, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, f"Interrupted. {_RESUME}"
    if isinstance(error, OSError) and (problem := disk_problem(error)):
        return EXIT_DISK_FULL if error.errno in DISK_FULL else REFUSED, f"{problem} {_RESUME}"
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return REFUSED, (
            "Memory ran out. Close other programs, or choose a smaller model, a smaller --batch-size or fewer images. "
            f"{_RESUME}"
        )
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether PyTorch ran out of memory; its CPU allocator raises a plain RuntimeError."""
    import torch

    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)
    )
