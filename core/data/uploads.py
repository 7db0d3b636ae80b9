"""Uploaded files and zip archives, unpacked in memory. Nothing is written to disk here, and no name is used as a path.

The content of a file decides its type, not its name. An archive is read only if its directory is small; its stored and
deflated members are read one by one, and archives within archives are refused.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

from PIL import Image

from core.data.dicom import is_dicom
from core.data.images import KINDS, decode
from core.errors import UnreadableImage
from core.files import sha256_of
from core.paths import LIMITS, MIB, Limits

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_ARCHIVES = (*_ZIP, b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf\x27\x1c", b"BZh", b"\xfd7zXZ\x00")
_END, _END_SIGN, _ZIP64_SIGN = struct.Struct("<4s4H2LH"), b"PK\x05\x06", b"PK\x06\x07"
_LONGEST_COMMENT = 2**16
_ENCRYPTED = 0x1
_SKIPPED = ("__MACOSX/", ".DS_Store", "Thumbs.db", "DICOMDIR")
_MARKUP = (b"<svg", b"<html", b"<!doctype", b"<?xml", b"<script")
_HEAD = 512
_CHUNK = MIB


@dataclass(frozen=True)
class Upload:
    """One uploaded image file, or the reason why it was not read.

    Attributes:
        name: file name, prefixed with the archive's name for a member; shown only to the person who uploaded it.
        content: its bytes; may be empty if there is a problem.
        problem: the reason as a sentence, or "".
    """

    name: str
    content: bytes = b""
    problem: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of content and problem, computed once; equal for equal files."""
        return sha256_of([self.content, self.problem])

    def decode(self) -> Image.Image:
        """Return the image as `core.data.images.decode` does.

        Raises:
            UnreadableImage: if the file cannot be read as an image.
        """
        if self.problem:
            raise UnreadableImage(self.problem)
        return decode(self.content)


def unpack(files: Iterable[tuple[str, bytes]], limits: Limits = LIMITS) -> tuple[list[Upload], int]:
    """Unpack uploaded files and archives into images.

    Args:
        files: names and contents.
        limits: limits on sizes and counts.
    Returns:
        at most `limits.images` images, and the number of files left unread. Once a limit is reached, nothing is
        unpacked merely to be counted, and an unopened archive counts as one file.
    """
    uploads: list[Upload] = []
    unread = held_bytes = unpacked_bytes = 0
    full = False
    for name, content in files:
        if full:
            unread += 1
            continue
        is_archive = content.startswith(_ZIP)
        for read in _images_in(name, content, limits):
            if not full:
                upload = read()
                size = len(upload.content)
                held_bytes, unpacked_bytes = held_bytes + size, unpacked_bytes + size * is_archive
                full = held_bytes > limits.total_bytes or unpacked_bytes > limits.held_unpacked_bytes
            if full:
                unread += 1
            else:
                uploads.append(upload)
                full = len(uploads) == limits.images
    return uploads, unread


def _images_in(name: str, content: bytes, limits: Limits) -> Iterator[Callable[[], Upload]]:
    """Yield a reader for each image of a file."""
    if not content.startswith(_ZIP):
        yield partial(Upload, name, content, problem_of(content, limits))
        return
    try:
        for _, read in members(name, content, limits):
            yield read
    except UnreadableImage as error:
        yield partial(Upload, name, problem=str(error))


def problem_of(content: bytes, limits: Limits = LIMITS) -> str:
    """Return why a file is refused before decoding, as a sentence; "" if the decoder decides."""
    if len(content) > limits.file_bytes:
        return f"The file exceeds {limits.file_bytes // MIB} MB. Reduce its size."
    if is_dicom(content):  # its preamble may hold any bytes
        return ""
    head = content[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(_MARKUP):
        return f"SVG, HTML and XML files are not opened, as they can contain programs. Save the image as {KINDS}."
    if content.startswith(_ARCHIVES):
        return "This archive format is not supported. Pack the images as a plain zip, or upload them one by one."
    return ""


def members(name: str, content: bytes, limits: Limits) -> Iterator[tuple[str, Callable[[], Upload]]]:
    """Yield the path of each file of an archive, as the archive states it, and its reader.

    Raises:
        UnreadableImage: if the whole archive is refused.
    """
    if len(content) > limits.file_bytes:
        raise UnreadableImage(f"The archive exceeds {limits.file_bytes // MIB} MB. Upload fewer images at once.")
    _check_directory(content, limits)
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error):
        raise UnreadableImage("The archive is damaged or incomplete. Pack it again.") from None
    entries = archive.infolist()
    if len(entries) > limits.entries:
        raise UnreadableImage(
            f"The archive has {len(entries)} entries; at most {limits.entries} are read. Upload fewer images at once."
        )
    files = [entry for entry in entries if not entry.filename.endswith("/") and not is_skipped(entry.filename)]
    if sum(entry.file_size for entry in files) > limits.unpacked_bytes:
        raise UnreadableImage(
            f"The unpacked archive exceeds {limits.unpacked_bytes // MIB} MB. Upload fewer images at once."
        )
    if not files:
        raise UnreadableImage("The archive contains no file.")
    for entry in files:
        yield entry.filename, partial(_member, name, archive, entry, limits)


def _member(name: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: Limits) -> Upload:
    display_name = f"{name} / {entry.filename.rpartition('/')[2]}"
    try:
        member = _read(archive, entry, limits)
    except UnreadableImage as error:
        return Upload(display_name, problem=str(error))
    problem = "An archive inside an archive is not opened." if member.startswith(_ZIP) else problem_of(member)
    return Upload(display_name, b"" if problem else member, problem)


def is_skipped(filename: str) -> bool:
    """Return whether a file is one of the extra files that operating systems and DICOM viewers add."""
    return filename.startswith(_SKIPPED[0]) or filename.rpartition("/")[2] in _SKIPPED


def _check_directory(content: bytes, limits: Limits) -> None:
    """Check the size of an archive's directory, stated at the end of the file, before the directory is read."""
    start = content.rfind(_END_SIGN, max(0, len(content) - _END.size - _LONGEST_COMMENT))
    if start < 0 or start + _END.size > len(content):
        raise UnreadableImage("The archive is damaged or incomplete. Pack it again.")
    _, _, _, _, entries, directory_bytes, _, _ = _END.unpack_from(content, start)
    if entries == 2**16 - 1 or content[max(0, start - 20) : start].startswith(_ZIP64_SIGN):
        raise UnreadableImage("Archives in the zip64 format are not supported. Upload fewer images at once.")
    if entries > limits.entries or directory_bytes > limits.directory_bytes:
        raise UnreadableImage(
            f"The archive has {entries} entries; at most {limits.entries} are read. Upload fewer images at once."
        )


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: Limits) -> bytes:
    if entry.flag_bits & _ENCRYPTED:
        raise UnreadableImage("The file is protected by a password. Pack it without one.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnreadableImage("The compression of the file is not supported. Pack it as a plain zip.")
    if entry.file_size > limits.file_bytes:
        raise UnreadableImage(f"The unpacked file exceeds {limits.file_bytes // MIB} MB. Reduce its size.")
    if entry.file_size > limits.ratio * max(1, entry.compress_size):
        raise UnreadableImage(
            f"The file would unpack to more than {limits.ratio} times its size, which no real image does."
        )
    try:
        with archive.open(entry) as member:  # in chunks, so that at most one is unpacked if the stated size is false
            return b"".join(iter(lambda: member.read(_CHUNK), b""))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, NotImplementedError):
        raise UnreadableImage("The file is damaged inside the archive. Pack it again.") from None
