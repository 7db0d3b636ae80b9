"""DICOM files to grey or colour pixels as a viewer would show them: rescaled, windowed, then MONOCHROME1 inverted.

Only the elements listed in `_READ` are parsed: nothing that could name a patient is read, kept or logged.

References:
    DICOM PS3.3 C.7.6.3.1.2 (photometric interpretation), C.11.1 (modality LUT), C.11.2 (VOI LUT and windowing).
"""

from __future__ import annotations

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
_DEFLATED, _JPEG = b"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4."  # of JPEG all begin like this
HEAD = _PREAMBLE + len(_MARK)  # bytes that tell
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

# Its warnings quote values of headers. Once and for all: filters that are set and reset are not safe between threads.
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
logging.getLogger("pydicom").propagate = False


def is_dicom(content: bytes) -> bool:
    """Whether the bytes are a DICOM file, whatever its name: the mark after the preamble says so."""
    return content[_PREAMBLE : _PREAMBLE + len(_MARK)] == _MARK


def decode_dicom(content: bytes, max_pixels: int, min_side: int) -> Image.Image:
    """Decodes one still DICOM image.

    Stored values go through the modality transform (rescale), then the first VOI window or table, or from the darkest
    to the brightest pixel where there is none; MONOCHROME1 is inverted after that, so that it equals its MONOCHROME2
    twin.

    Args:
        content: the bytes of the file.
        max_pixels: at most so many, checked before they are decoded.
        min_side: at least so many a side.
    Returns:
        an image of mode L or RGB.
    Raises:
        UnreadableImage: if there are no pixels, more than one frame, too many pixels, or a compression that cannot be
            read.
    """
    try:
        return _decode(content, max_pixels, min_side)
    except UnreadableImage:
        raise
    except Exception as error:  # the parser raises many kinds on damaged input
        raise UnreadableImage(f"The DICOM file is damaged ({type(error).__name__}). Export it again.") from None


def _decode(content: bytes, max_pixels: int, min_side: int) -> Image.Image:
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

    if _DEFLATED in content:  # anywhere: padding may come first; would be inflated whole before its size is known
        raise UnreadableImage("The DICOM file is deflated as a whole. Export it uncompressed, or as PNG.")
    header = dcmread(io.BytesIO(content), specific_tags=_READ)
    _check_header(header, max_pixels, min_side)
    if header.file_meta.TransferSyntaxUID.startswith(_JPEG):
        check_scans(header.PixelData)
    try:
        stored = pixel_array(header)
    except (RuntimeError, NotImplementedError):
        raise UnreadableImage(
            f"The DICOM file is compressed as {header.file_meta.TransferSyntaxUID.name}, which this program cannot "
            "read. Export it uncompressed, or as PNG."
        ) from None
    photometric = str(header.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        bits = header.RedPaletteColorLookupTableDescriptor[2]
        return Image.fromarray(_to_bytes(apply_color_lut(stored, header), 0, 2.0**bits - 1))
    if header.SamplesPerPixel == 3 and stored.ndim == 3 and not photometric.startswith("MONOCHROME"):
        return Image.fromarray(_to_bytes(stored, 0, 2.0**header.BitsStored - 1))
    if header.SamplesPerPixel != 1 or stored.ndim != 2:
        raise UnreadableImage(f"The DICOM file holds {photometric} pixels of {stored.ndim} axes. Export it as PNG.")
    inverted = photometric == "MONOCHROME1"
    centre, width = _first(header, "WindowCenter"), _first(header, "WindowWidth")
    windowed = "VOILUTSequence" not in header and centre is not None and bool(width)

    def shown(band: np.ndarray) -> np.ndarray:
        values = apply_modality_lut(band, header)
        return apply_voi_lut(values, header) if windowed or "VOILUTSequence" in header else values

    if windowed:
        ends = apply_voi_lut(np.array([-_FAR, _FAR]), header)  # what the window maps to black and white
    else:
        ends = _ends(stored, shown, header.get("PixelPaddingValue", None))
    return Image.fromarray(_in_bands(stored, lambda band: _to_bytes(shown(band), ends.min(), ends.max(), inverted)))


def _bands(stored: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of a picture, some at a time: values in double precision need many times the memory of stored ones."""
    rows = max(1, _BAND // stored.shape[1])
    return (stored[top : top + rows] for top in range(0, len(stored), rows))


def _in_bands(stored: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([change(band) for band in _bands(stored)])


def _ends(stored: np.ndarray, shown: Callable[[np.ndarray], np.ndarray], padding: Any) -> np.ndarray:
    """The darkest and the brightest value shown, padding left out where there is anything else."""
    everywhere = bool(np.all(stored == padding))
    found = []
    for band in _bands(stored):
        kept = shown(band)[(band != padding) | everywhere]
        if kept.size:
            found += [kept.min(), kept.max()]
    return np.array(found)


def _first(header: Any, name: str) -> float | None:
    """The first value of an element that may hold several, none, or be empty."""
    value = header.get(name, None)
    if value is None or value == "":
        return None
    return float(value[0]) if isinstance(value, MutableSequence) else float(value)


def _check_header(header: Any, max_pixels: int, min_side: int) -> None:
    rows, columns = getattr(header, "Rows", None), getattr(header, "Columns", None)
    if not rows or not columns or "PixelData" not in header:
        raise UnreadableImage("The DICOM file holds no image. Choose the file of the picture itself.")
    frames = int(getattr(header, "NumberOfFrames", None) or 1)
    if frames > 1:
        raise UnreadableImage(f"The DICOM file holds {frames} frames; give one still image a file.")
    if rows * columns > max_pixels:
        raise UnreadableImage(
            f"The image has {columns} x {rows} pixels; at most {max_pixels // 10**6} million are read. Make it smaller."
        )
    if min(rows, columns) < min_side:
        raise UnreadableImage(f"The image has {columns} x {rows} pixels; at least {min_side} a side are needed.")


def _to_bytes(values: np.ndarray, low: float, high: float, inverted: bool = False) -> np.ndarray:
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    scaled = np.clip((values.astype(np.float64) - low) * (255 / (high - low)), 0, 255)
    return np.rint(np.round(255 - scaled if inverted else scaled, 6)).astype(np.uint8)
