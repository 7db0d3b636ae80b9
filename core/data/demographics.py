"""How old the people of a data set's images were, and of which sex, from the publisher's table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from core.data.specs import DatasetSpec, find_folder
from core.data.tables import read_table
from core.errors import DataUnavailable

OLDEST = 110  # years; what is above is a slip of the table
VIEWS = ("AP", "PA")
FEMALE, MALE, UNKNOWN = "female", "male", ""
_READINGS = {"yes": 1.0, "no": 0.0}
_SEXES = {"f": FEMALE, "female": FEMALE, "m": MALE, "male": MALE}


@dataclass(frozen=True)
class People:
    """Ages and sexes, an image each.

    Attributes:
        age: (N,) years; NaN where it is not known.
        sex: (N,) `female`, `male` or "" where it is not known.
        view: (N,) `AP`, `PA` or "" where it is not known; empty where the table has no views.
        reader: (N,) a radiologist's reading: 1 yes, 0 no, NaN none; empty where the table has none.
    """

    age: np.ndarray
    sex: np.ndarray
    view: np.ndarray = field(default_factory=lambda: np.array([], str))
    reader: np.ndarray = field(default_factory=lambda: np.array([]))


def read_people(spec: DatasetSpec, ids: np.ndarray) -> People:
    """Ages and sexes of some images of a data set.

    Args:
        spec: its row.
        ids: (N,) names of the images; those that the table does not name are of unknown age and sex.
    Raises:
        DataUnavailable: if the publisher gives none, the set is not here, or its table is missing or damaged.
    """
    folder = find_folder(spec)
    if spec.people is None or folder is None:
        why = "its publisher gives neither" if spec.people is None else "it is not on this machine"
        raise DataUnavailable(f"Ages and sexes of {spec.name} cannot be read: {why}.")
    named = spec.people
    table = next((folder / name for name in named.files if (folder / name).is_file()), folder / named.files[0])
    rows = read_table(table, filter(None, (named.image, named.age, named.sex, named.view, named.reader)))
    rows.index = pd.Index(_stem(name) for name in rows[named.image])
    rows = rows[~rows.index.duplicated()].reindex([_stem(name) for name in ids.tolist()])
    age = pd.to_numeric(rows[named.age].str.strip().str.rstrip("Yy"), errors="coerce").to_numpy(float)
    sex = rows[named.sex].str.strip().str.lower().map(_SEXES).fillna(UNKNOWN)
    more: dict[str, np.ndarray] = {}
    if named.view:
        views = rows[named.view].fillna(UNKNOWN).str.strip().str.upper()
        more["view"] = views.where(views.isin(VIEWS), UNKNOWN).to_numpy(str)
    if named.reader:
        more["reader"] = rows[named.reader].fillna("").str.strip().str.lower().map(_READINGS).to_numpy(float)
    return People(np.where((age >= 0) & (age <= OLDEST), age, np.nan), sex.to_numpy(str), **more)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem
