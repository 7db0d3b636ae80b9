"""Scores of heatmaps against networks whose evidence is known, and heatmaps of trained networks on phantoms."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from core.explain import Explanation
from core.explain.quality import deletion_frames, faithfulness, top_overlap
from tests.heatmap_peaks import peak_distance


def at(row, column, side=64, width=12):
    heat = np.zeros((side, side), np.float32)
    heat[row : row + width, column : column + width] = 1.0
    return Explanation(heat, 1.0, 1, False)


PICTURE = np.zeros((64, 64), np.uint8)
PICTURE[8:20, 40:52] = 255


def looks_there(images):
    """A network that answers with the brightness of the white square."""
    bright = np.array([np.asarray(image.convert("L"))[8:20, 40:52].mean() / 255 for image in images])
    return np.stack([1 - bright, bright], axis=1)


def test_a_map_on_the_evidence_scores_better_than_one_beside_it():
    image = Image.fromarray(PICTURE)
    heat = at(8, 40)
    good, bad = (faithfulness(image, one, looks_there) for one in (heat, replace(heat, heat=1 - heat.heat)))
    assert good.deletion < bad.deletion
    assert good.insertion > bad.insertion
    assert good.deletion < good.random_deletion
    assert good.insertion > good.random_insertion
    assert "better than random in both" in good.text
    assert "no better than random" in bad.text
    assert (good.random_deletion, good.random_insertion) == (bad.random_deletion, bad.random_insertion)


def test_places_go_from_the_strongest_to_the_weakest_in_equal_parts():
    start, end = Image.new("L", (20, 10), 0), Image.new("L", (20, 10), 200)
    heat = np.arange(200, dtype=np.float32).reshape(10, 20)
    pictures = deletion_frames(start, end, heat, 10)
    assert [int((np.asarray(one) == 200).sum()) for one in pictures] == list(range(0, 201, 20))
    assert (np.asarray(pictures[1])[9] == 200).all()


def test_deletion_is_the_area_under_the_curve():
    heat = Explanation(np.arange(64.0 * 64).reshape(64, 64).astype(np.float32), 4095.0, 1, False)

    def in_turn(images):
        values = np.concatenate([np.linspace(1, 0, 11), np.linspace(0, 1, 11), np.zeros(11), np.ones(11)])
        assert len(images) == 44
        return np.stack([1 - values, values], axis=1)

    found = faithfulness(Image.fromarray(PICTURE), heat, in_turn)
    assert (found.deletion, found.insertion) == (pytest.approx(0.5), pytest.approx(0.5))
    assert (found.random_deletion, found.random_insertion) == (0.0, pytest.approx(1.0))


def test_overlap_of_the_strongest_fifth():
    ramp = np.tile(np.arange(50, dtype=np.float32), (50, 1))
    right, left = Explanation(ramp, 49.0, 1, False), Explanation(ramp[:, ::-1].copy(), 49.0, 1, False)
    down = Explanation(ramp.T.copy(), 49.0, 1, False)
    assert top_overlap(right, right) == 1
    assert top_overlap(right, left) == 0
    assert top_overlap(right, down) == pytest.approx(0.2)
    large = Explanation(np.kron(ramp, np.ones((2, 2), np.float32)), 49.0, 1, False)
    assert top_overlap(right, large) > 0.9
    with pytest.raises(ValueError, match="flat"):
        top_overlap(right, Explanation(ramp * 0, 0.0, 1, True))


def test_the_distance_from_the_peak_to_the_evidence():
    evidence = np.zeros((100, 100), bool)
    evidence[40:60, 40:60] = True
    inside, right = np.zeros((10, 10), np.float32), np.zeros((10, 10), np.float32)
    inside[5, 5], right[5, 8] = 1, 1
    assert peak_distance(Explanation(inside, 1.0, 1, False), evidence) == pytest.approx(0)
    assert peak_distance(Explanation(right, 1.0, 1, False), evidence) == pytest.approx(0.85 - 0.60)
