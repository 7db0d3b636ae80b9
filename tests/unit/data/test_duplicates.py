"""Copies of images: planted ones, and those known to be in the real data sets."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from core.data import DATASETS, duplicates
from core.data.datasets.phantom import SIDE, make_phantom
from core.data.duplicates import find_copies, fingerprint, register
from core.data.image_cache import Bank, open_bank
from core.data.images import decode
from core.data.preprocessing import PLAIN
from core.data.specs import is_present
from tests.conftest import need


def bank_of(contents):
    images = np.stack([PLAIN.image(decode(content), 64, 1) for content in contents])
    return Bank(images, tuple(str(hash(content)) for content in contents), {})


def encoded(pixels, format="PNG", **more):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **more)
    return buffer.getvalue()


def test_planted_copies_are_detected_and_nothing_else():
    originals = [make_phantom(seed, 0).pixels for seed in range(30)]
    changed = [
        encoded(originals[4], "JPEG", quality=30),
        encoded(np.asarray(Image.fromarray(originals[9]).resize((96, 96)))),
        encoded(np.clip(originals[13] * 0.8 + 20, 0, 255).astype(np.uint8)),
        encoded(make_phantom(99, 0).pixels),
    ]
    copies = find_copies(bank_of([encoded(pixels) for pixels in originals]), bank_of(changed))
    assert set(zip(copies.first.tolist(), copies.second.tolist(), strict=True)) == {(4, 0), (9, 1), (13, 2)}
    again = find_copies(bank_of([encoded(pixels) for pixels in originals]), bank_of(changed))
    assert np.array_equal(again.similarity, copies.similarity)  # from the cache


def cropped(pixels, left, top, right, bottom):
    height, width = pixels.shape
    box = (round(left * width), round(top * height), round(width * (1 - right)), round(height * (1 - bottom)))
    return np.asarray(Image.fromarray(pixels).crop(box))


def test_slightly_cropped_copies_are_detected_in_both_directions():
    originals = [make_phantom(seed, 0).pixels for seed in range(30)]
    crops = [(0.025,) * 4, (0.03, 0, 0, 0.03), (0, 0.03, 0.03, 0), (0.02, 0.03, 0.02, 0.0)]
    changed = [encoded(cropped(originals[5 * i], *box), "JPEG", quality=30) for i, box in enumerate(crops)]
    whole, cut = bank_of([encoded(pixels) for pixels in originals]), bank_of(changed)
    for first, second in ((whole, cut), (cut, whole)):
        copies = find_copies(first, second)
        pairs = zip(copies.first.tolist(), copies.second.tolist(), strict=True)
        found = {pair if first is whole else pair[::-1] for pair in pairs}
        assert found == {(0, 0), (5, 1), (10, 2), (15, 3)}


def test_registration_finds_a_known_crop():
    picture = make_phantom(2, 0).pixels
    left, top, right, bottom = 0.03, 0.02, 0.01, 0.03
    whole, part = (
        PLAIN.image(Image.fromarray(p), 64, 1)[None] for p in (picture, cropped(picture, left, top, right, bottom))
    )
    prints = [torch.from_numpy(fingerprint(image, 64)) for image in (part, whole)]
    scale_x, shift_x, scale_y, shift_y = register(*prints)[0].tolist()
    assert scale_x == pytest.approx(1 - left - right, abs=0.01)
    assert scale_y == pytest.approx(1 - top - bottom, abs=0.01)
    assert shift_x == pytest.approx(left - right, abs=0.01)
    assert shift_y == pytest.approx(top - bottom, abs=0.01)


def test_each_pair_within_a_set_once():
    pixels = make_phantom(1, 1).pixels
    contents = [encoded(make_phantom(0, 0).pixels), encoded(pixels), encoded(pixels, "JPEG", quality=60)]
    copies = find_copies(bank_of(contents))
    assert list(zip(copies.first.tolist(), copies.second.tolist(), strict=True)) == [(1, 2)]


@pytest.mark.parametrize("rows", [1, 2])
def test_pairs_are_found_across_the_blocks_of_a_large_set_and_leave_no_other_file(rows, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path))  # or the second row would find the result of the first
    phantoms = [make_phantom(number, 1).pixels for number in range(5)]
    contents = [encoded(pixels) for pixels in phantoms] + [encoded(phantoms[3], "JPEG", quality=60)]
    monkeypatch.setattr(duplicates, "_BLOCK", 2)
    monkeypatch.setattr(duplicates, "_AT_ONCE", rows * len(contents))
    copies = find_copies(bank_of(contents))
    assert list(zip(copies.first.tolist(), copies.second.tolist(), strict=True)) == [(3, 5)]
    assert [path.name for path in tmp_path.iterdir()] == ["audits"]


def test_flat_images_are_not_copies_of_each_other():
    flat = [encoded(np.full((SIDE, SIDE), value, np.uint8)) for value in (0, 120)]
    assert len(find_copies(bank_of(flat))) == 0


def test_unreadable_files_are_not_copies_and_equal_files_are_linked():
    blank = np.zeros((40, 1, 64, 64), np.uint8)
    unreadable = Bank(blank, ("same",) * 40, dict.fromkeys(range(40), "empty"))
    assert len(find_copies(unreadable)) == 0
    equal = find_copies(Bank(blank + 1, ("equal",) * 40, {}))
    assert set(equal.first) | set(equal.second) == set(range(40))
    assert len(equal) == 39


def test_phantoms_are_distinct():
    from core.data.dataset import scan

    listing, bank = scan(DATASETS["phantom"])
    assert len(find_copies(bank)) == 0
    assert open_bank(listing, 64, 1).images.shape == (len(listing), 1, 64, 64)


@pytest.mark.data
def test_kermany_test_and_training_share_no_image(kermany):
    from core.data.dataset import scan

    listing, bank = scan(kermany.spec)
    copies = find_copies(bank)
    assert not (listing.parts[copies.first] != listing.parts[copies.second]).any()
    assert len(kermany.parts.test) == 624


@pytest.mark.data
def test_the_covid_compilation_holds_copies_of_kermany(kermany):
    from core.data.dataset import scan

    need(is_present(DATASETS["covid-radiography"]), "covid-radiography is not under LOWSHOT_DATA")
    copies = find_copies(scan(DATASETS["covid-radiography"])[1], scan(kermany.spec)[1])
    assert len(np.unique(copies.first)) > 1000


@pytest.mark.data
def test_planted_copies_of_real_images_are_detected_without_confusing_patients(kermany):
    random = np.random.default_rng(0)
    rows = random.choice(kermany.parts.train, 300, replace=False)
    contents = [kermany.listing.read(int(row)) for row in rows]
    pictures = [np.asarray(decode(content).convert("L")) for content in contents]
    boxes = random.uniform(0, 0.025, size=(100, 4))
    planted = [encoded(pixels, "JPEG", quality=30) for pixels in pictures[:100]]
    planted += [encoded(np.asarray(Image.fromarray(pixels).resize((100, 100)))) for pixels in pictures[100:200]]
    planted += [encoded(cropped(pixels, *box)) for pixels, box in zip(pictures[200:], boxes, strict=True)]
    copies = find_copies(bank_of(contents), bank_of(planted))
    pairs = set(zip(copies.first.tolist(), copies.second.tolist(), strict=True))
    groups = kermany.parts.groups[rows]
    assert len(pairs & {(i, i) for i in range(300)}) >= 297
    assert all(groups[i] == groups[j] for i, j in pairs)


@pytest.mark.data
def test_known_truths_of_pneumoniamnist():
    listing, copies = scanned("pneumoniamnist")
    exact = copies.similarity == 1
    crossing = {}
    for i, j in zip(copies.first[exact], copies.second[exact], strict=True):
        if listing.parts[i] != listing.parts[j]:
            crossing.setdefault(frozenset((listing.parts[i], listing.parts[j])), set()).add(listing.read(i).tobytes())
    assert len(crossing[frozenset(("train", "validation"))]) == 8
    assert len(crossing) == 1


@pytest.mark.data
def test_kermany_and_nih_share_no_image(kermany):
    from core.data.dataset import scan

    need(is_present(DATASETS["nih-chestxray14"]), "nih-chestxray14 is not under LOWSHOT_DATA")
    assert len(find_copies(scan(kermany.spec)[1], scan(DATASETS["nih-chestxray14"])[1])) == 0


def scanned(name):
    from core.data.dataset import scan

    need(is_present(DATASETS[name]), f"{name} is not under LOWSHOT_DATA")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        listing, bank = scan(DATASETS[name])
    return listing, find_copies(bank)
