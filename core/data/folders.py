"""The commonest layout: folders named after classes, with or without folders for the parts of a split above them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from core.data.images import SUFFIXES
from core.data.listing import TEST, TRAIN, VALIDATION, Listing, listing_of_files
from core.errors import DataUnavailable

PART_FOLDERS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("val", "valid", "validation"),
    TEST: ("test", "testing"),
}


def plain(name: str) -> str:
    """A folder's name without case, hyphens, underscores and spaces."""
    return name.casefold().replace("-", "").replace("_", "").replace(" ", "")


def subfolders(folder: Path) -> list[Path]:
    """Visible folders directly below, by name; links are not followed."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] not in "._"
    )


def image_files(folder: Path) -> Iterator[Path]:
    """Image files below a folder, by name. Links, hidden files and `masks` folders are left alone."""
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if name[0] != "." and plain(name) != "masks")
        for name in sorted(files):
            path = Path(parent, name)
            if name[0] != "." and path.suffix.lower() in SUFFIXES and not path.is_symlink():
                yield path


def find_parts(root: Path) -> list[tuple[str, Path]]:
    """(part of the split, folder) for every folder named after a part; `("", root)` where there are none."""
    found = [
        (part, path) for path in subfolders(root) for part, names in PART_FOLDERS.items() if plain(path.name) in names
    ]
    return found or [("", root)]


def list_class_folders(
    root: Path,
    classes: dict[str, tuple[str, ...]] | None = None,
    group_of: Callable[[str, str, str], str] | None = None,
) -> Listing:
    """Reads `[train|val|test /] class / ... / image`.

    Args:
        root: the data set's folder.
        classes: label -> the names its folder may have, in the order of the class indices. Without it every folder is
            a class, by name.
        group_of: (part, label, file name without suffix) -> group. Without it every image is a group of its own.
    Returns:
        the listing; ids are paths relative to `root`.
    Raises:
        DataUnavailable: if a class has no folder, there are fewer than two classes, or a class has no image.
    """
    parts = find_parts(root)
    if classes is None:
        names = sorted({path.name for _, folder in parts for path in subfolders(folder)}, key=str.casefold)
        by_key: dict[str, str] = {}
        for name in names:
            by_key.setdefault(plain(name), name)
        classes = {name: (name,) for name in by_key.values()}
    if len(classes) < 2:
        raise DataUnavailable(
            f"Expected at least two folders named after classes in {root.name!r}, but found {len(classes)}. "
            "Lay it out as CLASS/image.png, or train/CLASS/image.png and test/CLASS/image.png."
        )
    index_of = {plain(alias): index for index, aliases in enumerate(classes.values()) for alias in aliases}
    labels = tuple(classes)
    rows: list[tuple[str, object, str, str]] = []
    for part, folder in parts:
        for class_folder in subfolders(folder):
            index = index_of.get(plain(class_folder.name))
            if index is None:
                continue
            for path in image_files(class_folder):
                name = path.relative_to(root).as_posix()
                group = group_of(part, labels[index], path.stem) if group_of else name
                rows.append((name, index, group, part))
    for index, label in enumerate(labels):
        if not any(row[1] == index for row in rows):
            raise DataUnavailable(
                f"Found no PNG or JPEG image of class {label!r} in {root.name!r}. "
                f"Expected a folder named {' or '.join(classes[label])} with images in it."
            )
    return listing_of_files(root, rows, labels)
