"""How often a JPEG would be gone over: a progressive one is decoded scan by scan, each over all its pixels."""

from __future__ import annotations

from core.errors import UnreadableImage
from core.paths import LIMITS

_SCAN = b"\xff\xda"  # cannot stand within compressed pixels, where 0xFF is followed by 0


def check_scans(content: bytes, pieces: int = 1) -> None:
    """Refuses a JPEG of so many scans that decoding it would take minutes; those of cameras have ten or so.

    Args:
        content: the bytes that hold it.
        pieces: JPEGs that the picture is made of, as strips and tiles of a TIFF are.
    Raises:
        UnreadableImage: if it has more scans than `LIMITS.scans` a piece.
    """
    if (scans := content.count(_SCAN)) > LIMITS.scans * pieces:
        raise UnreadableImage(
            f"The JPEG has {scans} scans; at most {LIMITS.scans * pieces} are read. Save it anew, as a plain JPEG or "
            "PNG."
        )
