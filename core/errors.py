"""Errors a person can act on. Their text says what was expected, what came, and what to do; pages show it as it is."""


class LowshotError(Exception):
    """Base of all errors whose text is meant for the user."""


class UnknownName(LowshotError):
    """A name that no registry row has."""


class BadRequest(LowshotError):
    """Settings that cannot work together."""


class DataUnavailable(LowshotError):
    """A data set that is not on this machine, or whose files are not laid out as its publisher ships them."""


class WeightsUnavailable(LowshotError):
    """Pretrained weights that cannot be had here. Never answered with random weights."""


class UnreadableImage(LowshotError):
    """A file that is not an image Lowshot reads, or that is damaged or too large."""


class CorruptRun(LowshotError):
    """A stored run whose files are missing, changed or half written."""


class LeakFound(LowshotError):
    """The same image or patient on both sides of a split."""
