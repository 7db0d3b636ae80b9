import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from core.data.images import decode, encode_png, to_array
from core.errors import UnreadableImage

GREY = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)


def as_bytes(image, format="PNG", **more):
    buffer = io.BytesIO()
    image.save(buffer, format, **more)
    return buffer.getvalue()


def big_header():
    """A PNG that says it has 20,000 x 20,000 pixels; all zeros compress to little."""
    return as_bytes(Image.new("1", (20000, 20000)))


def animated(format):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    return as_bytes(frames[0], format, save_all=True, append_images=frames[1:])


def with_exif(block):
    """A PNG whose eXIf chunk holds any bytes."""
    chunk = b"eXIf" + b"Exif\0\0" + block
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    plain = encode_png(GREY)
    return plain[:33] + chunk + plain[33:]


HOSTILE = {
    "empty": (b"", "empty"),
    "text": (b"Patient: none. This is not an image.", "not a PNG"),
    "truncated jpeg": (as_bytes(Image.fromarray(GREY), "JPEG")[:400], "damaged|not a PNG"),
    "truncated png": (encode_png(GREY)[:200], "damaged"),
    "bomb": (big_header(), "64 million"),
    "animated gif": (animated("GIF"), "not a PNG"),
    "animated png": (animated("PNG"), "2 frames"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG"),
    "lying exif": (with_exif(b"QQQQ\0\0\0\0"), "damaged"),
    "short exif": (with_exif(b"II*\0"), "damaged"),
    "tiny": (encode_png(GREY[:4, :4]), "at least 16"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_a_sentence(name):
    content, words = HOSTILE[name]
    with pytest.raises(UnreadableImage, match=words):
        decode(content)


def test_every_mutation_is_an_image_or_a_sentence():
    random = np.random.default_rng(0)
    for original in (encode_png(GREY), as_bytes(Image.fromarray(GREY), "JPEG")):
        for _ in range(300):
            content = bytearray(original)
            for position in random.integers(0, len(content), 8):
                content[position] = random.integers(0, 256)
            with contextlib.suppress(UnreadableImage):
                assert decode(bytes(content)).mode in ("L", "RGB")


def test_sixteen_bit_grey_uses_its_whole_range():
    wide = (GREY.astype(np.uint16) + 1000) * 7
    pixels = np.asarray(decode(as_bytes(Image.fromarray(wide))))
    assert pixels.dtype == np.uint8
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert np.corrcoef(pixels.ravel(), GREY.ravel())[0, 1] > 0.999


def test_cmyk_alpha_palette_and_one_bit_become_plain():
    colour = Image.fromarray(np.stack([GREY] * 3, axis=-1))
    assert decode(as_bytes(colour.convert("CMYK"), "JPEG")).mode == "RGB"
    clear = Image.new("RGBA", (40, 40), (255, 255, 255, 0))
    assert np.asarray(decode(as_bytes(clear))).max() == 0  # transparent white lies over black
    assert decode(as_bytes(Image.new("LA", (40, 40), (200, 255)))).mode == "L"
    assert decode(as_bytes(colour.convert("P"))).mode == "RGB"
    assert decode(as_bytes(Image.new("1", (40, 40)))).mode == "L"


def test_exif_orientation_is_applied():
    image = Image.fromarray(GREY)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = decode(as_bytes(image, "JPEG", exif=exif, quality=95))
    assert turned.size == (image.height, image.width)
    expected = np.rot90(GREY, -1).astype(float)
    assert np.corrcoef(np.asarray(turned).ravel(), expected.ravel())[0, 1] > 0.95


def test_to_array_shapes_and_upright_corner():
    image = Image.fromarray(GREY)
    assert to_array(image, (32, 24), 1).shape == (1, 24, 32)
    assert to_array(image, (32, 32), 3).shape == (3, 32, 32)
    same = to_array(Image.fromarray(GREY[:48, :48]), (48, 48), 1)
    assert np.array_equal(same[0], GREY[:48, :48])
