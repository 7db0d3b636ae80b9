"""The most common layout: folders named after classes, optionally within folders for the parts of a split."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
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
}  # label -> names of its folder in published data sets, its own name first


def normalized_name(name: str) -> str:
    """Normalize a name: lower case, without hyphens, underscores and spaces."""
    return name.casefold().replace("-", "").replace("_", "").replace(" ", "")


def subfolders(folder: Path) -> list[Path]:
    """Return the visible direct subfolders, sorted; links are not followed."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.is_symlink() and path.name[0] not in "._"
    )


def image_files(folder: Path) -> Iterator[Path]:
    """Yield the image files below a folder, sorted; DICOM files without suffix are recognized by content.

    Links, hidden files and `masks` folders are skipped.
    """
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if name[0] != "." and normalized_name(name) != "masks")
        for name in sorted(files):
            path = Path(parent, name)
            if name[0] != "." and not path.is_symlink() and _is_image(path):
                yield path


def list_named_images(
    root: Path, rows: Iterable[tuple[str, object, str, str]], table: Path, labels: tuple[str, ...] = ()
) -> Listing:
    """List the images that a table names; rows without a file and files without a row are left out.

    Args:
        root: the data set's folder.
        rows: (file name without suffix, label, group, part).
        table: path of the table.
        labels: names of the classes.
    Raises:
        DataUnavailable: if no image is there.
    """
    files = {path.stem: path.relative_to(root).as_posix() for path in image_files(root)}
    listed = [(files[name], label, group, part) for name, label, group, part in rows if name in files]
    return listing_of_files(root, listed, labels, table.name)


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
    """Return (part of the split, folder) for every folder named after a part, or `("", root)` if there is none."""
    part_folders = [
        (part, path)
        for path in subfolders(root)
        for part, names in PART_FOLDERS.items()
        if normalized_name(path.name) in names
    ]
    return part_folders or [("", root)]


def list_class_folders(
    root: Path,
    names: Iterable[str] = (),
    group_of: Callable[[str, str, str], str] | None = None,
    allow_missing: bool = False,
) -> Listing:
    """List the images in `[train|val|test /] class / ... / image`.

    Args:
        root: the data set's folder.
        names: labels in the order of the class indices; their folders may have the names in `ALIASES`. By default every
            folder is a class; folders that are aliases of one label form one class unless a part has both.
        group_of: (part, label, file name without suffix) -> group. By default every image is its own group.
        allow_missing: leave out classes without images, so that class indices count only the classes present.
    Returns:
        the listing; ids are paths relative to `root`.
    Raises:
        DataUnavailable: if a class has no folder, there are fewer than two classes, or a class has no image.
    """
    # Find the classes.
    parts = find_parts(root)
    classes = {name: ALIASES.get(name, (name,)) for name in names} or _classes_found(parts)
    if not classes:
        raise DataUnavailable(
            f"{root.name!r} contains no folders. Lay it out as CLASS/image.png, with one folder per class."
        )
    # List the images of each class folder.
    rows: list[tuple[str, str, str, str]] = []
    for part, folder in parts:
        label_of = _labels_of(subfolders(folder), classes)
        for class_folder, label in sorted(label_of.items()):
            for path in image_files(class_folder):
                name = path.relative_to(root).as_posix()
                rows.append((name, label, group_of(part, label, path.stem) if group_of else name, part))
    # Check that there are classes to tell apart and that each has images.
    present = {row[1] for row in rows}
    labels = tuple(label for label in classes if label in present or not allow_missing)
    if len(labels) < 2:
        raise DataUnavailable(
            f"Expected at least two folders named after classes in {root.name!r}, but found {len(labels)}. "
            "Lay it out as CLASS/image.png, or train/CLASS/image.png and test/CLASS/image.png."
        )
    for label in labels:
        if label not in present:
            raise DataUnavailable(
                f"Found no image of class {label!r} in {root.name!r}. "
                f"Expected a folder named {' or '.join(classes[label])} with {KINDS} images in it."
            )
    return listing_of_files(
        root, [(name, labels.index(label), group, part) for name, label, group, part in rows], labels
    )


def _labels_of(folders: list[Path], classes: Mapping[str, tuple[str, ...]]) -> dict[Path, str]:
    """Return the class of each folder: the class of that name, else the class that has it as an alias."""
    by_name = {normalized_name(aliases[0]): label for label, aliases in classes.items()}
    by_alias = {normalized_name(alias): label for label, aliases in classes.items() for alias in aliases[1:]}
    label_of = {folder: (by_alias | by_name).get(normalized_name(folder.name)) for folder in folders}
    return {folder: label for folder, label in label_of.items() if label}


def _classes_found(parts: list[tuple[str, Path]]) -> dict[str, tuple[str, ...]]:
    per_part = [{normalized_name(path.name): path.name for path in subfolders(folder)} for _, folder in parts]
    folder_names = {key: names[key] for names in reversed(per_part) for key in names}
    classes: dict[str, tuple[str, ...]] = {name: (name,) for _, name in sorted(folder_names.items())}
    for label, aliases in ALIASES.items():
        family = {normalized_name(alias) for alias in aliases} & {normalized_name(name) for name in classes}
        if len(family) > 1 and all(len(family & set(names)) <= 1 for names in per_part):
            classes = {name: value for name, value in classes.items() if normalized_name(name) not in family}
            classes[label] = aliases
    return dict(sorted(classes.items(), key=lambda row: row[0].casefold()))
