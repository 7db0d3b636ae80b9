"""What an upload may be, in one place. Everything larger is refused before it is decoded, with a sentence."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of uploads.

    Attributes:
        file_bytes: of one image file or archive; Streamlit's own limit must be the same (`.streamlit/config.toml`).
        pixels: width times height of one image.
        side: least width and height.
        frames: of one file.
        scans: of one JPEG.
        images: answered at once, loose or from archives.
        entries: of one archive, folders and other files included.
        directory_bytes: of an archive's table of contents, read before anything else.
        unpacked_bytes: of all members of one archive together.
        held_unpacked_bytes: of all members of archives that one visit holds at once, beside the archives themselves.
        total_bytes: of all images that are looked at in one visit; loose ones are held by the server as they came.
        ratio: of a member's bytes unpacked to packed.
    """

    file_bytes: int = 64 * MIB
    pixels: int = 64_000_000
    side: int = 16
    frames: int = 1
    scans: int = 64
    images: int = 50
    entries: int = 200
    directory_bytes: int = 256 * 1024
    unpacked_bytes: int = 128 * MIB
    held_unpacked_bytes: int = 128 * MIB
    total_bytes: int = 512 * MIB
    ratio: int = 200


LIMITS = Limits()
