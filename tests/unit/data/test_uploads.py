"""Uploads: archives in memory, zip bombs, and files that are not what their names say."""

import io
import struct
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.data.images import encode_png
from core.data.uploads import unpack
from core.paths import LIMITS, MIB

PNG = encode_png(np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8))
SMALL = replace(LIMITS, images=4, entries=8, file_bytes=MIB, unpacked_bytes=2 * MIB, total_bytes=3 * MIB)


def packed(members, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def problems(*files, limits=SMALL):
    return [upload.problem for upload in unpack(files, limits)[0]]


def test_files_and_members_come_in_order_with_what_cannot_be_read_named():
    archive = packed([("a/one.png", PNG), ("a/", b""), ("__MACOSX/a/._one.png", b"x"), ("a/.DS_Store", b"x"),
                      ("../../etc/two", PNG)])  # fmt: skip
    found, more = unpack([("first.png", PNG), ("all.zip", archive)], SMALL)
    assert [one.name for one in found] == ["first.png", "all.zip / one.png", "all.zip / two"]
    assert all(one.content == PNG and not one.problem for one in found)
    assert more == 0


def test_more_images_than_are_answered_at_once_are_counted():
    found, more = unpack([("1", PNG), ("all.zip", packed([(str(n), PNG) for n in range(6)]))], SMALL)
    assert (len(found), more) == (4, 3)
    heavy = np.random.default_rng(0).bytes(MIB - 1000)
    found, more = unpack([(str(n), heavy) for n in range(4)], SMALL)
    assert (len(found), more) == (3, 1)


def test_beyond_the_limits_nothing_is_unpacked(opened):
    archive = packed([(str(n), PNG) for n in range(6)])
    found, more = unpack([("a.zip", archive), ("b.zip", archive), ("c.png", PNG)], SMALL)
    assert (len(found), more) == (4, 2 + 1 + 1)
    assert opened == ["0", "1", "2", "3"]
    opened.clear()
    heavy = packed([(str(n), bytes([n]) + PNG[1:]) for n in range(4)])
    tight = replace(SMALL, total_bytes=2 * len(PNG) + 1)
    found, more = unpack([("a.zip", heavy), ("b.zip", heavy)], tight)
    assert (len(found), more) == (2, 2 + 1)
    assert opened == ["0", "1", "2"]


def test_what_is_unpacked_is_held_within_a_limit_of_its_own():
    archive = packed([(str(n), bytes([n]) + PNG[1:]) for n in range(4)])
    tight = replace(SMALL, held_unpacked_bytes=2 * len(PNG) + 1)
    found, more = unpack([("a.png", PNG), ("a.zip", archive), ("b.png", PNG)], tight)
    assert [len(one.content) for one in found] == [len(PNG)] * 3
    assert more == 2 + 1
    loose, more = unpack([(str(n), PNG) for n in range(4)], tight)
    assert (len(loose), more) == (4, 0)  # these are held as they came, whatever is done


def test_a_bomb_is_refused_before_it_is_unpacked():
    bomb = packed([("one.png", bytes(MIB))])
    assert "200 times its size" in problems(("bomb.zip", bomb))[0]
    many = packed([(str(n), bytes(MIB - 1)) for n in range(4)])
    assert "exceeds 2 MB" in problems(("bomb.zip", many))[0]
    assert "exceeds 1 MB" in problems(("large.zip", packed([("a", bytes(MIB + 1))])))[0]


def test_too_many_entries_are_refused_by_the_end_of_the_archive_alone(monkeypatch):
    archive = packed([(str(n), b"") for n in range(9)])
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert "9 entries" in problems(("many.zip", archive))[0]
    end = archive.rindex(b"PK\x05\x06")
    lying = bytearray(archive)
    struct.pack_into("<HH", lying, end + 8, 1, 1)  # says one entry, but its table is as long as before
    huge = replace(SMALL, directory_bytes=100)
    assert "at most 8 are read" in problems(("many.zip", bytes(lying)), limits=huge)[0]


def test_a_table_that_lies_about_the_number_of_entries_is_counted():
    archive = bytearray(packed([(str(n), b"") for n in range(9)]))
    struct.pack_into("<HH", archive, archive.rindex(b"PK\x05\x06") + 8, 1, 1)
    assert "9 entries" in problems(("many.zip", bytes(archive)))[0]


def test_a_member_that_exceeds_its_declared_size_is_damaged():
    archive = bytearray(packed([("one.png", np.random.default_rng(0).bytes(5000) + bytes(300_000))]))
    for sign, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<L", archive, archive.rindex(sign) + place, 6000)
    assert "damaged inside the archive" in problems(("lying.zip", bytes(archive)))[0]


def test_nested_archives_passwords_and_odd_packing_are_refused():
    nested = packed([("inner.zip", packed([("a.png", PNG)])), ("a.tar.gz", b"\x1f\x8b" + bytes(20)), ("b.png", PNG)])
    assert [bool(one) for one in problems(("nested.zip", nested))] == [True, True, False]
    assert "inside an archive" in problems(("nested.zip", nested))[0]
    locked = bytearray(packed([("a.png", PNG)]))
    for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.rindex(sign) + place] |= 1
    assert "password" in problems(("locked.zip", bytes(locked)))[0]
    assert "plain zip" in problems(("bz2.zip", packed([("a.png", PNG)], zipfile.ZIP_BZIP2)))[0]
    assert "plain zip" in problems(("lzma.zip", packed([("a.png", PNG)], zipfile.ZIP_LZMA)))[0]


def test_damaged_empty_and_huge_archives_get_a_sentence():
    whole = packed([("a.png", PNG)])
    assert "damaged" in problems(("cut.zip", whole[:-30]))[0]
    assert "no file" in problems(("empty.zip", packed([])))[0]
    zip64 = whole[: whole.rindex(b"PK\x05\x06")] + b"PK\x06\x07" + bytes(16) + whole[whole.rindex(b"PK\x05\x06") :]
    assert "zip64" in problems(("huge.zip", zip64))[0]
    assert "exceeds 1 MB" in problems(("big.zip", whole + bytes(MIB)))[0]
    assert "exceeds 1 MB" in problems(("big.png", PNG + bytes(MIB)))[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "contain programs"),
        (b"\xef\xbb\xbf\n <?xml version='1.0'?><svg/>", "contain programs"),
        (b"<!DOCTYPE html><html>", "contain programs"),
        (b"  <HTML><body>", "contain programs"),
        (b"\x1f\x8b" + bytes(10), "archive format"),
        (b"Rar!" + bytes(10), "archive format"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(10), "archive format"),
    ],
)
def test_markup_and_other_archives_are_named(content, words):
    assert words in problems(("innocent.png", content))[0]
    assert words in problems(("in.zip", packed([("innocent.png", content)])))[0]


def test_a_dicom_file_with_markup_in_its_preamble_is_left_to_its_decoder():
    content = b"<html>" + bytes(122) + b"DICM" + bytes(20)
    assert problems(("polyglot.dcm", content)) == [""]


def test_streamlit_takes_files_as_large_as_are_read():
    config = tomllib.loads((Path(__file__).parents[3] / ".streamlit/config.toml").read_text())
    assert config["server"]["maxUploadSize"] * MIB == LIMITS.file_bytes
