"""Decoding into the image cache against a PIL loop on every core, and the warm start of 15,000 images: pair 5."""

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness import Measured, Pair, Row, Side, Values, cores, in_fresh_process, middle, rate, timed
from benchmarks.synthetic import write_images, write_table
from core.data.dataset import load_dataset
from core.data.datasets.custom import custom_dataset
from core.data.image_cache import open_bank
from core.data.listing import Listing
from core.data.specs import find_dataset, list_images

SIZE = 160
IMAGES, WARM_IMAGES = 2000, 15_000
OURS, PIL, WARM = "image cache, cold", "PIL loop on one core", "warm start"


def sides(quick: bool, folder: Path) -> Mapping[str, Side]:
    """Return both ways to decode chest radiographs, and opening a data set whose image cache exists."""
    name, count, many = ("phantom", 12, 40) if quick else ("kermany", IMAGES, WARM_IMAGES)
    write_images(folder / "images", many)
    open_own = partial(
        in_fresh_process, open_table, str(write_table(folder / "images", many, 2)), LOWSHOT_CACHE=str(folder / "cache")
    )
    open_own()  # fills the cache

    def cold(turn: int) -> Values:
        return in_fresh_process(fill_cache, name, count, LOWSHOT_CACHE=str(folder / f"cache{turn}"))

    return {OURS: cold, PIL: lambda _: in_fresh_process(pil_loop, name, count), WARM: lambda _: open_own()}


def fill_cache(name: str, count: int) -> Values:
    """Decode the first images of a data set into the image cache."""
    listing = _first(name, count)
    return timed(lambda: open_bank(listing, SIZE, 1), images=count)


def pil_loop(name: str, count: int) -> Values:
    """Read, decode and resize the first images of a data set one after the other."""
    listing = _first(name, count)

    def decode_all() -> None:
        for index in range(count):
            picture = Image.open(io.BytesIO(bytes(listing.read(index)))).convert("L")
            np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR))

    return timed(decode_all, images=count)


def open_table(path: str) -> Values:
    """List, audit and split the images of a table, and open the image cache of all."""

    def load() -> None:
        load_dataset(custom_dataset(Path(path))).bank(SIZE)

    return timed(load, images=len(Path(path).read_text().splitlines()) - 1)


def _first(name: str, count: int) -> Listing:
    return list_images(find_dataset(name)).subset(np.arange(count))


def rows(measured: Measured) -> list[Row]:
    """Return the images per second of decoding, and the seconds of the warm start."""
    single = rate(measured, PIL)
    what = "Decoding chest radiographs into the image cache, against a PIL loop"
    note = f"limit: the PIL loop times {cores()} cores, which neither hashes nor checks the files"
    return [
        Row(what, "images/s", rate(measured, OURS), single, single * cores(), note=note),
        Row(f"Warm start of {measured[WARM][0]['images']:,} images", "s", middle(measured, WARM), most=1),
    ]


PAIR = Pair("decoding", "Decoding and the image cache", 6, sides, rows)
