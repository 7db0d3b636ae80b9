"""How a command ends when it cannot go on: an exit code and a sentence that says what to do."""

from __future__ import annotations

import errno

from core.errors import LowshotError
from core.jobs.events import FULL

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
