"""Damaged and hostile files: each is an image or an error message, never a crash, a hang or a great deal of memory.

The plain suite tries a few hundred; `LOWSHOT_FUZZ=20000 python -m pytest tests/unit/data/test_fuzz.py -n 0` tries as
many as it says. `LOWSHOT_FUZZ_SEED` generates others.
"""

import io
import os
import resource
import signal
import struct
import sys
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, RLELossless

from core.data.images import decode, encode_png
from core.data.uploads import unpack
from core.errors import UnreadableImage
from tests.unit.data.test_dicom import dicom

COUNT, SEED = int(os.environ.get("LOWSHOT_FUZZ", "400")), int(os.environ.get("LOWSHOT_FUZZ_SEED", "0"))
SECONDS, MEMORY = 5, 2**30
GRAY = np.random.default_rng(0).integers(0, 256, (40, 48), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(40) * 3, np.arange(48) * 2).astype(np.uint8)
TELLING = (0, 1, 2, 4, 8, 16, 32, 64, 127, 128, 254, 255)


def saved(format, pixels=SMOOTH, **more):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **more)
    return buffer.getvalue()


def packed():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.png", "folder/b.png"):
            archive.writestr(name, encode_png(SMOOTH))
        archive.writestr("c.dcm", dicom(SMOOTH.astype(np.uint16)))
    return buffer.getvalue()


def jpeg_dicom():
    """A JPEG inside a DICOM file."""
    return dicom(SMOOTH, syntax=JPEGBaseline8Bit, PixelData=encapsulate([saved("JPEG")]))


def rle_dicom():
    """Runs of equal bytes inside a DICOM file, packed by pydicom."""
    file = dcmread(io.BytesIO(dicom(SMOOTH.astype(np.uint16))))
    file.compress(RLELossless)
    buffer = io.BytesIO()
    file.save_as(buffer)
    return buffer.getvalue()


def deep_dicom(depth=200, element=(0x0028, 0x3000), closed=True):
    """Sequences inside one another, of undefined length, in one element before the pixels."""
    plain = dicom(SMOOTH.astype(np.uint16))
    start = plain.index(struct.pack("<HH", 0x7FE0, 0x0010) + b"OW")
    opened = struct.pack("<HH2sHL", *element, b"SQ", 0, 2**32 - 1) + struct.pack("<HHL", 0xFFFE, 0xE000, 2**32 - 1)
    ends = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return plain[:start] + opened * depth + (ends * depth if closed else b"") + plain[start:]


SEEDS = {
    "png": encode_png(SMOOTH),
    "interlaced color png": saved("PNG", np.stack([SMOOTH] * 3, -1), optimize=True),
    "wide png": saved("PNG", SMOOTH.astype(np.uint16) * 200),
    "jpeg": saved("JPEG"),
    "progressive jpeg": saved("JPEG", np.stack([GRAY] * 3, -1), progressive=True),
    "tiff": saved("TIFF"),
    "lzw tiff": saved("TIFF", compression="tiff_lzw"),
    "deflated tiff": saved("TIFF", np.stack([SMOOTH] * 3, -1), compression="tiff_deflate"),
    "jpeg tiff": saved("TIFF", compression="jpeg"),
    "bmp": saved("BMP"),
    "dicom": dicom(SMOOTH.astype(np.uint16), WindowCenter=100, WindowWidth=50, RescaleSlope="2", RescaleIntercept="-3"),
    "color dicom": dicom(np.stack([SMOOTH] * 3, -1), photometric="RGB"),
    "jpeg dicom": jpeg_dicom(),
    "rle dicom": rle_dicom(),
    "deep dicom": deep_dicom(),
    "zip": packed(),
}


def mutated(content, random):
    """A few bytes changed, a part cut out, doubled, moved or filled, or numbers made huge; sometimes several of it."""
    data = bytearray(content)
    for _ in range(random.integers(1, 4)):
        if not data:
            break
        kind, at = random.integers(0, 8), int(random.integers(0, len(data)))
        to = min(len(data), at + int(random.integers(1, 65)))
        if kind <= 2:
            for place in random.integers(0, len(data), random.integers(1, 12)):
                data[place] = random.choice(TELLING) if random.random() < 0.5 else random.integers(0, 256)
        elif kind == 3:  # headers hold what hurts most
            data[int(random.integers(0, min(len(data), 400)))] = random.integers(0, 256)
        elif kind == 4:
            del data[at:to]
        elif kind == 5:
            data[at:at] = data[at:to] * int(random.integers(1, 20))
        elif kind == 6:
            data[at:to] = bytes([int(random.choice(TELLING))]) * (to - at)
        else:
            del data[at:]
    return bytes(data)


def attempt(content):
    """What the page does with an upload."""
    found, _ = unpack([("file", content)])
    for upload in found:
        if upload.problem:
            continue
        try:
            image = decode(upload.content)
        except UnreadableImage:
            continue
        assert image.mode in ("L", "RGB")


class Hang(BaseException):
    """Raised by the clock; no handler for errors catches it."""


def _hang(*_):
    raise Hang(f"more than {SECONDS} s")


def peak():
    """Bytes of memory held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("name", SEEDS)
def test_every_mutation_is_an_image_or_a_sentence(name):
    random = np.random.default_rng([SEED, sum(map(ord, name))])
    attempt(SEEDS[name])
    before = peak()
    old = signal.signal(signal.SIGPROF, _hang)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what decoders say of damaged files
            for number in range(max(1, COUNT // len(SEEDS))):
                content = mutated(SEEDS[name], random)
                signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of this process, however busy the machine is
                try:
                    attempt(content)
                except (Exception, Hang) as error:
                    pytest.fail(f"{name}, mutation {number} of seed {SEED}: {type(error).__name__}: {error}")
                finally:
                    signal.setitimer(signal.ITIMER_PROF, 0)
    finally:
        signal.signal(signal.SIGPROF, old)
    assert peak() - before < MEMORY


@pytest.mark.parametrize("name", [name for name in SEEDS if name not in ("deep dicom", "zip")])
def test_what_is_mutated_can_be_read_before(name):
    assert decode(SEEDS[name]).size == (48, 40)


def test_the_zip_that_is_mutated_can_be_read_before():
    assert [decode(upload.content).size for upload in unpack([("all.zip", SEEDS["zip"])])[0]] == [(48, 40)] * 3


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("element", [(0x0028, 0x3000), (0x0008, 0x1140)])  # one that is read, one that is not
def test_sequences_many_thousands_deep_are_an_image_or_a_sentence(element, closed):
    before = peak()
    attempt(deep_dicom(50_000, element, closed))
    assert peak() - before < MEMORY


def test_false_sizes_are_refused_before_memory_is_allocated():
    before = peak()
    for rows, columns, words in ((65535, 65535, "million"), (7000, 7000, "damaged"), (0, 40, "no image")):
        with pytest.raises(UnreadableImage, match=words):
            decode(dicom(SMOOTH.astype(np.uint16), Rows=rows, Columns=columns))
    with pytest.raises(UnreadableImage, match="2000000000 frames"):
        decode(dicom(SMOOTH.astype(np.uint16), NumberOfFrames="2000000000"))
    with pytest.raises(UnreadableImage):
        decode(dicom(SMOOTH, syntax=JPEGBaseline8Bit, PixelData=encapsulate([b"\xff\xd8" + bytes(100)])))
    assert peak() - before < MEMORY / 4
