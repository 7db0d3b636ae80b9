"""The command line: finds the command, runs it, and turns errors into sentences and exit codes."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from core.errors import LowshotError
from core.jobs.events import FULL
from trainer.commands import COMMANDS, parser_of

PROGRAM = "python -m trainer"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line: `command` is its name, `execute` the function to call with the result."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    meanings = "\n".join(f"  {name:12} {meaning}" for name, meaning in COMMANDS.items())
    top = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Lowshot: what can few labels buy?",
        epilog=f"commands:\n{meanings}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="its flags: COMMAND --help")
    command = top.parse_args(given[:1]).command
    return parser_of(command).parse_args(given[1:], argparse.Namespace(command=command))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        the exit code: 0 done, 1 the command's own 'no', 2 a request that cannot be met, 74 a full disk, 130
        interrupted.
    """
    parsed = parse(arguments)
    from trainer.progress import write_event

    code, why = 1, ""
    try:
        code = parsed.execute(parsed)
    except BrokenPipeError:  # who read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except BaseException as error:
        known = ending(error)
        if known is None:
            raise
        code, why = known
        try:
            print(f"\n{why}" if code == INTERRUPTED else f"lowshot: {why}", file=sys.stderr, flush=True)
        except OSError:  # a log on the full disk itself; the code says enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    finally:
        write_event("end", code=code, why=why)
    return code


INTERRUPTED = 130
REFUSED = 2
_GO_ON = "Finished runs are kept; the same command goes on from here."
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def ending(error: BaseException) -> tuple[int, str] | None:
    """Exit code and sentence for an error that a person can do something about; None for any other."""
    if isinstance(error, LowshotError):
        return REFUSED, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, f"Interrupted. {_GO_ON}"
    if isinstance(error, OSError) and error.errno in _FULL:
        return FULL, f"The disk is full ({error.strerror}). Free some space. {_GO_ON}"
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return REFUSED, (
            "Memory ran out. Close other programs, or choose a smaller model, a smaller --batch-size or fewer images. "
            f"{_GO_ON}"
        )
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    """PyTorch's own errors: one class for a GPU, a plain RuntimeError for the CPU's allocator."""
    import torch

    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)
    )
