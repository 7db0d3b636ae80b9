"""DICOM files, generated in memory: shown as a viewer would, or refused with an error message."""

import contextlib
import io
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from core.data.datasets.folders import image_files
from core.data.images import decode
from core.errors import UnreadableImage

SECRET = "Doe^Jane"
TOP = 4095


def dicom(pixels, photometric="MONOCHROME2", **more):
    """The bytes of a DICOM file with 12-bit gray or 8-bit color pixels."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = more.pop("syntax", ExplicitVRLittleEndian)
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    file.PatientName, file.PatientID = SECRET, "4711"
    file.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        file.PlanarConfiguration = 0
    file.PhotometricInterpretation = photometric
    file.Rows, file.Columns = pixels.shape[:2]
    color = pixels.dtype == np.uint8
    file.BitsAllocated, file.BitsStored, file.HighBit = (8, 8, 7) if color else (16, 12, 11)
    file.PixelRepresentation = 0
    file.PixelData = pixels.tobytes()
    if file.file_meta.TransferSyntaxUID.is_compressed:
        file.PixelData = encapsulate([file.PixelData])
    for name, value in more.items():
        setattr(file, name, value)
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def gray():
    return np.random.default_rng(0).integers(0, TOP + 1, (40, 48), dtype=np.uint16)


def test_without_a_window_the_darkest_is_black_and_the_brightest_white(gray):
    image = decode(dicom(gray))
    assert image.mode == "L"
    assert image.size == (48, 40)
    expected = (gray - gray.min()) / (gray.max() - gray.min()) * 255
    assert np.abs(np.asarray(image) - expected).max() <= 0.5


def test_a_window_clips(gray):
    shown = np.asarray(decode(dicom(gray, WindowCenter=1000, WindowWidth=401)))
    low, high = 1000 - 0.5 - 200, 1000 - 0.5 + 200
    expected = np.clip((gray - low) / (high - low), 0, 1) * 255
    assert np.abs(shown - expected).max() <= 1
    assert shown.min() == 0
    assert shown.max() == 255


def test_the_window_is_in_rescaled_units(gray):
    plain = decode(dicom(gray, WindowCenter=1000, WindowWidth=401))
    rescaled = decode(
        dicom(gray, WindowCenter=1000 * 2 - 300, WindowWidth=801, RescaleSlope="2", RescaleIntercept="-300")
    )
    assert np.abs(np.asarray(plain).astype(int) - np.asarray(rescaled)).max() <= 1


@pytest.mark.parametrize("windowed", [False, True])
def test_monochrome1_equals_its_monochrome2_twin(gray, windowed):
    center = 1000
    of_two = {"WindowCenter": center, "WindowWidth": 401} if windowed else {}
    of_one = {"WindowCenter": TOP - center + 1, "WindowWidth": 401} if windowed else {}
    two = decode(dicom(gray, **of_two))
    one = decode(dicom((TOP - gray).astype(np.uint16), "MONOCHROME1", **of_one))
    assert np.array_equal(np.asarray(one), np.asarray(two))


def test_padding_does_not_set_the_range(gray):
    gray = np.clip(gray, 1000, 2000)
    gray[:, :5] = 0
    shown = np.asarray(decode(dicom(gray, PixelPaddingValue=0)))
    assert shown[:, 5:].min() == 0
    assert shown[:, 5:].max() == 255


def test_color_stays_color():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(decode(dicom(pixels, "RGB"))), pixels)


@pytest.mark.parametrize("empty", [{"WindowCenter": None, "WindowWidth": None}, {"WindowWidth": 0, "WindowCenter": 9}])
def test_an_empty_window_is_no_window(gray, empty):
    assert np.array_equal(np.asarray(decode(dicom(gray, **empty))), np.asarray(decode(dicom(gray))))


def test_the_first_of_several_windows_is_taken(gray):
    several = decode(dicom(gray, WindowCenter=[1000, 3000], WindowWidth=[401, 50]))
    assert np.array_equal(np.asarray(several), np.asarray(decode(dicom(gray, WindowCenter=1000, WindowWidth=401))))


def test_a_negative_slope_does_not_blacken_the_picture(gray):
    shown = np.asarray(
        decode(dicom(gray, RescaleSlope="-1", RescaleIntercept="4095", WindowCenter=2048, WindowWidth=4096))
    )
    assert shown.std() > 50


def test_palette_colors_keep_their_depth():
    indices = np.arange(400, dtype=np.uint8).reshape(20, 20) % 4
    table = np.array([0, 20000, 40000, 65535], np.uint16)
    words = {}
    for color in ("Red", "Green", "Blue"):
        words[f"{color}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        words[f"{color}PaletteColorLookupTableData"] = table.tobytes()
    shown = np.asarray(decode(dicom(indices, "PALETTE COLOR", **words)))
    assert np.abs(shown[..., 0].astype(float) - table[indices] / 65535 * 255).max() <= 0.51


def test_mutated_headers_never_escape_as_anything_but_a_sentence(gray):
    good = bytearray(
        dicom(gray[:20, :20].copy(), WindowCenter=1000, WindowWidth=401, RescaleSlope="1", RescaleIntercept="0")
    )
    random = np.random.default_rng(0)
    for _ in range(400):
        bad = bytearray(good)
        for place in random.integers(132, len(good) - 800, size=random.integers(1, 4)):
            bad[place] = random.integers(256)
        with contextlib.suppress(UnreadableImage), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decode(bytes(bad))


def test_no_header_value_survives(gray, caplog):
    import logging

    caplog.set_level(logging.DEBUG)
    image = decode(dicom(gray))
    assert SECRET not in caplog.text
    assert not image.info
    with pytest.raises(UnreadableImage) as told:
        decode(dicom(gray, NumberOfFrames=3))
    assert SECRET not in str(told.value)


def test_no_header_value_is_in_a_warning(gray, tmp_path):
    (tmp_path / "odd.dcm").write_bytes(
        dicom(gray, SpecificCharacterSet="ISO_IR 100").replace(b"ISO_IR 100", b"DOE^JANE 1")
    )
    code = (
        "import logging, sys; from pathlib import Path; logging.basicConfig(level='DEBUG')\n"
        "from core.data.images import decode; print(decode(Path(sys.argv[1]).read_bytes()).size)"
    )
    asked = [sys.executable, "-W", "always", "-c", code, str(tmp_path / "odd.dcm")]
    done = subprocess.run(asked, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(48, 40)"
    assert "Warning" not in done.stderr
    assert "DOE" not in done.stderr


def hostile(gray):
    header_only = Dataset()
    return {
        "several frames": (dicom(gray, NumberOfFrames=3), "3 frames"),
        "cut short": (dicom(gray)[:900], "damaged|incomplete|no image"),
        "huge": (dicom(gray, Rows=60000, Columns=60000), "64 million"),
        "tiny": (dicom(gray[:8, :8].copy()), "at least 16"),
        "no pixels": (dicom(gray, PixelData=header_only.get("PixelData", b"")), "damaged|no image|incomplete"),
        "unknown compression": (dicom(gray, syntax=JPEGLosslessSV1), "compressed as|damaged"),
        "only the mark": (b"\0" * 128 + b"DICM", "damaged|no image"),
        "noise after the mark": (b"\0" * 128 + b"DICM" + bytes(range(256)) * 4, "damaged|no image"),
    }


@pytest.mark.parametrize("name", hostile(np.zeros((40, 48), np.uint16)))
def test_what_cannot_be_shown_gets_a_sentence(name, gray):
    content, words = hostile(gray)[name]
    with pytest.raises(UnreadableImage, match=words):
        decode(content)


def test_a_deflated_file_is_refused_wherever_it_is_declared(gray):
    deflated = dicom(gray, syntax=DeflatedExplicitVRLittleEndian)
    start = deflated.index(struct.pack("<HH", 0x0002, 0x0010))
    padding = struct.pack("<HH2sHL", 0x0002, 0x0001, b"OB", 0, 10_000) + bytes(10_000)
    for content in (deflated, deflated[:start] + padding + deflated[start:]):
        with pytest.raises(UnreadableImage, match="deflated as a whole"):
            decode(content)


def test_a_jpeg_of_very_many_scans_is_refused_but_other_pixels_may_look_like_scans(gray):
    for syntax in (JPEGBaseline8Bit, JPEGLosslessSV1):
        with pytest.raises(UnreadableImage, match="65 scans"):
            decode(dicom(gray, syntax=syntax, PixelData=encapsulate([b"\xff\xd8" + b"\xff\xda\0\2" * 65])))
    plain = dicom(np.tile(np.array([0xFF, 0xDA], np.uint8), (40, 24)))
    file, buffer = dcmread(io.BytesIO(plain)), io.BytesIO()
    file.compress(RLELossless)
    file.save_as(buffer)
    for content in (plain, buffer.getvalue()):
        assert content.count(b"\xff\xda") > 65
        assert decode(content).size == (48, 40)


def test_files_without_a_telling_name_are_found_by_content(gray, tmp_path):
    for name in ("IM000001", "1.2.840.113619.2.5", "named.dcm"):
        (tmp_path / name).write_bytes(dicom(gray))
    (tmp_path / "README").write_text("no image")
    (tmp_path / "1.2.3").write_text("no image either")
    assert {path.name for path in image_files(tmp_path)} == {"IM000001", "1.2.840.113619.2.5", "named.dcm"}


@pytest.mark.parametrize(("format", "mode"), [("TIFF", "L"), ("TIFF", "RGB"), ("BMP", "L"), ("BMP", "RGB")])
def test_tiff_and_bmp(format, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24) + ((3,) if mode == "RGB" else ()), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    assert np.array_equal(np.asarray(decode(buffer.getvalue())), pixels)


def test_sixteen_bit_tiff_is_stretched_and_several_pages_are_refused():
    wide = np.random.default_rng(0).integers(0, 2**16, (20, 24), dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "TIFF")
    shown = np.asarray(decode(buffer.getvalue()))
    assert np.abs(shown - (wide - wide.min()) / (wide.max() - wide.min()) * 255).max() <= 0.51
    pages = io.BytesIO()
    Image.fromarray(wide).save(pages, "TIFF", save_all=True, append_images=[Image.fromarray(wide)])
    with pytest.raises(UnreadableImage, match="several frames"):
        decode(pages.getvalue())
