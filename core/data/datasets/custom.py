"""The user's own images as a data set: a folder of class folders, or a table of paths, labels and patients."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.data.datasets.folders import ALIASES, PART_FOLDERS, list_class_folders, normalized_name
from core.data.label_tables import check_files, check_unique, checked_paths, read_table, refuse_rows, row_location
from core.data.listing import Listing, listing_of_files
from core.data.specs import OWN, DatasetSpec
from core.errors import DataUnavailable
from core.files import sha256_of

if TYPE_CHECKING:
    import pandas as pd

PATHS = ("path", "image", "file", "filename", "image path")
LABELS = ("label", "labels", "class", "finding", "findings", "finding labels", "diagnosis", "target")
PATIENTS_FILE = "patients.csv"
PATIENTS = ("patient", "patient id", "subject", "subject id", "lesion id", "group")
ABOUT_PATIENTS = ("sex", "gender", "age", "smoker", "index", "unnamed: 0")
PARTS = ("split", "part", "set", "fold")
JOINED = "|"
_LONGEST = 40
_HEALTHY = {
    normalized_name(name) for name in (*ALIASES["Normal"], "no finding", "benign", "negative", "well", "control")
}
NO_FINDING = ("", "no finding", "none", "normal")
_VALUES = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0, "": np.nan}


def custom_dataset(path: Path) -> DatasetSpec:
    """Return the row of a user's folder or CSV table.

    Args:
        path: a folder of class folders, optionally within train, val and test, and with a table `patients.csv` of the
            columns file and patient; or a CSV file with a column of paths
            relative to it and either a column of labels (several joined by `|`) or one column per finding with 1, 0 or
            an empty cell (unknown). Columns of patients and of parts are optional.
    Raises:
        DataUnavailable: if the path does not exist, or is laid out otherwise.
    """
    path = path.expanduser().resolve()
    if path.is_file():
        return _row(path, partial(load_table, table=path), load_table(path.parent, path))
    if path.is_dir():
        return _row(path, load_folder, load_folder(path))
    raise DataUnavailable(
        f"There is nothing at {path}. Give a folder with one folder per class, or a CSV file of paths and labels."
    )


def _row(path: Path, load: Callable[..., Listing], listing: Listing) -> DatasetSpec:
    labels = listing.class_names
    multilabel = listing.labels.ndim == 2
    binary = not multilabel and len(labels) == 2
    has_patients = bool((listing.groups != listing.ids).any())
    caveat = "Patients are not identified: only copies of an image are kept together."
    return DatasetSpec(
        name=dataset_name(path),
        title=f"Own {'table' if path.is_file() else 'folder'}: {path.name} ({_suffix(path)})",
        modality="own images",
        task="multilabel" if multilabel else "binary" if binary else "multiclass",
        labels=labels,
        positive=(0 if normalized_name(labels[1]) in _HEALTHY else 1) if binary else None,
        load=load,
        folders=(path.name,),
        path=path.parent if path.is_file() else path,
        group_key="patient, from the table" if has_patients else "image",
        channels=3,
        caveats=() if has_patients else (caveat,),
    )


def dataset_name(path: Path) -> str:
    """Return the name of the data set of a user's folder or table, which need not exist."""
    stem = re.sub("[^a-z0-9]+", "-", normalized_name(path.stem))[:_LONGEST].strip("-")
    return f"{OWN}{stem or 'images'}-{_suffix(path)}"


def _suffix(path: Path) -> str:
    return sha256_of([str(path)])[:6]


def load_folder(folder: Path) -> Listing:
    """List a folder of class folders, grouped by patient if it has a table `patients.csv`.

    Raises:
        DataUnavailable: if the folder is laid out otherwise, or the table names none of its images.
    """
    listing = list_class_folders(folder)
    table = folder / PATIENTS_FILE
    if not table.is_file():
        return listing
    patient_of = read_patients(table)
    groups = [
        next((patient_of[key] for key in (name, Path(name).name, Path(name).stem) if key in patient_of), name)
        for name in listing.ids.tolist()
    ]
    if groups == listing.ids.tolist():
        raise DataUnavailable(f"None of the files in {table.name} is an image of {folder.name!r}. Correct the names.")
    return replace(listing, groups=np.array(groups), stamp=sha256_of([listing.stamp, table.read_bytes()]))


def read_patients(table: Path) -> dict[str, str]:
    """Return the patient of each file of a table with the columns file and patient; empty cells are left out.

    Raises:
        DataUnavailable: if a column is missing, or a file has two patients.
    """
    rows = read_table(table, ())
    columns = {normalized_name(name): name for name in rows.columns}
    files = rows[_column(columns, PATHS, table, "the files")]
    patients = rows[_column(columns, PATIENTS, table, "the patients")]
    patient_of: dict[str, str] = {}
    for row, (file, patient) in enumerate(zip(files.str.strip(), patients.str.strip(), strict=True)):
        if file and patient and patient_of.setdefault(file, patient) != patient:
            raise DataUnavailable(f"{row_location(table, row)}: {file!r} has another patient in an earlier row.")
    return patient_of


def load_table(folder: Path, table: Path) -> Listing:
    """Read a CSV table of images; paths are relative to its folder.

    Raises:
        DataUnavailable: naming the invalid row.
    """
    # Check the paths.
    rows = read_table(table, ())
    columns = {normalized_name(name): name for name in rows.columns}
    path_column = _column(columns, PATHS, table, "the paths of the images")
    if rows.empty:
        raise DataUnavailable(f"{table.name} has a header only. Add one row per image.")
    names = checked_paths(folder, rows[path_column], table)
    check_unique(names, table)
    check_files(folder, names, table)
    # Read patients and parts if the table has them, then the labels.
    patients = rows[column].where(rows[column] != "", names) if (column := _known(columns, PATIENTS)) else names
    parts = _parts(rows[column], table) if (column := _known(columns, PARTS)) else [""] * len(rows)
    if column := _known(columns, LABELS):
        labels, class_names = _from_cells(rows[column], table)
    elif findings := _findings(rows, columns, table):
        labels, class_names = rows[findings].replace(_VALUES).to_numpy(np.float32), tuple(findings)
    else:
        _column(columns, LABELS, table, "the labels")
    if len(class_names) < 2 and labels.ndim == 1:
        raise DataUnavailable(f"{table.name} has one class only, {class_names[0]!r}; at least two are needed.")
    return listing_of_files(
        folder, list(zip(names.tolist(), labels, patients.tolist(), parts, strict=True)), class_names
    )


def _known(columns: dict[str, str], wanted: tuple[str, ...]) -> str | None:
    """Return the column that has one of the wanted names."""
    return next((columns[name] for name in map(normalized_name, wanted) if name in columns), None)


def _column(columns: dict[str, str], wanted: tuple[str, ...], table: Path, content: str) -> str:
    if column := _known(columns, wanted):
        return column
    raise DataUnavailable(
        f"{table.name} has no column for {content} among its {len(columns)}. Name one of them {', '.join(wanted[:3])}."
    )


def _findings(rows: pd.DataFrame, columns: dict[str, str], table: Path) -> list[str]:
    """Return the columns of 0, 1 and empty cells; a column with mostly such values must have no others."""
    not_findings = {normalized_name(name) for name in (*PATHS, *PATIENTS, *PARTS, *ABOUT_PATIENTS)}
    findings = []
    for key, name in columns.items():
        cells = rows[name]
        is_label = cells.isin(_VALUES)
        if key in not_findings or (cells == "").all() or is_label.mean() < 0.5:
            continue
        refuse_rows(cells, ~is_label, table, partial("{} is {!r}; expected 1, 0 or empty.".format, name))
        findings.append(name)
    return findings


def _from_cells(cells: pd.Series, table: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    split = [[part.strip() for part in cell.split(JOINED)] for cell in cells.tolist()]
    spelling_of: dict[str, str] = {}
    for part in sorted({part for parts in split for part in parts}):
        spelling_of.setdefault(part.casefold(), part)
    if not any(len(parts) > 1 for parts in split):
        refuse_rows(cells, cells.str.strip() == "", table, lambda _: "there is no label. Add one, or remove the row.")
        classes = sorted(spelling_of)
        labels = np.array([classes.index(parts[0].casefold()) for parts in split])
        return labels, tuple(spelling_of[key] for key in classes)
    findings = sorted(key for key in spelling_of if key not in NO_FINDING)
    present = [{part.casefold() for part in parts} for parts in split]
    labels = np.array([[float(key in parts) for key in findings] for parts in present], np.float32)
    return labels, tuple(spelling_of[key] for key in findings)


def _parts(cells: pd.Series, table: Path) -> list[str]:
    part_of = {alias: part for part, aliases in PART_FOLDERS.items() for alias in aliases} | {"": ""}
    parts = cells.map(normalized_name).map(part_of)
    refuse_rows(cells, parts.isna(), table, "{!r} is not a part of a split; expected train, val or test.".format)
    return parts.tolist()
