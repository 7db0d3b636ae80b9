"""The image check refuses images of another kind with the reason, and admits genuine ones."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from sklearn.covariance import empirical_covariance
from sklearn.datasets import load_sample_images

from core.data.images import decode
from core.errors import CorruptRun
from core.inference.image_check import (
    ImageCheck,
    ImageChecker,
    check_image,
    fit_image_check,
    read_image_check,
    save_image_check,
)
from core.paths import PROJECT
from tests.conftest import real
from trainer.commands.image_check import make_image_check

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(0)
SKIMAGE = ("astronaut", "camera", "coffee", "chelsea", "rocket", "brick", "grass", "gravel", "coins", "page", "text",
           "moon", "clock", "hubble_deep_field", "cell", "colorwheel", "horse", "checkerboard", "logo")  # fmt: skip


def far(count, width):
    """Embeddings of turned pictures, four each, that fit nothing."""
    return np.full((count, 4, width), 100.0)


def test_distance_is_the_mahalanobis_distance_of_the_fitted_model():
    spread = RANDOM.normal(size=(12, 12)) * np.r_[3, 2, 1.5, 1, np.full(8, 0.2)]
    points = (RANDOM.normal(size=(400, 12)) @ spread.T + 5).astype(np.float32)
    image_check = fit_image_check(points, points[:50], far(50, 12), 0.0, "f")
    from sklearn.decomposition import PCA

    count = len(image_check.components)
    pca = PCA(count).fit(points)
    centered = points[:20] - pca.mean_
    expected = np.sqrt(np.einsum("nd,de,ne->n", centered, np.linalg.inv(pca.get_covariance()), centered) / 12)
    assert count == 11
    assert np.allclose(image_check.distance(points[:20]), expected, rtol=1e-2)
    assert empirical_covariance(points).shape == (12, 12)


def test_about_one_in_a_hundred_held_images_lies_beyond_the_threshold():
    points = RANDOM.normal(size=(2000, 30)).astype(np.float32)
    image_check = fit_image_check(points[:1000], points[1000:], far(1000, 30), 0.0, "f")
    assert (image_check.distance(points[1000:]) > image_check.threshold).mean() == pytest.approx(0.01, abs=0.002)


def test_where_turning_changes_little_it_must_fit_much_better_to_be_the_reason():
    points = RANDOM.normal(size=(400, 12))
    upright = fit_image_check(points[:300], points[300:], far(100, 12), 0.0, "f")
    lesions = fit_image_check(points[:300], points[300:], points[300:, None] * np.full((4, 1), 0.5), 0.0, "f")
    assert upright.margin == 0.9
    assert lesions.margin == pytest.approx(0.5, abs=0.1)


def test_an_image_check_is_stored_and_read_again(tmp_path):
    image_check = fit_image_check(
        RANDOM.normal(size=(300, 40)), RANDOM.normal(size=(50, 40)), far(50, 40), 1.0, "print"
    )
    assert read_image_check(tmp_path) is None
    save_image_check(tmp_path, image_check)
    again = read_image_check(tmp_path)
    points = RANDOM.normal(size=(5, 40))
    assert np.allclose(again.distance(points), image_check.distance(points), rtol=1e-2)
    assert (again.threshold, again.images, again.fingerprint) == (image_check.threshold, 300, "print")
    (tmp_path / "image-check.npz").write_bytes(b"hello")
    with pytest.raises(CorruptRun, match="cannot be read"):
        read_image_check(tmp_path)


def as_told(distances):
    """An `embed` whose pictures lie, one after the other, at given distances from an image check of one direction."""
    left = list(distances)
    return lambda images: np.array([left.pop(0) for _ in images], float)[:, None]


ONE = ImageCheck(np.zeros(1), np.ones((1, 1)), 1.0, 2.0, 0.0, 10, "f")
DETAIL = Image.fromarray(RANDOM.integers(0, 256, (64, 64), dtype=np.uint8))


@pytest.mark.parametrize(
    ("distances", "reason"),
    [([1, 9, 9, 9, 9], None), ([1.5, 9, 9, 9, 1], "inverted"), ([1, 9, 9, 0.95, 9], None),
     ([3, 9, 9, 9, 9], "unlike the training images"), ([3, 1, 9, 9, 9], "right side"),
     ([3, 9, 1, 9, 9], "left side"), ([3, 9, 9, 1, 9], "upside down"), ([3, 9, 9, 9, 1], "inverted"),
     ([3, 2.9, 9, 9, 9], "unlike the training images")],
)  # fmt: skip
def test_the_reason_is_the_transformation_that_corrects_the_image(distances, reason):
    found = check_image(ONE, DETAIL, as_told(distances))
    assert found.admitted == (reason is None)
    assert not reason or reason in found.reasons[0]


def test_uniform_images_and_wrong_colors_are_refused_at_any_distance():
    near = as_told([0.1] * 50)
    assert "uniform brightness" in check_image(ONE, Image.new("L", (50, 50), 90), near).reasons[0]
    colored = Image.fromarray(RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((128, 128))
    assert "in color" in check_image(ONE, colored, near).reasons[0]
    skin = ImageCheck(np.zeros(1), np.ones((1, 1)), 1.0, 2.0, 1.0, 10, "f")
    assert "It is grayscale" in check_image(skin, DETAIL, near).reasons[0]
    assert check_image(skin, colored, near).admitted


def other_pictures():
    """Natural images that packages ship, text, noise and blank: none was ever used for an image check."""
    from skimage import data

    found = [Image.fromarray(image) for image in load_sample_images().images]
    for name in SKIMAGE:
        pixels = getattr(data, name)()
        pixels = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
        found.append(Image.fromarray(pixels[..., :3] if pixels.ndim == 3 else pixels))
    page = Image.new("L", (300, 300), "white")
    ImageDraw.Draw(page).multiline_text((10, 10), "Findings: none\n" * 15, fill="black")
    noise = [Image.fromarray(RANDOM.integers(0, 256, (200, 200), dtype=np.uint8)) for _ in range(3)]
    return [*found, page, *noise, *(Image.new("L", (99, 99), level) for level in (0, 128, 255))]


def sample(dataset, count):
    rows = np.random.default_rng(1).permutation(dataset.parts.test)[:count]
    return [decode(dataset.listing.read(int(row))) for row in rows]


def some_of(dataset, count):
    """Some of the training images, so that the others need not be decoded at the encoder's size."""
    rows = np.sort(np.random.default_rng(0).permutation(dataset.parts.train)[:count])
    parts = replace(dataset.parts, train=np.arange(count), groups=dataset.parts.groups[rows])
    name = f"{count} of {dataset.fingerprint}"
    return replace(dataset, listing=dataset.listing.subset(rows), parts=parts, fingerprint=name)


class Remembering(ImageChecker):
    """One whose encoder embeds a picture once, whichever image check it is for."""

    seen: ClassVar = {}

    def _embed(self, images):
        key = id(images[0])
        if key not in self.seen:
            self.seen[key] = images[0], super()._embed(images)  # the picture is kept, so that no other takes its id
        return self.seen[key][1]


@pytest.mark.data
def test_other_kinds_of_images_are_refused_and_genuine_ones_are_not(kermany):
    """The bar: at least 95% of what does not belong refused, at most 5% of genuine test images.

    One image check is made here from fewer images than usual, the other is the shipped one.
    """
    chest, skin = kermany, real("ham10000")
    shipped = read_image_check(PROJECT / "checkpoints" / "ham10000")
    assert shipped.fingerprint == skin.fingerprint
    checkers = {"chest": Remembering(make_image_check(some_of(chest, 600), CPU)), "skin": Remembering(shipped)}
    genuine = {"chest": sample(chest, 40), "skin": sample(skin, 40)}
    others = other_pictures()
    for task, checker in checkers.items():
        refused = [not checker(image).admitted for image in genuine[task]]
        assert np.mean(refused) <= 0.05, task
        wrong = genuine["skin" if task == "chest" else "chest"][:30] + others
        refused = [not checker(image).admitted for image in wrong]
        assert np.mean(refused) >= 0.95, task
    for change, reason in (
        (lambda image: image.transpose(Image.Transpose.ROTATE_180), "upside down"),
        (lambda image: ImageOps.invert(image.convert("L")), "inverted"),
    ):
        found = [checkers["chest"](change(image)) for image in genuine["chest"][:20]]
        assert np.mean([reason in " ".join(one.reasons) for one in found]) >= 0.9
