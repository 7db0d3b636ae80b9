"""Errors for the user. Their text says what was expected, what came and what to do; pages show it unchanged."""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ACCESS = (errno.EROFS, errno.EACCES, errno.EPERM)


class LowshotError(Exception):
    """Base of all errors whose text is meant for the user."""


class UnknownName(LowshotError):
    """A name that is in no registry."""


class BadRequest(LowshotError):
    """Invalid settings, or settings that exclude each other."""


class DataUnavailable(LowshotError):
    """A data set that is not on this machine, or whose files are not laid out as published."""


class WeightsUnavailable(LowshotError):
    """Pretrained weights that are not available; they are never replaced by random weights."""


class UnreadableImage(LowshotError):
    """A file that is not a supported image, is damaged, or is too large or too small."""


class CorruptRun(LowshotError):
    """A stored run whose files are missing, modified or incomplete."""


class LeakFound(LowshotError):
    """The same image or patient in two parts of a split."""


def disk_problem(error: BaseException) -> str:
    """Return what is wrong with the disk and what to do, in sentences; "" if the error has another cause."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return f"The disk is full ({error.strerror}). Free some space."
    if isinstance(error, OSError) and error.errno in _NO_ACCESS:
        return (
            f"{error.filename}: {error.strerror}. Let the user who runs Lowshot write there, or choose another folder: "
            "LOWSHOT_RUNS for runs, LOWSHOT_CACHE for the cache."
        )
    return ""
