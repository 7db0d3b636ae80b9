"""Errors for the user. Their text says what was expected, what came and what to do; pages show it unchanged."""


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
