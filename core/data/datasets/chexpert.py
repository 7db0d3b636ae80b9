"""CheXpert: 224,316 chest radiographs of 65,240 patients, 14 observations with uncertain labels.

References:
    Irvin et al. 2019, CheXpert, arXiv:1901.07031. Smoothing of uncertain labels: Pham et al. 2021, arXiv:1911.06475.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.data.datasets.folders import list_class_folders
from core.data.label_tables import checked_paths, read_table, row_location
from core.data.listing import TEST, TRAIN, Listing, listing_of_files
from core.data.specs import DATASETS, DatasetSpec, Remote
from core.errors import DataUnavailable

if TYPE_CHECKING:
    import pandas as pd

FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
TABLES = {"train.csv": TRAIN, "valid.csv": TEST}
SMOOTHED = 0.7  # the middle of the range [0.55, 0.85] of Pham et al.
UNCERTAIN = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0, "smooth": SMOOTHED}
_PATIENT = re.compile(r"patient\d+")
BLANK = {"negative": 0.0, "unknown": np.nan}


def parse_labels(rows: pd.DataFrame, table: Path, uncertain: str, blank: str) -> np.ndarray:
    """Convert the 14 columns to (N, 14) labels: 0, 1, NaN (unknown) or, if smoothed, a value between.

    Args:
        rows: rows of the publisher's table, as text.
        table: its path, for error messages.
        uncertain: what -1 becomes: `ignore` (unknown), `zeros`, `ones` or `smooth`.
        blank: what an empty cell becomes: `negative` or `unknown`.
    Raises:
        DataUnavailable: naming the first row with another value.
    """
    import pandas as pd

    codes, texts = pd.factorize(rows[list(FINDINGS)].to_numpy(dtype=object).ravel())
    value_of = {"1.0": 1.0, "0.0": 0.0, "-1.0": UNCERTAIN[uncertain]}
    value_of |= {text.removesuffix(".0"): value for text, value in value_of.items()} | {"": BLANK[blank]}
    for code, text in enumerate(texts):
        if text not in value_of:
            row, column = divmod(int((codes == code).argmax()), len(FINDINGS))
            raise DataUnavailable(
                f"{row_location(table, row)}: {FINDINGS[column]} is {text!r}; expected 1, 0, -1 or an empty cell."
            )
    values = np.array([value_of[text] for text in texts], np.float32)
    return values[codes].reshape(len(rows), len(FINDINGS))


def load(folder: Path, uncertain: str = "ignore", blank: str = "negative") -> Listing:
    """Read `train.csv` and `valid.csv`, or `[train|valid|test /] No_Finding ... Support_Devices / image`.

    The publisher's 234 validation images, labeled by three radiologists, are the test set.
    """
    tables = {folder / name: part for name, part in TABLES.items() if (folder / name).exists()}
    if not tables:
        return _load_class_folders(folder)
    listed: list[tuple[str, object, str, str]] = []
    for table, part in tables.items():
        rows = read_table(table, ("Path", *FINDINGS), unique="Path")
        labels = parse_labels(rows, table, uncertain, blank)
        names = checked_paths(folder, rows["Path"].str.replace(r"^chexpert[^/]*/", "", case=False, regex=True), table)
        for row, (name, label) in enumerate(zip(names, labels, strict=True)):
            if (folder / name).is_file():
                listed.append((name, label, _patient_of(name, table, row), part))
    return listing_of_files(folder, listed, table=" and ".join(path.name for path in tables))


def _patient_of(name: str, table: Path, row: int) -> str:
    if match := _PATIENT.search(name):
        return match.group(0)
    raise DataUnavailable(f"{row_location(table, row)}: the path {name!r} names no patient. Take the publisher's file.")


def _load_class_folders(folder: Path) -> Listing:
    """Read one folder per finding.

    An image that is in the folders of several findings has all of them; all other findings count as absent.
    """
    listing = list_class_folders(folder, FINDINGS, allow_missing=True)
    images: dict[tuple[str, str], list[int]] = {}
    for index, (name, part) in enumerate(zip(listing.ids, listing.parts, strict=True)):
        levels = name.split("/")
        images.setdefault((part, "/".join(levels[2 if part else 1 :])), []).append(index)
    listed: list[tuple[str, object, str, str]] = []
    for (part, relative_path), indices in images.items():
        label = np.zeros(len(FINDINGS), np.float32)
        label[[FINDINGS.index(listing.class_names[listing.labels[index]]) for index in indices]] = 1
        patient = _PATIENT.search(relative_path)
        name = str(listing.ids[indices[0]])
        listed.append((name, label, patient.group(0) if patient else name, part))
    return listing_of_files(folder, listed)


DATASETS.add(
    DatasetSpec(
        name="chexpert",
        title="CheXpert",
        question="Which findings on a chest X-ray?",
        population="Patients of Stanford Hospital.",
        modality="chest radiograph",
        task="multilabel",
        labels=FINDINGS,
        load=load,
        folders=("chexpert", "CheXpert-v1.0", "CheXpert-v1.0-small"),
        options={"uncertain": tuple(UNCERTAIN), "blank": tuple(BLANK)},
        group_key="patient",
        licence="Stanford research use agreement",
        citation="Irvin et al. 2019, arXiv:1901.07031",
        url="https://stanfordmlgroup.github.io/competitions/chexpert/",
        caveats=(
            "Labels were mined from reports; the 234 validation images, labeled by radiologists, are the test set.",
            "An empty cell means that the report does not mention the finding; by default it counts as absent.",
        ),
        remote=Remote("apply", "https://stanfordmlgroup.github.io/competitions/chexpert/"),
    )
)
