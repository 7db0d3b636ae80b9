import io

import numpy as np
import pytest
from PIL import Image

from core.data.audit import find_copies
from core.data.banks import Bank, open_bank
from core.data.images import decode, to_array
from core.data.phantom import SIDE, make_phantom


def bank_of(contents):
    images = np.stack([to_array(decode(content), 64, 1) for content in contents])
    return Bank(images, tuple(str(hash(content)) for content in contents), {})


def encoded(pixels, format="PNG", **more):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **more)
    return buffer.getvalue()


def test_planted_copies_are_found_and_nothing_else():
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


def test_each_pair_within_a_set_once():
    pixels = make_phantom(1, 1).pixels
    contents = [encoded(make_phantom(0, 0).pixels), encoded(pixels), encoded(pixels, "JPEG", quality=60)]
    copies = find_copies(bank_of(contents))
    assert list(zip(copies.first.tolist(), copies.second.tolist(), strict=True)) == [(1, 2)]


def test_flat_images_are_not_copies_of_each_other():
    flat = [encoded(np.full((SIDE, SIDE), value, np.uint8)) for value in (0, 120)]
    assert len(find_copies(bank_of(flat))) == 0


def test_phantoms_are_distinct():
    from core.data import DATASETS
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
    from core.data import DATASETS
    from core.data.dataset import scan
    from core.data.specs import is_present
    from tests.conftest import need

    need(is_present(DATASETS["covid-radiography"]), "covid-radiography is not under LOWSHOT_DATA")
    copies = find_copies(scan(DATASETS["covid-radiography"])[1], scan(kermany.spec)[1])
    assert len(np.unique(copies.first)) > 1000
