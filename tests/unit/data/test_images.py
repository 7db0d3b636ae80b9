"""Decoding of image files, and what is refused."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from core.data.images import decode, encode_png, to_array
from core.errors import UnreadableImage
from core.paths import LIMITS

GRAY = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)


def as_bytes(image, format="PNG", **more):
    buffer = io.BytesIO()
    image.save(buffer, format, **more)
    return buffer.getvalue()


def big_header():
    """A PNG that says it has 20,000 x 20,000 pixels; all zeros compress to little."""
    return as_bytes(Image.new("1", (20000, 20000)))


def animated(format):
    frames = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY)]
    return as_bytes(frames[0], format, save_all=True, append_images=frames[1:])


def with_exif(block):
    """A PNG whose eXIf chunk holds any bytes."""
    chunk = b"eXIf" + b"Exif\0\0" + block
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    plain = encode_png(GRAY)
    return plain[:33] + chunk + plain[33:]


HOSTILE = {
    "empty": (b"", "empty"),
    "text": (b"Patient: none. This is not an image.", "not a PNG"),
    "truncated jpeg": (as_bytes(Image.fromarray(GRAY), "JPEG")[:400], "damaged|not a PNG"),
    "truncated png": (encode_png(GRAY)[:200], "damaged"),
    "bomb": (big_header(), "64 million"),
    "animated gif": (animated("GIF"), "not a PNG"),
    "animated png": (animated("PNG"), "several frames"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG"),
    "lying exif": (with_exif(b"QQQQ\0\0\0\0"), "damaged"),
    "short exif": (with_exif(b"II*\0"), "damaged"),
    "tiny": (encode_png(GRAY[:4, :4]), "at least 16"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_a_sentence(name):
    content, words = HOSTILE[name]
    with pytest.raises(UnreadableImage, match=words):
        decode(content)


def with_scans(extra):
    """A progressive JPEG whose last scan is there so many times more, and how many it has without them."""
    whole = as_bytes(Image.fromarray(GRAY), "JPEG", progressive=True)
    last, end = whole.rindex(b"\xff\xda"), whole.rindex(b"\xff\xd9")
    return whole[:end] + whole[last:end] * extra + whole[end:], whole.count(b"\xff\xda")


def in_tiff(jpeg, strips=1):
    """A TIFF of gray strips, each of them the same JPEG."""
    offsets = struct.pack(f"<{strips}L", *[8] * strips)
    lengths = struct.pack(f"<{strips}L", *[len(jpeg)] * strips)
    at = 8 + len(jpeg) + len(jpeg) % 2
    of_offsets, of_lengths = (at, at + len(offsets)) if strips > 1 else (8, len(jpeg))
    rows = [(256, 64), (257, 48 * strips), (258, 8), (259, 7), (262, 1), (273, of_offsets), (277, 1), (278, 48),
            (279, of_lengths)]  # fmt: skip
    counts = {273: strips, 279: strips}
    table = b"".join(struct.pack("<HHLL", tag, 4, counts.get(tag, 1), value) for tag, value in rows)
    directory = struct.pack("<H", len(rows)) + table + bytes(4)
    body = jpeg + bytes(len(jpeg) % 2) + offsets + lengths
    return b"II*\0" + struct.pack("<L", 8 + len(body)) + body + directory


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(monkeypatch):
    most, first = with_scans(0)
    most = with_scans(LIMITS.scans - first)[0]
    assert decode(most).size == decode(in_tiff(most)).size == (64, 48)
    several = in_tiff(with_scans(0)[0], strips=20)  # more scans in all than one JPEG may have
    assert decode(several).size == (64, 960)
    more = with_scans(LIMITS.scans - first + 1)[0]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.load", None)
    for content in (more, in_tiff(more)):
        with pytest.raises(UnreadableImage, match="65 scans; at most 64"):
            decode(content)


def test_frames_of_a_tiff_are_not_counted(monkeypatch):
    pages = as_bytes(Image.fromarray(GRAY), "TIFF", save_all=True, append_images=[Image.fromarray(GRAY)] * 3)
    seen = []
    monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.n_frames", property(lambda _: seen.append("all") or 4))
    with pytest.raises(UnreadableImage, match="several frames"):
        decode(pages)
    assert seen == []


def test_every_mutation_is_an_image_or_a_sentence():
    random = np.random.default_rng(0)
    for original in (encode_png(GRAY), as_bytes(Image.fromarray(GRAY), "JPEG")):
        for _ in range(300):
            content = bytearray(original)
            for position in random.integers(0, len(content), 8):
                content[position] = random.integers(0, 256)
            with contextlib.suppress(UnreadableImage):
                assert decode(bytes(content)).mode in ("L", "RGB")


def test_sixteen_bit_gray_uses_its_whole_range():
    wide = (GRAY.astype(np.uint16) + 1000) * 7
    pixels = np.asarray(decode(as_bytes(Image.fromarray(wide))))
    assert pixels.dtype == np.uint8
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert np.corrcoef(pixels.ravel(), GRAY.ravel())[0, 1] > 0.999


def test_cmyk_alpha_palette_and_one_bit_become_plain():
    color = Image.fromarray(np.stack([GRAY] * 3, axis=-1))
    assert decode(as_bytes(color.convert("CMYK"), "JPEG")).mode == "RGB"
    clear = Image.new("RGBA", (40, 40), (255, 255, 255, 0))
    assert np.asarray(decode(as_bytes(clear))).max() == 0  # transparent white lies over black
    assert decode(as_bytes(Image.new("LA", (40, 40), (200, 255)))).mode == "L"
    assert decode(as_bytes(color.convert("P"))).mode == "RGB"
    assert decode(as_bytes(Image.new("1", (40, 40)))).mode == "L"


def test_exif_orientation_is_applied():
    image = Image.fromarray(GRAY)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = decode(as_bytes(image, "JPEG", exif=exif, quality=95))
    assert turned.size == (image.height, image.width)
    expected = np.rot90(GRAY, -1).astype(float)
    assert np.corrcoef(np.asarray(turned).ravel(), expected.ravel())[0, 1] > 0.95


def test_to_array_shapes_and_upright_corner():
    image = Image.fromarray(GRAY)
    assert to_array(image, (32, 24), 1).shape == (1, 24, 32)
    assert to_array(image, (32, 32), 3).shape == (3, 32, 32)
    same = to_array(Image.fromarray(GRAY[:48, :48]), (48, 48), 1)
    assert np.array_equal(same[0], GRAY[:48, :48])
