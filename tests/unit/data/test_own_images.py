"""Images brought in the browser: what is stored, what is refused and leaves nothing behind, and what is deleted."""

import errno
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from core.data import own_images
from core.data.datasets.custom import custom_dataset
from core.data.image_cache import open_bank
from core.data.own_images import LEAST_IMAGES
from core.data.specs import list_images
from core.errors import BadRequest, DataUnavailable
from core.files import remove_unfinished
from core.paths import written_folders
from tests import PATIENCE
from tests.conftest import as_rows
from tests.uploaded_files import class_files, image, packed

N = LEAST_IMAGES


@pytest.fixture(autouse=True)
def data_root(tmp_path, monkeypatch):
    """An empty data root; tests check what is left in it."""
    monkeypatch.setenv("LOWSHOT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def stored(files, owner="a", title="Mine"):
    return own_images.store(owner, title, own_images.zip_entries("mine.zip", packed(files)))


def left(data_root):
    return [path for path in data_root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("above", ["", "mine/", "all/mine/"])
def test_a_zip_becomes_a_folder_of_class_folders(above):
    own, refused = stored(class_files({"ill": N, "well": N}, above))
    listing = list_images(custom_dataset(own.path))
    assert (listing.class_names, len(listing), refused) == (("ill", "well"), 2 * N, {})
    assert own_images.sets_of("a") == [own]
    assert own_images.sets_of("b") == own_images.sets_of("") == []
    assert [other.path for other in own_images.sets_of_others("b")] == [own.path]
    assert own.name == custom_dataset(own.path).name


def test_uploads_that_end_at_the_same_moment_get_names_of_their_own(monkeypatch):
    free_name = own_images._free_name

    def slowly(folder, *name):
        found = free_name(folder, *name)
        time.sleep(0.2 if name == ("Mine",) else 0)
        return found

    monkeypatch.setattr(own_images, "_free_name", slowly)
    with ThreadPoolExecutor(3) as pool:
        sets = list(pool.map(lambda _: stored(class_files({"ill": N, "well": N}))[0], range(3)))
    assert len({own.path for own in sets}) == len(own_images.sets_of("a")) == 3


def test_uploads_that_end_at_the_same_moment_do_not_exceed_the_number_of_sets(monkeypatch, data_root):
    monkeypatch.setattr(own_images, "MOST_SETS", 2)
    write, all_written = own_images._write, Barrier(3)

    def together(*arguments):
        refused = write(*arguments)
        all_written.wait(PATIENCE)
        return refused

    monkeypatch.setattr(own_images, "_write", together)
    with ThreadPoolExecutor(3) as pool:
        ends = [pool.submit(stored, class_files({"ill": N, "well": N})) for _ in range(3)]
    refused = [str(end.exception()) for end in ends if end.exception()]
    assert refused == ["You have stored 2 sets of images. Delete one first."]
    assert {path.parent.parent for path in left(data_root) if path.suffix == ".png"} == {
        own.path for own in own_images.sets_of("a")
    }
    assert len(own_images.sets_of("a")) == 2


def test_parts_of_a_split_are_kept_and_rubbish_is_left_out_by_name():
    files = class_files({"ill": N, "well": N}, "set/train/") | class_files({"ill": 3, "well": 3}, "set/test/")
    files |= {
        "__MACOSX/set/train/ill/._0.png": b"x", "set/train/ill/.hidden.png": image(0), "set/train/ill/notes.txt": b"x",
        "set/train/ill/fake.png": b"text", "set/train/ill/page.png": b"<html>", "set/train/masks/ill/0.png": image(1),
        "set/readme.md": b"x", "set/train/ill/inner.zip": packed({"0.png": image(2)}),
    }  # fmt: skip
    own, refused = stored(files)
    listing = list_images(custom_dataset(own.path))
    assert dict(zip(*np.unique(listing.parts, return_counts=True), strict=True)) == {"train": 2 * N, "test": 6}
    assert set(refused) == {
        "set/train/ill/notes.txt", "set/train/ill/fake.png", "set/train/ill/page.png", "set/train/masks/ill/0.png",
        "set/readme.md", "set/train/ill/inner.zip",
    }  # fmt: skip
    assert "archive inside an archive" in refused["set/train/ill/inner.zip"]
    assert "can contain programs" in refused["set/train/ill/page.png"]


def test_names_never_lead_elsewhere_and_always_end_in_what_the_content_is(data_root):
    files = {f"../../{label}/../{label}/..\\{i}": image(i + 50 * n) for n, label in enumerate("xy") for i in range(N)}
    own, _ = stored(files, title="../../etc")
    assert own.path.parent == data_root / "own-images" / "a"
    assert all(path.is_relative_to(own.path) for path in left(data_root))
    listing = list_images(custom_dataset(own.path))
    assert (listing.class_names, len(listing)) == (("x", "y"), 2 * N)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (lambda: class_files({"only": N}), "only one, 'only'"),
        (lambda: class_files({"ill": 1, "well": 1}), "at least 13 images"),
        (lambda: {f"c{i % 2}/{i}.png": b"x" for i in range(10_000)}, "at most 5500 are read"),
        (lambda: {f"{label}/{i}.txt": b"text" for label in "ab" for i in range(N)}, "at least two classes"),
        (lambda: {"inner.zip": packed(class_files({"ill": N, "well": N}))}, "at least two classes"),
        (lambda: {f"{i}.png": image(i) for i in range(N)}, "at least two classes"),
        (lambda: class_files({"train": N, "test": N}), "the name of a part"),
        (lambda: class_files({"ill": N, "well": N}) | {"patients.csv": b"a,b\n1,2\n"}, "no column for the files"),
    ],
)
def test_what_cannot_be_used_ends_in_a_sentence_and_leaves_nothing(files, words, data_root):
    with pytest.raises((BadRequest, DataUnavailable), match=words):
        stored(files())
    assert left(data_root) == []
    assert own_images.sets_of("a") == []


def test_a_full_disk_ends_in_a_sentence_and_leaves_nothing(data_root, monkeypatch):
    written, write = [], Path.write_bytes

    def put(path, content):
        if len(written) == N:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(write(path, content))

    monkeypatch.setattr(Path, "write_bytes", put)
    with pytest.raises(BadRequest, match=r"No space left on device\. Nothing was kept"):
        stored(class_files({"ill": N, "well": N}))
    assert len(written) == N
    assert left(data_root) == []


def test_a_visit_that_ends_while_images_are_stored_leaves_nothing(data_root, monkeypatch):
    class Stopped(BaseException):
        """As Streamlit stops a script."""

    def put(path, content):
        raise Stopped

    files = class_files({"ill": N, "well": N})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", put)
        with pytest.raises(Stopped):
            stored(files)
    assert left(data_root) == []
    killed = data_root / "own-images" / "a" / ".x.partial"
    (killed / "ill").mkdir(parents=True)
    (killed / "ill" / "0.png").write_bytes(image(0))
    remove_unfinished(written_folders())
    assert left(data_root) == []


def test_images_are_left_out_brought_back_and_moved_to_another_class():
    own, _ = stored(class_files({"ill": N, "well": N}))
    own_images.leave_out(own, ["ill/0.png", "ill/1.png"])
    assert own.left_out == ["ill/0.png", "ill/1.png"]
    assert len(list_images(custom_dataset(own.path))) == 2 * N - 2
    own_images.relabel(own, "ill/2.png", "well")
    rows = as_rows(list_images(custom_dataset(own.path)))
    assert rows["well/2 (2).png"][0] == 1
    own_images.bring_back(own)
    assert own.left_out == []
    with pytest.raises(BadRequest, match="would be left"):
        own_images.leave_out(own, [name for name in rows if name.startswith("ill")] + ["ill/0.png", "ill/1.png"])
    for bad in ("../../x.png", "ill/none.png"):
        with pytest.raises(BadRequest):
            own_images.leave_out(own, [bad])
    for name, label in (("ill/3.png", "nothing"), ("ill/3.png", ".."), ("ill/3.png", ".left-out")):
        with pytest.raises(BadRequest, match="no class"):
            own_images.relabel(own, name, label)


def test_a_table_names_patients_and_a_bad_one_keeps_the_former():
    files = class_files({"ill": N, "well": N})
    own, _ = stored(files | {"patients.csv": b"file,patient\nill/0.png,p1\nwell/0.png,p1\n1.png,p2\n"})
    rows = as_rows(list_images(custom_dataset(own.path)))
    assert (rows["ill/0.png"][1], rows["well/0.png"][1], rows["ill/1.png"][1]) == ("p1", "p1", "p2")
    assert rows["ill/2.png"][1] == "ill/2.png"
    own_images.add_patients(own, b"file,patient\nill/2.png,p9\n")
    assert as_rows(list_images(custom_dataset(own.path)))["ill/2.png"][1] == "p9"
    for bad in (b"file\nx\n", b"", b"file,patient\n", b"file,patient\na,1\na,2\n"):
        with pytest.raises(DataUnavailable):
            own_images.add_patients(own, bad)
    assert as_rows(list_images(custom_dataset(own.path)))["ill/2.png"][1] == "p9"


def test_deletion_takes_the_decoded_copies_too_and_no_others(data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWSHOT_CACHE", str(tmp_path / "cache"))
    own, _ = stored(class_files({"ill": N, "well": N}))
    other, _ = stored(class_files({"c": N, "ill": N}, start=1), owner="b")
    for one in (own, other):
        open_bank(list_images(custom_dataset(one.path)), 16, 1)
    own_images.leave_out(own, ["ill/0.png"])
    open_bank(list_images(custom_dataset(own.path)), 16, 1)
    assert len(list((tmp_path / "cache" / "banks").glob("*/facts.json"))) == 3
    monkeypatch.setattr(time, "time", lambda: own.until + 1)
    assert {one.path for one in own_images.expired_sets()} == {own.path, other.path}
    assert own_images.sets_of("a") == []
    own_images.delete(own)
    assert len(list((tmp_path / "cache" / "banks").glob("*/facts.json"))) == 1
    assert [path for path in left(data_root) if "/a/" in str(path)] == []
    assert other.path.is_dir()
