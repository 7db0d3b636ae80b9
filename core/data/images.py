"""From the bytes of an image file to pixels. Every file, uploaded or from a data set, goes through `decode`.

PNG, JPEG, TIFF, BMP and DICOM files are recognized by content and not by name. The size is checked before decoding.
"""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import COMPRESSION, STRIPOFFSETS, TILEOFFSETS, TiffImageFile

from core.data.dicom import decode_dicom, is_dicom
from core.data.jpeg import check_scans
from core.errors import UnreadableImage
from core.paths import LIMITS, MIB
from core.types import Interpolation

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
KINDS = "PNG, JPEG, TIFF, BMP or DICOM"
MAX_PIXELS, MAX_BYTES, MIN_SIDE = LIMITS.pixels, LIMITS.file_bytes, LIMITS.side
_TIFF_JPEG = (6, 7)  # old style and new
_WIDE_GRAY = ("I", "I;16", "I;16B", "I;16L", "F")


def decode(content: bytes) -> Image.Image:
    """Decode one still image; PNG, JPEG and TIFF are rotated upright according to their EXIF orientation.

    16-bit gray is stretched from its darkest to its brightest pixel. Transparency is composited over black. CMYK and
    palette images become RGB.

    Args:
        content: the bytes of the file.
    Returns:
        an image of mode L (gray) or RGB.
    Raises:
        UnreadableImage: if the content is empty, of an unsupported format, animated, damaged, too large or too small.
    """
    if not content:
        raise UnreadableImage("The file is empty.")
    if len(content) > MAX_BYTES:
        raise UnreadableImage(f"The file exceeds {MAX_BYTES // MIB} MB. Reduce its size.")
    if is_dicom(content):
        return decode_dicom(content, _check_size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            _check_size(*image.size)
            if _has_more_frames(image):
                raise UnreadableImage("The file holds several frames; expected one. Export a single frame.")
            _check_scans(image, content)
            image.load()
            return _plain(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise UnreadableImage(f"The image has more than {MAX_PIXELS // 10**6} million pixels. Resize it.") from None
    except UnidentifiedImageError:
        raise UnreadableImage(f"This is not a {KINDS} image. Save it as PNG or JPEG.") from None
    except UnreadableImage:
        raise
    except Exception:  # decoders raise many types on damaged input
        raise UnreadableImage("The image is damaged or incomplete. Export it again.") from None


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImage(
            f"The image has {width} x {height} pixels; the limit is {MAX_PIXELS // 10**6} million. Resize it."
        )
    if min(width, height) < MIN_SIDE:
        raise UnreadableImage(f"The image has {width} x {height} pixels; each side needs at least {MIN_SIDE}.")


def _has_more_frames(image: Image.Image) -> bool:
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1) > LIMITS.frames
    try:  # the time to count the frames of a TIFF grows with the square of their number
        image.seek(LIMITS.frames)
    except EOFError:
        image.seek(0)
        return False
    return True


def _check_scans(image: Image.Image, content: bytes) -> None:
    if image.format == "JPEG":
        check_scans(content)
    elif isinstance(image, TiffImageFile) and image.tag_v2.get(COMPRESSION) in _TIFF_JPEG:
        check_scans(content, max(len(image.tag_v2.get(tag, ())) for tag in (STRIPOFFSETS, TILEOFFSETS)))


def _plain(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode in _WIDE_GRAY:
        return Image.fromarray(_stretch(np.array(image, np.float32)))
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("LA", "La"):
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA")).convert("L")
    if "A" in image.mode or "transparency" in image.info:
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _stretch(pixels: np.ndarray) -> np.ndarray:
    """Stretch float pixels to 0..255; overwrites its input."""
    if not np.isfinite(pixels).all():
        raise UnreadableImage("The image has values that are not finite numbers. Export it again.")
    low, high = float(pixels.min()), float(pixels.max())
    if high <= low:
        return np.zeros(pixels.shape, np.uint8)
    pixels -= low  # in place, as images may be large
    pixels *= 255 / (high - low)
    return np.round(pixels, out=pixels).astype(np.uint8)


def to_array(
    image: Image.Image, shape: tuple[int, int], channels: int, interpolation: Interpolation = "bilinear"
) -> np.ndarray:
    """Resize with antialiasing and convert to a channels-first array.

    Args:
        image: the image, as `decode` returns it.
        shape: width and height in pixels; the aspect ratio may change.
        channels: 1 for gray, 3 for RGB.
        interpolation: interpolation method.
    Returns:
        (channels, height, width), uint8.
    """
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != shape:
        image = image.resize(shape, Image.Resampling[interpolation.upper()])
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def reduced(image: Image.Image, side: int) -> Image.Image:
    """Return a copy of an image whose sides are at most `side` pixels long; smaller images keep their size."""
    copy = image.copy()
    copy.thumbnail((side, side))
    return copy


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode (H, W) or (H, W, 3) uint8 pixels as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
