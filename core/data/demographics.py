"""Age and sex of the people in a data set's images, read from the publisher's table."""

from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from core.data.specs import DatasetSpec, find_folder
from core.data.tables import read_table
from core.errors import DataUnavailable

MAX_AGE = 110  # years; larger values are errors of the table
VIEWS = ("AP", "PA")
FEMALE, MALE, UNKNOWN = "female", "male", ""
_READINGS = {"yes": 1.0, "no": 0.0}
_SEXES = {"f": FEMALE, "female": FEMALE, "m": MALE, "male": MALE}


@dataclass(frozen=True)
class Demographics:
    """Age and sex of the person in each image.

    Attributes:
        age: (N,) years; NaN if unknown.
        sex: (N,) `female`, `male`, or "" if unknown.
        view: (N,) `AP`, `PA`, or "" if unknown; empty if the table has no views.
        reader: (N,) a radiologist's reading: 1 yes, 0 no, NaN none; empty if the table has no readings.
    """

    age: np.ndarray
    sex: np.ndarray
    view: np.ndarray = field(default_factory=lambda: np.array([], str))
    reader: np.ndarray = field(default_factory=lambda: np.array([]))


def read_demographics(spec: DatasetSpec, ids: np.ndarray) -> Demographics:
    """Read the age and sex of the people in some images of a data set.

    Args:
        spec: its row of the registry.
        ids: (N,) names of the images; age and sex are unknown for names that the table does not list.
    Raises:
        DataUnavailable: if the publisher gives neither, the data set is not on this machine, or its table is missing
            or damaged.
    """
    folder = find_folder(spec)
    if spec.demographics is None or folder is None:
        reason = "its publisher gives neither" if spec.demographics is None else "it is not on this machine"
        raise DataUnavailable(f"Ages and sexes of {spec.name} cannot be read: {reason}.")
    columns = spec.demographics
    table = next((folder / name for name in columns.files if (folder / name).is_file()), folder / columns.files[0])
    rows = read_table(table, filter(None, (columns.image, columns.age, columns.sex, columns.view, columns.reader)))
    rows.index = pd.Index(_stem(name) for name in rows[columns.image])
    rows = rows[~rows.index.duplicated()].reindex([_stem(name) for name in ids.tolist()])
    age = pd.to_numeric(rows[columns.age].str.strip().str.rstrip("Yy"), errors="coerce").to_numpy(float)
    sex = rows[columns.sex].str.strip().str.lower().map(_SEXES).fillna(UNKNOWN)
    optional: dict[str, np.ndarray] = {}
    if columns.view:
        views = rows[columns.view].fillna(UNKNOWN).str.strip().str.upper()
        optional["view"] = views.where(views.isin(VIEWS), UNKNOWN).to_numpy(str)
    if columns.reader:
        optional["reader"] = rows[columns.reader].fillna("").str.strip().str.lower().map(_READINGS).to_numpy(float)
    return Demographics(np.where((age >= 0) & (age <= MAX_AGE), age, np.nan), sex.to_numpy(str), **optional)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem
