"""Memory allocation of a process that trains."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt


def keep_freed_memory() -> None:
    """Let the C library reuse freed memory instead of returning it to the system.

    Each training step allocates and frees the same large blocks. Mapping and clearing them anew takes a third of the
    time of fine-tuning on a CPU. Other C libraries than glibc have no `mallopt` and are left as they are.
    """
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)
