"""The commonest layout: folders named after classes, with or without folders for the parts of a split above them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from core.data.dicom import HEAD, is_dicom
from core.data.images import KINDS, SUFFIXES
from core.data.listing import TEST, TRAIN, VALIDATION, Listing, listing_of_files
from core.errors import DataUnavailable

PART_FOLDERS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("val", "valid", "validation"),
    TEST: ("test", "testing"),
}


ALIASES = {
    "Normal": ("Normal", "Healthy"),
    "COVID": ("COVID", "COVID-19", "COVID19"),
    "Lung_Opacity": ("Lung_Opacity", "Lung_infection"),
    "Pneumonia": ("Pneumonia", "Viral Pneumonia", "Bacterial Pneumonia"),
    "Viral Pneumonia": ("Viral Pneumonia", "Pneumonia"),
    "Pleural Effusion": ("Pleural Effusion", "Effusion"),
}  # label -> the names that publishers give its folder, its own first


def plain(name: str) -> str:
    """A folder's name without case, hyphens, underscores and spaces."""
    return name.casefold().replace("-", "").replace("_", "").replace(" ", "")


def subfolders(folder: Path) -> list[Path]:
    """Visible folders directly below, by name; links are not followed."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] not in "._"
    )


def image_files(folder: Path) -> Iterator[Path]:
    """Image files below a folder, by name; without a suffix that tells, DICOM files are known by their content.

    Links, hidden files and `masks` folders are left alone.
    """
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if name[0] != "." and plain(name) != "masks")
        for name in sorted(files):
            path = Path(parent, name)
            if name[0] != "." and not path.is_symlink() and _is_image(path):
                yield path


def _is_image(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if (suffix and not suffix[1:].isdigit()) or not path.is_file():  # DICOM identifiers end in a dot and digits
        return False
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(HEAD))
    except OSError:
        return False


def find_parts(root: Path) -> list[tuple[str, Path]]:
    """(part of the split, folder) for every folder named after a part; `("", root)` where there are none."""
    found = [
        (part, path) for path in subfolders(root) for part, names in PART_FOLDERS.items() if plain(path.name) in names
    ]
    return found or [("", root)]


def list_class_folders(
    root: Path,
    classes: Mapping[str, tuple[str, ...]] | None = None,
    group_of: Callable[[str, str, str], str] | None = None,
    may_lack: bool = False,
) -> Listing:
    """Reads `[train|val|test /] class / ... / image`.

    Args:
        root: the data set's folder.
        classes: label -> the names its folder may have, in the order of the class indices. Without it every folder is
            a class, by name; names that are aliases of one label are one class where no part holds both.
        group_of: (part, label, file name without suffix) -> group. Without it every image is a group of its own.
        may_lack: a class without a folder is left out, so that the indices are those of the classes that are there.
    Returns:
        the listing; ids are paths relative to `root`.
    Raises:
        DataUnavailable: if a class has no folder, there are fewer than two classes, or a class has no image.
    """
    parts = find_parts(root)
    classes = classes or _classes_found(parts)
    if not classes:
        raise DataUnavailable(
            f"{root.name!r} holds no folders. Lay it out as CLASS/image.png, a folder for each class."
        )
    rows: list[tuple[str, str, str, str]] = []
    for part, folder in parts:
        label_of = _labels_of(subfolders(folder), classes)
        for class_folder, label in sorted(label_of.items()):
            for path in image_files(class_folder):
                name = path.relative_to(root).as_posix()
                rows.append((name, label, group_of(part, label, path.stem) if group_of else name, part))
    there = {row[1] for row in rows}
    labels = tuple(label for label in classes if label in there or not may_lack)
    if len(labels) < 2:
        raise DataUnavailable(
            f"Expected at least two folders named after classes in {root.name!r}, but found {len(labels)}. "
            "Lay it out as CLASS/image.png, or train/CLASS/image.png and test/CLASS/image.png."
        )
    for label in labels:
        if label not in there:
            raise DataUnavailable(
                f"Found no image of class {label!r} in {root.name!r}. "
                f"Expected a folder named {' or '.join(classes[label])} with {KINDS} images in it."
            )
    return listing_of_files(
        root, [(name, labels.index(label), group, part) for name, label, group, part in rows], labels
    )


def _labels_of(folders: list[Path], classes: Mapping[str, tuple[str, ...]]) -> dict[Path, str]:
    """Which class each folder is of: the one whose own name it has, else one of which it is an alias."""
    own = {plain(aliases[0]): label for label, aliases in classes.items()}
    other = {plain(alias): label for label, aliases in classes.items() for alias in aliases[1:]}
    found = {folder: (other | own).get(plain(folder.name)) for folder in folders}
    return {folder: label for folder, label in found.items() if label}


def _classes_found(parts: list[tuple[str, Path]]) -> dict[str, tuple[str, ...]]:
    per_part = [{plain(path.name): path.name for path in subfolders(folder)} for _, folder in parts]
    found = {key: names[key] for names in reversed(per_part) for key in names}
    classes: dict[str, tuple[str, ...]] = {name: (name,) for _, name in sorted(found.items())}
    for label, aliases in ALIASES.items():
        family = {plain(alias) for alias in aliases} & {plain(name) for name in classes}
        if len(family) > 1 and all(len(family & set(names)) <= 1 for names in per_part):
            classes = {name: value for name, value in classes.items() if plain(name) not in family}
            classes[label] = aliases
    return dict(sorted(classes.items(), key=lambda row: row[0].casefold()))
