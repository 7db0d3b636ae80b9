"""Files as people upload them: small images in class folders, plain or in a zip."""

import io
import zipfile

import numpy as np

from core.data.images import encode_png


def image(number):
    """A PNG file of noise, another for each number."""
    return encode_png(np.random.default_rng(number).integers(0, 256, (24, 24), dtype=np.uint8))


def class_files(counts, above="", start=0):
    """Path -> content of images in class folders, all different."""
    numbers = iter(range(start, 10_000))
    return {f"{above}{label}/{i}.png": image(next(numbers)) for label, count in counts.items() for i in range(count)}


def striped(count=80):
    """Path -> content of images of two classes that differ in the direction of their stripes."""
    random = np.random.default_rng(0)
    files = {}
    for index in range(count):
        wave = 127 + 100 * np.sin(np.arange(64) / 3 + random.uniform(0, 6))
        pixels = np.clip(np.tile(wave, (64, 1)) + random.normal(0, 25, (64, 64)), 0, 255).astype(np.uint8)
        label, pixels = ("upright", pixels) if index % 2 else ("level", pixels.T)
        files[f"{label}/{index}.png"] = encode_png(np.ascontiguousarray(pixels))
    return files


def packed(files):
    """A zip of files by path."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()
