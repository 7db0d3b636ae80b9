"""Age and sex of the people in a data set's images, read from the publisher's table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from core.data.label_tables import read_table
from core.data.specs import DatasetSpec, find_folder
from core.errors import DataUnavailable
from core.types import READER, VIEW

MAX_AGE = 110  # years; larger values are errors of the table
VIEWS = ("AP", "PA")
FEMALE, MALE, UNKNOWN = "female", "male", ""
READINGS = ("yes", "no")
_SEXES = {"f": FEMALE, "female": FEMALE, "m": MALE, "male": MALE}


@dataclass(frozen=True)
class Demographics:
    """Age and sex of the person in each image.

    Attributes:
        age: (N,) years; NaN if unknown.
        sex: (N,) `female`, `male`, or "" if unknown.
        facts: further facts about each image that the table has: (N,) `view`, `AP`, `PA` or "", and `reader`, a
            radiologist's reading, `yes`, `no` or "".
    """

    age: np.ndarray
    sex: np.ndarray
    facts: Mapping[str, np.ndarray] = field(default_factory=dict)


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
    rows.index = pd.Index(PurePosixPath(name).stem for name in rows[columns.image])
    rows = rows[~rows.index.duplicated()].reindex([PurePosixPath(name).stem for name in ids.tolist()])
    age = pd.to_numeric(rows[columns.age].str.strip().str.rstrip("Yy"), errors="coerce").to_numpy(float)
    sex = rows[columns.sex].str.strip().str.lower().map(_SEXES).fillna(UNKNOWN)
    facts = {
        fact: _known(rows[column], values)
        for fact, column, values in ((VIEW, columns.view, VIEWS), (READER, columns.reader, READINGS))
        if column
    }
    return Demographics(np.where((age >= 0) & (age <= MAX_AGE), age, np.nan), sex.to_numpy(str), facts)


def _known(cells: pd.Series, values: tuple[str, ...]) -> np.ndarray:
    """Return cells as the values that they spell in any case; other cells are unknown."""
    spelling = {value.casefold(): value for value in values}
    return cells.str.strip().str.casefold().map(spelling).fillna(UNKNOWN).to_numpy(str)
