"""Image files for measurements of growth: cheap to make, as similar as radiographs, but not copies of each other."""

from pathlib import Path

import numpy as np
from PIL import Image

from core.data.datasets.phantom import make_phantom
from core.data.images import encode_png

SIDE, GRID = 128, 16


def write_images(folder: Path, count: int) -> None:
    """Write numbered PNG files: one thorax, another smooth pattern and other noise in each."""
    folder.mkdir(parents=True)
    thorax = make_phantom(0, 0, SIDE).pixels.astype(np.float32)
    for index in range(count):
        random = np.random.default_rng(index)
        grid = Image.fromarray(random.normal(0, 25, (GRID, GRID)).astype(np.float32))
        pattern = np.asarray(grid.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        pixels = thorax + pattern + random.normal(0, 6, (SIDE, SIDE)).astype(np.float32)
        (folder / f"{index:06d}.png").write_bytes(encode_png(pixels.clip(0, 255).astype(np.uint8)))


def write_table(folder: Path, count: int, classes: int) -> Path:
    """Write a table of the first images of a folder with their labels and parts, in turn; return its path."""
    parts = ("train", "train", "train", "train", "test")
    rows = [
        f"{index:06d}.png,class {index % classes:03d},{parts[index // classes % len(parts)]}" for index in range(count)
    ]
    path = folder / f"{count}-images-{classes}-classes.csv"
    path.write_text("\n".join(["path,label,part", *rows]))
    return path
