"""Splits and nested subsets: patients and copies never straddle two parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.duplicates import Copies
from core.data.listing import UNLABELED
from core.data.splits import check_disjoint, merge_groups, nested_subset, redundant_copies, split
from core.errors import BadRequest, LeakFound

NO_COPIES = Copies(np.array([], int), np.array([], int), np.array([], float))


def copies(*pairs):
    first, second = zip(*pairs, strict=True)
    return Copies(np.array(first), np.array(second), np.ones(len(pairs)))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 20))
def test_subsets_are_nested_stratified_and_repeatable(seed, small, more):
    labels = np.arange(200) % 3
    ids = np.array([f"image-{i}" for i in range(200)])
    pool = np.arange(20, 200)
    names = ("a", "b", "c")
    a = nested_subset(ids, labels, pool, names, small, seed)
    b = nested_subset(ids, labels, pool, names, small + more, seed)
    assert set(a.indices) <= set(b.indices) <= set(pool)
    assert all((labels[a.indices] == c).sum() == small for c in range(3))
    assert a.hash == nested_subset(ids, labels, pool, names, small, seed).hash
    assert (a.hash == b.hash) == (set(a.indices) == set(b.indices))


def test_subsets_do_not_depend_on_the_order_of_files():
    ids = np.array([f"image-{i}" for i in range(50)])
    labels = np.arange(50) % 2
    turned = np.arange(50)[::-1]
    here = nested_subset(ids, labels, np.arange(50), ("a", "b"), 5, 3)
    there = nested_subset(ids[turned], labels[turned], np.arange(50), ("a", "b"), 5, 3)
    assert here.hash == there.hash


def test_a_part_is_split_off_once_for_the_same_images(monkeypatch, tmp_path):
    """The selection is read from the cache, and made again if the file there is damaged or the images are others."""
    from sklearn.model_selection import StratifiedGroupKFold

    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path))
    made, original = [], StratifiedGroupKFold.split
    monkeypatch.setattr(StratifiedGroupKFold, "split", lambda *given: made.append(1) or original(*given))

    def ask(count):
        groups = np.arange(count).astype(str)
        return split(np.arange(count) % 2, groups, np.full(count, ""), np.ones(count, bool), NO_COPIES)

    first, again = ask(200), ask(200)
    assert len(made) == 2  # a test and a validation part
    assert all(np.array_equal(first.by_name[part], again.by_name[part]) for part in first.by_name)
    for path in tmp_path.glob("splits/*"):
        path.write_bytes(b"")
    assert np.array_equal(ask(200).test, first.test)
    assert len(made) == 4
    ask(210)
    assert len(made) == 6


def test_a_short_class_gives_all_it_has_and_is_named():
    labels = np.array([0] * 3 + [1] * 10)
    ids = np.array([str(i) for i in range(13)])
    subset = nested_subset(ids, labels, np.arange(13), ("rare", "common"), 5, 0)
    assert (labels[subset.indices] == 0).sum() == 3
    assert subset.short == ("rare",)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000))
def test_carved_parts_share_no_group_and_lose_no_image(seed):
    random = np.random.default_rng(seed)
    labels, groups = random.integers(0, 2, 400), random.integers(0, 120, 400).astype(str)
    labels = np.array([int(g) % 2 for g in groups])  # a patient has one label
    parts = split(labels, groups, np.full(400, ""), np.ones(400, bool), NO_COPIES)
    check_disjoint(parts.groups, {"train": parts.train, "validation": parts.validation, "test": parts.test})
    assert len(parts.train) + len(parts.validation) + len(parts.test) == 400
    assert len(parts.notes) == 2


def test_the_publishers_test_is_whole_and_the_training_twin_is_dropped():
    labels = np.arange(200) % 2
    groups = np.array([f"p{i}" for i in range(200)])
    given_parts = np.array(["train"] * 160 + ["test"] * 40)
    parts = split(labels, groups, given_parts, np.ones(200, bool), copies((3, 170), (5, 6)))
    assert np.array_equal(parts.test, np.arange(160, 200))
    assert 3 not in np.concatenate([parts.train, parts.validation])
    assert any(note.startswith("1 training or validation images were dropped") for note in parts.notes)
    assert parts.groups[5] == parts.groups[6]


def test_a_missing_test_is_carved_though_validation_images_share_patients():
    """As in Kermany's own folder when `test` is missing: 16 validation images of children also in training."""
    labels = np.arange(400) % 2
    groups = np.array([f"{i % 2}-{i // 4}" for i in range(400)])
    given_parts = np.array(["train"] * 400, dtype="<U10")
    given_parts[:400:25] = "validation"
    assert split(labels, groups, given_parts, np.ones(400, bool), NO_COPIES).test.size > 40
    given_parts[1::3] = "validation"  # enough of them to stay, with patients on the other side
    parts = split(labels, groups, given_parts, np.ones(400, bool), NO_COPIES)
    assert len(parts.validation) > 0
    assert any("dropped" in note for note in parts.notes)


def test_a_test_part_without_a_class_is_refused():
    labels = np.arange(200) % 2
    given_parts = np.where((np.arange(200) >= 150) & (labels == 0), "test", "train")
    with pytest.raises(BadRequest, match="test part has no readable image of class number 1"):
        split(labels, np.arange(200).astype(str), given_parts, np.ones(200, bool), NO_COPIES)


def test_unreadable_images_are_in_no_part():
    labels = np.arange(200) % 2
    readable = np.ones(200, bool)
    readable[[0, 190]] = False
    parts = split(labels, np.arange(200).astype(str), np.full(200, ""), readable, NO_COPIES)
    everywhere = np.concatenate([parts.train, parts.validation, parts.test])
    assert not {0, 190} & set(everywhere)
    assert "2 files could not be read" in parts.notes[0]


def test_copies_join_groups_transitively():
    united = merge_groups(np.array(["a", "b", "c", "d"]), copies((0, 1), (1, 2)))
    assert united[0] == united[1] == united[2] != united[3]


def test_a_crossing_group_stops():
    with pytest.raises(LeakFound, match="both train and test"):
        check_disjoint(np.array([1, 1]), {"train": np.array([0]), "test": np.array([1])})


def test_too_few_groups_for_a_split_are_reported():
    with pytest.raises(BadRequest, match="groups of images"):
        split(np.array([0, 0, 1, 1]), np.array(list("abcd")), np.full(4, ""), np.ones(4, bool), NO_COPIES)


def test_images_without_a_label_are_in_no_part():
    labels = np.where(np.arange(300) % 3 == 2, UNLABELED, np.arange(300) % 3)
    parts = split(labels, np.arange(300).astype(str), np.full(300, ""), np.ones(300, bool), copies((0, 2), (3, 4)))
    assert sorted(np.concatenate([parts.train, parts.validation, parts.test])) == np.flatnonzero(labels >= 0).tolist()
    assert "100 images have no label and are in no part." in parts.notes
    assert "1 pairs of copies bear different labels: one of each pair must be wrong." in parts.notes


def test_copies_to_leave_out_are_the_later_ones_of_a_class_and_all_across_classes():
    labels, unknown = np.array([0, 0, 0, 1, 1, 1, 0]), np.full(7, "")
    within, twins, across = redundant_copies(labels, copies((0, 1), (1, 2), (3, 6)), unknown)
    assert (within.tolist(), twins.tolist(), across.tolist()) == ([1, 2], [], [3, 6])
    assert [len(rows) for rows in redundant_copies(labels, NO_COPIES, unknown)] == [0, 0, 0]


def test_of_copies_in_two_parts_the_test_image_stays_and_the_training_twin_goes():
    parts = np.array(["train", "train", "validation", "test", "test", "train", "validation", "train"])
    pairs = copies((0, 3), (3, 4), (2, 4), (5, 6), (1, 7))
    within, twins, across = redundant_copies(np.zeros(8, int), pairs, parts)
    assert twins.tolist() == [0, 2], "copies of test images"
    assert within.tolist() == [4, 5, 7], "a second test image, a copy of a validation image, a second training image"
    assert not len(across)
