"""DICOM files to gray or color pixels as a viewer would show them: rescaled, windowed, then MONOCHROME1 inverted.

Only the elements listed in `_READ` are parsed, so nothing that could name a patient is read, kept or logged.

References:
    DICOM PS3.3 C.7.6.3.1.2 (photometric interpretation), C.11.1 (modality LUT), C.11.2 (VOI LUT and windowing).
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, MutableSequence
from typing import Any

import numpy as np
from PIL import Image

from core.data.jpeg import check_scans
from core.errors import UnreadableImage

_PREAMBLE = 128
_MARK = b"DICM"
_DEFLATED, _JPEG = b"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4."  # prefix of all JPEG syntaxes
HEAD = _PREAMBLE + len(_MARK)  # bytes needed to recognize a DICOM file
_FAR = 1e9
_BAND = 2**20  # pixels
_READ = [
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns", "NumberOfFrames",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SmallestImagePixelValue",
    "LargestImagePixelValue", "PixelPaddingValue", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "PixelData",
]  # fmt: skip

# Warnings of pydicom quote header values. The filter is set once, as setting and resetting filters is not thread-safe.
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
logging.getLogger("pydicom").propagate = False


def is_dicom(content: bytes) -> bool:
    """Whether the bytes are a DICOM file, recognized by the marker after the preamble and not by name."""
    return content[_PREAMBLE : _PREAMBLE + len(_MARK)] == _MARK


def decode_dicom(content: bytes, check_size: Callable[[int, int], None]) -> Image.Image:
    """Decode one still DICOM image.

    Stored values pass the modality transform (rescale), then the first VOI window or table. Without either, they are
    stretched from the darkest to the brightest pixel. MONOCHROME1 is inverted last, so that it equals its MONOCHROME2
    counterpart.

    Args:
        content: the bytes of the file.
        check_size: raises if a width and height in pixels are out of bounds; called before decoding.
    Returns:
        an image of mode L or RGB.
    Raises:
        UnreadableImage: if the file is damaged, has no pixels, several frames, too many or too few pixels, or an
            unsupported compression.
    """
    try:
        return _decode(content, check_size)
    except UnreadableImage:
        raise
    except Exception as error:  # the parser raises many types on damaged input
        raise UnreadableImage(f"The DICOM file is damaged ({type(error).__name__}). Export it again.") from None


def _decode(content: bytes, check_size: Callable[[int, int], None]) -> Image.Image:
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

    # Searched everywhere, as padding may come first. A deflated file would be inflated whole before its size is known.
    if _DEFLATED in content:
        raise UnreadableImage("The DICOM file is deflated as a whole. Export it uncompressed, or as PNG.")
    # Check the header before any pixel is decoded.
    header = dcmread(io.BytesIO(content), specific_tags=_READ)
    _check_header(header)
    check_size(header.Columns, header.Rows)
    if header.file_meta.TransferSyntaxUID.startswith(_JPEG):
        check_scans(header.PixelData)
    try:
        stored = pixel_array(header)
    except (RuntimeError, NotImplementedError):
        raise UnreadableImage(
            f"The DICOM file is compressed as {header.file_meta.TransferSyntaxUID.name}, which is not supported. "
            "Export it uncompressed, or as PNG."
        ) from None
    # Color images need no window.
    photometric = str(header.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        bits = header.RedPaletteColorLookupTableDescriptor[2]
        return Image.fromarray(_to_bytes(apply_color_lut(stored, header), 0, 2.0**bits - 1))
    if header.SamplesPerPixel == 3 and stored.ndim == 3 and not photometric.startswith("MONOCHROME"):
        return Image.fromarray(_to_bytes(stored, 0, 2.0**header.BitsStored - 1))
    if header.SamplesPerPixel != 1 or stored.ndim != 2:
        raise UnreadableImage(f"The DICOM file holds {photometric} pixels with {stored.ndim} axes. Export it as PNG.")
    # Map gray values to display values, then to bytes.
    inverted = photometric == "MONOCHROME1"
    center, width = _first(header, "WindowCenter"), _first(header, "WindowWidth")
    windowed = "VOILUTSequence" not in header and center is not None and bool(width)

    def display_values(band: np.ndarray) -> np.ndarray:
        values = apply_modality_lut(band, header)
        return apply_voi_lut(values, header) if windowed or "VOILUTSequence" in header else values

    if windowed:
        limits = apply_voi_lut(np.array([-_FAR, _FAR]), header)  # the values that the window shows as black and white
    else:
        limits = _display_limits(stored, display_values, header.get("PixelPaddingValue", None))
    bands = [_to_bytes(display_values(band), limits.min(), limits.max(), inverted) for band in _bands(stored)]
    return Image.fromarray(np.concatenate(bands))


def _bands(stored: np.ndarray) -> Iterator[np.ndarray]:
    """Yield blocks of rows; display values in double precision take many times the memory of the stored ones."""
    rows = max(1, _BAND // stored.shape[1])
    return (stored[top : top + rows] for top in range(0, len(stored), rows))


def _display_limits(stored: np.ndarray, display_values: Callable[[np.ndarray], np.ndarray], padding: Any) -> np.ndarray:
    """Return the extreme display values of each block of rows; padding is ignored unless the image is all padding."""
    all_padding = bool(np.all(stored == padding))
    extremes = []
    for band in _bands(stored):
        kept = display_values(band)[(band != padding) | all_padding]
        if kept.size:
            extremes += [kept.min(), kept.max()]
    return np.array(extremes)


def _first(header: Any, name: str) -> float | None:
    """Return the first value of an element that may have several, one or none."""
    value = header.get(name, None)
    if value is None or value == "":
        return None
    return float(value[0]) if isinstance(value, MutableSequence) else float(value)


def _check_header(header: Any) -> None:
    if not header.get("Rows") or not header.get("Columns") or "PixelData" not in header:
        raise UnreadableImage("The DICOM file holds no image. Choose the file with the image itself.")
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > 1:
        raise UnreadableImage(f"The DICOM file holds {frames} frames; expected one. Export a single frame.")


def _to_bytes(values: np.ndarray, low: float, high: float, inverted: bool = False) -> np.ndarray:
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    scaled = np.clip((values.astype(np.float64) - low) * (255 / (high - low)), 0, 255)
    return np.rint(np.round(255 - scaled if inverted else scaled, 6)).astype(np.uint8)
