"""Limit on the scans of a JPEG: decoding a progressive JPEG takes a pass over all pixels for each scan."""

from core.errors import UnreadableImage
from core.paths import LIMITS

_SCAN = b"\xff\xda"  # cannot occur in compressed pixels, where 0xFF is followed by 0


def check_scans(content: bytes, pieces: int = 1) -> None:
    """Refuse a JPEG with so many scans that decoding it would take minutes; a camera's JPEG has about ten.

    Args:
        content: the bytes of the file.
        pieces: number of JPEGs in the file, such as the strips or tiles of a TIFF.
    Raises:
        UnreadableImage: if the file has more than `LIMITS.scans` scans per piece.
    """
    if (scans := content.count(_SCAN)) > LIMITS.scans * pieces:
        raise UnreadableImage(
            f"The JPEG has {scans} scans; at most {LIMITS.scans * pieces} are read. Save it as a baseline JPEG or PNG."
        )
