"""Images that users upload in the browser: folders of class folders below `own-images` in the first data root.

Each owner, a login or a browser, has a folder, and each set of images has a folder in it. A set is stored completely
or not at all. Images that the owner leaves out move to a hidden folder in the set and can be restored. Nothing here
decodes an image. The content of a file determines its type, and no uploaded name is used as a path.
"""

import json
import os
import re
import secrets
import shutil
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from core.data.datasets.custom import PATIENTS_FILE, dataset_name, read_patients
from core.data.datasets.folders import PART_FOLDERS, normalized_name, subfolders
from core.data.dicom import is_dicom
from core.data.image_cache import delete_banks_of
from core.data.images import KINDS, SUFFIXES
from core.data.uploads import Upload, is_skipped, members, problem_of
from core.errors import BadRequest, DataUnavailable, UnreadableImage
from core.files import locked, sha256_of, sha256_of_file, staging_folder, write_atomically
from core.paths import LIMITS, MIB, own_images_folder

DAYS = 7  # for which images are kept
LEAST_IMAGES = 13  # per class: a fifth is set apart for testing, then a tenth for validation
MOST_SETS = 10  # per owner
SET_LIMITS = replace(
    LIMITS, file_bytes=256 * MIB, images=5000, entries=5500, directory_bytes=2 * MIB, unpacked_bytes=1024 * MIB
)
LEAST_FREE = 300 * MIB  # bytes that stay free on the disk for other programs
_LEFT_OUT, _RECORD = ".left-out", ".set.json"
_LONGEST = 80
_NESTED = "An archive inside an archive is not opened."
_KINDS = ((b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"BM", ".bmp"))
Entry = tuple[str, Callable[[], Upload]]  # path as the upload states it, and its reader


@dataclass(frozen=True)
class OwnSet:
    """A set of images: uploaded, or in a folder on the server.

    Attributes:
        path: its folder or table.
        title: name that its owner gave it.
        made: when it was stored, in seconds since 1970.
    """

    path: Path
    title: str
    made: float

    @property
    def name(self) -> str:
        """Name of the data set, in the run store too."""
        return dataset_name(self.path)

    @property
    def is_uploaded(self) -> bool:
        """Whether its owner uploaded it and may change it; a folder on the server stays as it is."""
        return is_inside(self.path)

    @property
    def until(self) -> float:
        """When it is deleted, in seconds since 1970."""
        return self.made + DAYS * 86400

    @property
    def left_out(self) -> list[str]:
        """Names of the images that its owner left out."""
        folder = self.path / _LEFT_OUT
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def is_inside(path: Path) -> bool:
    """Return whether a path lies in the folder of all owners, which typed paths may not reach."""
    return own_images_folder() in (path, *path.parents)


def on_server(path: Path) -> OwnSet:
    """Return a folder or table on the server as a set."""
    return OwnSet(path, path.name, path.stat().st_mtime)


def sets_of(owner: str) -> list[OwnSet]:
    """Return the sets of an owner, newest first, without expired ones."""
    stored = [own for own in _sets_in(own_images_folder() / owner) if own.until > time.time()] if owner else []
    return sorted(stored, key=lambda own: -own.made)


def sets_of_others(owner: str) -> list[OwnSet]:
    """Return the sets of all other owners."""
    return [own for folder in _owners() if folder.name != owner for own in _sets_in(folder)]


def expired_sets() -> list[OwnSet]:
    """Return the expired sets of all owners."""
    return [own for folder in _owners() for own in _sets_in(folder) if own.until <= time.time()]


def _owners() -> list[Path]:
    return subfolders(own_images_folder()) if own_images_folder().is_dir() else []


def _sets_in(folder: Path) -> Iterator[OwnSet]:
    for path in subfolders(folder) if folder.is_dir() else ():
        try:
            record = json.loads((path / _RECORD).read_text())
            yield OwnSet(path, str(record["title"]), float(record["made"]))
        except (OSError, ValueError, KeyError, TypeError):
            yield OwnSet(path, path.name, path.stat().st_mtime)


def zip_entries(name: str, content: bytes) -> list[Entry]:
    """Return the files of an uploaded archive.

    Raises:
        BadRequest: if the archive as a whole is refused.
    """
    try:
        return list(members(name, content, SET_LIMITS))
    except UnreadableImage as error:
        raise BadRequest(str(error)) from None


def file_entries(files: Iterable[tuple[str, bytes]]) -> list[Entry]:
    """Return uploaded files, by their paths, as entries."""
    return [
        (name, partial(Upload, name, content, problem_of(content))) for name, content in files if not is_skipped(name)
    ]


def store(owner: str, title: str, entries: list[Entry]) -> tuple[OwnSet, dict[str, str]]:
    """Store uploaded images as a set.

    Args:
        owner: name of the owner's folder.
        title: name of the set.
        entries: files whose paths end in `class/file`, optionally below folders that all files share and a folder
            train, val or test; a `patients.csv` among them is stored with the images.
    Returns:
        the set, and path -> why the file was left out, in a sentence.
    Raises:
        BadRequest: if the files are not images of at least two classes, too few or too many, or cannot be stored.
            Nothing is kept then.
    """
    if len(entries) > SET_LIMITS.entries:
        raise BadRequest(
            f"There are {len(entries):,} files; at most {SET_LIMITS.entries:,} are stored at once. Upload fewer."
        )
    _refuse_above_limit(owner)
    folder = own_images_folder() / owner
    try:
        with staging_folder(folder / secrets.token_hex(8)) as staging:
            refused = _write(staging, entries)
            made = time.time()
            write_atomically(staging / _RECORD, json.dumps({"title": title, "made": made}).encode())
            with locked(folder / "names"):  # another upload of the same owner may finish at the same time
                _refuse_above_limit(owner)
                path = _free_name(folder, _safe(title, "images"))
                os.replace(staging, path)
            return OwnSet(path, title, made), refused
    except OSError as error:
        raise BadRequest(
            f"The images could not be stored: {error.strerror or error}. Nothing was kept. Ask your administrator to "
            "free some space and to make the first folder of LOWSHOT_DATA writable, then upload them again."
        ) from None


def _refuse_above_limit(owner: str) -> None:
    """Raise BadRequest if the owner has as many sets as may be stored."""
    if len(sets_of(owner)) >= MOST_SETS:
        raise BadRequest(f"You have stored {MOST_SETS} sets of images. Delete one first.")


def _write(staging: Path, entries: list[Entry]) -> dict[str, str]:
    """Write the images of an upload into class folders, and return the files that were left out, with the reason."""
    places, refused = _places([path for path, _ in entries])
    counts: Counter[str] = Counter()
    held_bytes = 0
    for path, read in entries:
        if PurePosixPath(path).name.lower() == PATIENTS_FILE:
            (staging / PATIENTS_FILE).write_bytes(read().content)
            read_patients(staging / PATIENTS_FILE)
            continue
        if path not in places:
            continue
        upload = read()
        suffix = _suffix_of(upload.content)
        if upload.problem or not suffix:
            refused[path] = upload.problem or f"This is not a {KINDS} image."
            continue
        held_bytes += len(upload.content)
        if held_bytes > SET_LIMITS.unpacked_bytes:
            raise BadRequest(f"The images exceed {SET_LIMITS.unpacked_bytes // MIB} MB. Reduce their size or number.")
        if shutil.disk_usage(staging).free - len(upload.content) < LEAST_FREE:
            raise BadRequest("The server's disk is nearly full, so nothing was stored. Ask your administrator.")
        *folders, name = places[path]
        class_folder = staging.joinpath(*folders)
        class_folder.mkdir(parents=True, exist_ok=True)
        stem, _, stated = name.rpartition(".")
        is_stated = stem and f".{stated.lower()}" in SUFFIXES
        file = (stem, f".{stated}") if is_stated else (name, suffix)
        _free_name(class_folder, *file).write_bytes(upload.content)
        counts[folders[-1]] += 1
        if sum(counts.values()) > SET_LIMITS.images:
            raise BadRequest(f"There are more than {SET_LIMITS.images:,} images. Upload fewer.")
    _check_classes(counts, refused)
    return refused


def _check_classes(counts: Counter[str], refused: dict[str, str]) -> None:
    """Raise BadRequest unless there are at least two classes of enough images."""
    if len(counts) < 2:
        classes = f"only one, {next(iter(counts))!r}" if counts else "none"
        example = next(iter(refused.items()), None)
        why = f" For example, {example[0]!r} was left out: {example[1]}" if example else ""
        raise BadRequest(
            f"Expected images of at least two classes, each in a folder of its name, but found {classes}. Put the "
            f"images of each class into a folder of their own. Nothing was kept.{why}"
        )
    if parts := [label for label in counts if _is_part(label)]:
        raise BadRequest(f"A class cannot be called {parts[0]!r}, the name of a part of a split. Rename it.")
    short = {label: count for label, count in counts.items() if count < LEAST_IMAGES}
    if short:
        listed = ", ".join(f"{label!r} has {count}" for label, count in sorted(short.items()))
        raise BadRequest(
            f"A class needs at least {LEAST_IMAGES} images, as some are set apart for testing, but {listed}. Add "
            "images to these classes or leave the classes out. Nothing was kept."
        )


def _places(paths: list[str]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return path -> ([part], class, file name), and path -> why the file cannot be placed.

    Folders that all files share are dropped, and folders below a class folder are too.
    """
    split = {}
    for path in paths:
        steps = [step for step in path.replace("\\", "/").split("/") if step not in ("", ".", "..")]
        if steps and steps[-1].lower() != PATIENTS_FILE and not any(step.startswith(".") for step in steps):
            split[path] = steps
    while len({steps[0] for steps in split.values() if len(steps) > 1}) == 1 and any(map(_is_deep, split.values())):
        split = {path: steps[1:] if len(steps) > 1 else steps for path, steps in split.items()}
    has_parts = any(_is_deep(steps) and _is_part(steps[0]) for steps in split.values())
    places, refused = {}, {}
    spelling_of: dict[str, str] = {}  # folders whose names differ in case, hyphens or spaces only are one class
    for path, steps in split.items():
        if len(steps) < 2 + has_parts or (has_parts and not _is_part(steps[0])):
            nested = steps[-1].lower().endswith(".zip")
            refused[path] = _NESTED if nested else "The file is not in the folder of a class."
        elif any(normalized_name(step) == "masks" for step in steps[:-1]):
            refused[path] = "Masks are not used."
        else:
            folders = [_safe(folder, "class") for folder in steps[: 1 + has_parts]]
            folders = [spelling_of.setdefault(normalized_name(folder), folder) for folder in folders]
            places[path] = (*folders, _safe(steps[-1], "image"))
    return places, refused


def _is_deep(steps: list[str]) -> bool:
    """Return whether a file lies below more than one folder."""
    return len(steps) > 2


def _is_part(name: str) -> bool:
    return any(normalized_name(name) in names for names in PART_FOLDERS.values())


def _safe(name: str, otherwise: str) -> str:
    """Return a safe name for a file or folder, of letters, digits and a few other characters."""
    kept = re.sub(r"[^\w .()+-]+", "_", unicodedata.normalize("NFC", name)).strip(" ._")
    return kept[-_LONGEST:].strip(" ._") or otherwise


def _free_name(folder: Path, stem: str, suffix: str = "") -> Path:
    """Return the path of a file or folder that does not exist yet; a number makes it unique."""
    path, number = folder / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = folder / f"{stem} ({number}){suffix}"
    return path


def _suffix_of(content: bytes) -> str:
    """Return the suffix that fits a file's content; "" if it is no image."""
    if is_dicom(content):
        return ".dcm"
    return next((suffix for sign, suffix in _KINDS if content.startswith(sign)), "")


def add_patients(own: OwnSet, content: bytes) -> None:
    """Store the table of patients of a set.

    Raises:
        DataUnavailable: if it is not a table with the columns file and patient; the former table is kept then.
        BadRequest: if it cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / PATIENTS_FILE
        table.write_bytes(content)
        if not read_patients(table):
            raise DataUnavailable(f"{PATIENTS_FILE} names no patient. Add a row per image.")
    try:
        write_atomically(own.path / PATIENTS_FILE, content)
    except OSError as error:
        raise BadRequest(f"{PATIENTS_FILE} could not be stored: {error.strerror or error}. Free some space.") from None


def leave_out(own: OwnSet, ids: Iterable[str]) -> None:
    """Move images to the hidden folder of the set; the last image of a class stays.

    Raises:
        BadRequest: if an image is not in the set, or a class would lose all its images.
    """
    names = list(ids)
    left = Counter(path.parent for path in _images(own.path))
    left.subtract((own.path / name).parent for name in names)
    if empty := [folder.name for folder, count in left.items() if count < 1]:
        raise BadRequest(f"No image of {empty[0]!r} would be left. Keep some, or delete the set and upload it again.")
    for name in names:
        _move(own.path, name, f"{_LEFT_OUT}/{name}")


def bring_back(own: OwnSet) -> None:
    """Move the images that were left out back into their classes."""
    for name in own.left_out:
        _move(own.path, f"{_LEFT_OUT}/{name}", name)


def relabel(own: OwnSet, name: str, label: str) -> None:
    """Move an image to another class of its part.

    Args:
        own: the set.
        name: path of the image below the set's folder.
        label: name of the class.
    Raises:
        BadRequest: if there is no such image or class, or the image is the last of its class.
    """
    target = (own.path / name).parent.parent / label
    if not target.is_dir() or target.name.startswith("."):
        raise BadRequest(f"There is no class {label!r}. Choose one of the set's classes.")
    if sum(path.parent == (own.path / name).parent for path in _images(own.path)) < 2:
        raise BadRequest("This is the last image of its class, so it cannot move to another one.")
    file = PurePosixPath(name)
    free = _free_name(target, file.stem, file.suffix)
    _move(own.path, name, free.relative_to(own.path).as_posix())


def _images(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.is_file() and not file.relative_to(path).parts[0].startswith("."))


def _move(path: Path, name: str, to: str) -> None:
    source, target = path / name, path / to
    if not source.resolve().is_relative_to(path.resolve()) or not source.is_file():
        raise BadRequest(f"There is no image {name!r} in the set. Reload the page.")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, _free_name(target.parent, target.stem, target.suffix))


def delete(own: OwnSet) -> None:
    """Delete a set and the decoded copies of its images in the cache."""
    digests = {sha256_of_file(path) for path in own.path.rglob("*") if path.is_file()}
    delete_banks_of(digests)
    shutil.rmtree(own.path, ignore_errors=True)
    if own.path.exists():
        raise BadRequest("Some images could not be deleted. Ask your administrator to delete them.")
    with suppress(OSError):  # the owner has other sets
        own.path.parent.rmdir()


def owner_name(secret: str) -> str:
    """Return the name of an owner's folder; the secret that opens it cannot be derived from the name."""
    return sha256_of([secret])[:32]
