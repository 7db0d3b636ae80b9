"""What a person uploads: files and zip archives, taken apart in memory. Nothing is written, and no name is a path.

A file is what its content says, whatever its name. Of an archive only stored and deflated members are read, one by one,
after its table of contents was found small; archives in archives are refused.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

from core.data.dicom import is_dicom
from core.data.images import KINDS
from core.errors import UnreadableImage
from core.files import sha256_of
from core.paths import LIMITS, MIB, Limits

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_ARCHIVES = (*_ZIP, b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf\x27\x1c", b"BZh", b"\xfd7zXZ\x00")
_END, _END_SIGN, _ZIP64_SIGN = struct.Struct("<4s4H2LH"), b"PK\x05\x06", b"PK\x06\x07"
_LONGEST_COMMENT = 2**16
_ENCRYPTED = 0x1
_LEFT_OUT = ("__MACOSX/", ".DS_Store", "Thumbs.db", "DICOMDIR")
_MARKUP = (b"<svg", b"<html", b"<!doctype", b"<?xml", b"<script")
_LOOKED_AT = 512
_CHUNK = MIB


@dataclass(frozen=True)
class Upload:
    """One image file as it came, or why it was not read.

    Attributes:
        name: to show to the person who uploaded it and to nobody else; of an archive's member behind the archive's.
        content: its bytes; empty where there is a problem.
        problem: a sentence, or "".
    """

    name: str
    content: bytes = b""
    problem: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of it, made once: the same file has the same."""
        return sha256_of([self.content, self.problem])


def take_apart(files: Iterable[tuple[str, bytes]], limits: Limits = LIMITS) -> tuple[list[Upload], int]:
    """Uploaded files as images, archives taken apart.

    Args:
        files: names and contents.
        limits: what they may be.
    Returns:
        at most `limits.images` images, and how many more files were left unread: once a limit is met nothing is
        unpacked just to be counted, and an archive that was not opened is one file.
    """
    found: list[Upload] = []
    more = held = unpacked = 0
    full = False
    for name, content in files:
        if full:
            more += 1
            continue
        is_archive = content.startswith(_ZIP)
        for read in _images_in(name, content, limits):
            if not full:
                upload = read()
                size = len(upload.content)
                held, unpacked = held + size, unpacked + size * is_archive
                full = held > limits.total_bytes or unpacked > limits.held_unpacked_bytes
            if full:
                more += 1
            else:
                found.append(upload)
                full = len(found) == limits.images
    return found, more


def _images_in(name: str, content: bytes, limits: Limits) -> Iterator[Callable[[], Upload]]:
    """What reads each image of a file when it is called."""
    if not content.startswith(_ZIP):
        yield lambda: Upload(name, content, problem=problem_of(content, limits))
        return
    try:
        yield from _members(name, content, limits)
    except UnreadableImage as error:
        refused = Upload(name, problem=str(error))
        yield lambda: refused


def problem_of(content: bytes, limits: Limits = LIMITS) -> str:
    """Why a file is refused at once, in a sentence; "" where its decoder is to judge."""
    if len(content) > limits.file_bytes:
        return f"The file has more than {limits.file_bytes // MIB} MB. Make it smaller."
    if is_dicom(content):  # its preamble may look like anything
        return ""
    head = content[:_LOOKED_AT].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(_MARKUP):
        return f"SVG, HTML and XML are never opened: they can hold programs. Save the picture as one of {KINDS}."
    if content.startswith(_ARCHIVES):
        return "This kind of archive is not opened. Pack the images as a plain zip, or give them one by one."
    return ""


def _members(name: str, content: bytes, limits: Limits) -> Iterator[Callable[[], Upload]]:
    """What reads the images of an archive one by one.

    Raises:
        UnreadableImage: if the archive as a whole is refused.
    """
    if len(content) > limits.file_bytes:
        raise UnreadableImage(f"The archive has more than {limits.file_bytes // MIB} MB. Give fewer images at once.")
    _check_directory(content, limits)
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error):
        raise UnreadableImage("The archive is damaged or cut short. Pack it again.") from None
    entries = archive.infolist()
    if len(entries) > limits.entries:
        raise UnreadableImage(
            f"The archive has {len(entries)} entries; at most {limits.entries} are read. Give fewer images at once."
        )
    wanted = [one for one in entries if not one.filename.endswith("/") and not _is_left_out(one.filename)]
    if sum(one.file_size for one in wanted) > limits.unpacked_bytes:
        raise UnreadableImage(
            f"Unpacked, the archive has more than {limits.unpacked_bytes // MIB} MB. Give fewer images at once."
        )
    if not wanted:
        raise UnreadableImage("The archive holds no file.")
    for one in wanted:
        yield partial(_member, name, archive, one, limits)


def _member(name: str, archive: zipfile.ZipFile, one: zipfile.ZipInfo, limits: Limits) -> Upload:
    shown = f"{name} / {one.filename.rpartition('/')[2]}"
    try:
        member = _read(archive, one, limits)
    except UnreadableImage as error:
        return Upload(shown, problem=str(error))
    problem = "An archive inside an archive is not opened." if member.startswith(_ZIP) else problem_of(member)
    return Upload(shown, b"" if problem else member, problem)


def _is_left_out(filename: str) -> bool:
    """Whether an entry is what operating systems and DICOM viewers put beside images."""
    return filename.startswith(_LEFT_OUT[0]) or filename.rpartition("/")[2] in _LEFT_OUT


def _check_directory(content: bytes, limits: Limits) -> None:
    """Looks at the end of an archive, where the size of its table of contents is, before that table is read."""
    start = content.rfind(_END_SIGN, max(0, len(content) - _END.size - _LONGEST_COMMENT))
    if start < 0 or start + _END.size > len(content):
        raise UnreadableImage("The archive is damaged or cut short. Pack it again.")
    _, _, _, _, entries, directory_bytes, _, _ = _END.unpack_from(content, start)
    if entries == 2**16 - 1 or content[max(0, start - 20) : start].startswith(_ZIP64_SIGN):
        raise UnreadableImage("Archives in the zip64 form, for huge contents, are not read. Give fewer images at once.")
    if entries > limits.entries or directory_bytes > limits.directory_bytes:
        raise UnreadableImage(
            f"The archive has {entries} entries; at most {limits.entries} are read. Give fewer images at once."
        )


def _read(archive: zipfile.ZipFile, one: zipfile.ZipInfo, limits: Limits) -> bytes:
    if one.flag_bits & _ENCRYPTED:
        raise UnreadableImage("It is locked with a password. Pack it without one.")
    if one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnreadableImage("It is packed in a way that is not read. Pack it as a plain zip.")
    if one.file_size > limits.file_bytes:
        raise UnreadableImage(f"Unpacked, it has more than {limits.file_bytes // MIB} MB. Make it smaller.")
    if one.file_size > limits.ratio * max(1, one.compress_size):
        raise UnreadableImage(f"It would unpack to more than {limits.ratio} times its size, as no real image does.")
    try:
        with archive.open(one) as member:  # in pieces: where the stated size is a lie, no more than one is unpacked
            return b"".join(iter(lambda: member.read(_CHUNK), b""))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, NotImplementedError):
        raise UnreadableImage("It is damaged inside the archive. Pack it again.") from None
