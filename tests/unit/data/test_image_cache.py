"""The image cache: streamed, resumed after a kill, unreadable files named; volumes too."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from core.data.image_cache import open_bank
from core.data.listing import Listing
from core.data.volumes import as_slice_images, to_cube


def png(index):
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 20), index % 256, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def listing_of(count, read, stamp, dims=2):
    ids = np.arange(count).astype(str)
    return Listing(ids, np.arange(count) % 2, ids, np.full(count, ""), read, stamp, dims=dims)


def test_unreadable_files_are_named_and_do_not_stop_the_rest():
    bank = open_bank(listing_of(5, lambda i: b"no image" if i == 2 else png(i), "faults"), 16, 1)
    assert list(bank.errors) == [2]
    assert "not a PNG" in bank.errors[2]
    assert bank.images[:, 0, 0, 0].tolist() == [0, 1, 0, 3, 4]


def test_a_killed_build_goes_on_where_it_stopped(monkeypatch):
    monkeypatch.setattr("core.data.image_cache._BLOCK", 10)
    read_once = []

    def until_killed(index):
        if index == 25:
            raise KeyboardInterrupt
        return png(index)

    with pytest.raises(KeyboardInterrupt):
        open_bank(listing_of(40, until_killed, "killed"), 16, 1)

    def again(index):
        read_once.append(index)
        return png(index)

    bank = open_bank(listing_of(40, again, "killed"), 16, 1)
    assert sorted(read_once) == list(range(20, 40))
    assert bank.images[:, 0, 0, 0].tolist() == list(range(40))
    assert len(set(bank.content)) == 40


def test_half_written_progress_is_not_trusted(monkeypatch):
    from core.paths import cache_folder

    monkeypatch.setattr("core.data.image_cache._BLOCK", 10)
    calls = iter(range(100))

    def killed(index):
        if next(calls) == 15:
            raise KeyboardInterrupt
        return png(index)

    with pytest.raises(KeyboardInterrupt):
        open_bank(listing_of(20, killed, "half"), 16, 1)
    for note in cache_folder().glob("banks/.*.unfinished/done.jsonl"):
        note.write_text(note.read_text() + '[["abc", nu')
    assert open_bank(listing_of(20, png, "half"), 16, 1).images[:, 0, 0, 0].tolist() == list(range(20))


def test_volumes_have_banks_of_cubes():
    cubes = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 28), dtype=np.uint8)
    listing = listing_of(3, lambda i: cubes[i], "cubes", dims=3)
    assert np.array_equal(open_bank(listing, 28, 1).images[:, 0], cubes)
    assert open_bank(listing, 14, 1).images.shape == (3, 1, 14, 14, 14)
    flat = as_slice_images(listing)
    assert flat.dims == 2
    assert np.asarray(flat.read(0)).shape == (28, 84)
    assert as_slice_images(replace(listing, dims=2)).stamp == "cubes"


def test_cubes_keep_constant_values():
    assert (to_cube(np.full((10, 20, 30), 7, np.uint8), 16) == 7).all()
