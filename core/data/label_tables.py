"""Label tables of publishers, read as text; errors name the file, the row and the remedy before images are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from core.errors import DataUnavailable

if TYPE_CHECKING:
    import pandas as pd

_LONGEST = 250
_FIRST_ROW = 2  # row number in a spreadsheet, below the header


def read_table(path: Path, columns: Iterable[str], unique: str | None = None) -> pd.DataFrame:
    """Read a CSV file as text; empty cells are "".

    Args:
        path: the file, plain or compressed with gzip; separated by commas, or by tabs in `.tab` and `.tsv` files.
        columns: required columns.
        unique: a column that must not have duplicates.
    Raises:
        DataUnavailable: if the file is missing or not a table, lacks a column, or has a duplicate.
    """
    import pandas as pd

    if not path.is_file():
        raise DataUnavailable(f"{path.name} is missing in {path.parent.name}; take the publisher's file.")
    try:
        separator = "\t" if path.suffix in (".tab", ".tsv") else ","
        table = pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
        )
    except (ValueError, UnicodeDecodeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataUnavailable(f"{path.name} cannot be read as a table: {reason} Take the publisher's file.") from None
    table.columns = [str(name).strip() for name in table.columns]
    for name in columns:
        if name not in table.columns:
            raise DataUnavailable(
                f"{path.name} lacks the column {name!r} among its {len(table.columns)}. "
                "Take the publisher's file, or rename the column."
            )
    if unique:
        check_unique(table[unique], path)
    return table


def check_unique(cells: pd.Series, table: Path) -> None:
    """Raise DataUnavailable if a column has duplicates, naming the first row."""
    refuse_rows(cells, cells.duplicated(), table, lambda cell: f"{cell!r} is a duplicate. Remove it.")


def refuse_rows(cells: pd.Series, wrong: pd.Series, table: Path, reason: Callable[[str], str]) -> None:
    """Raise DataUnavailable if any row is wrong, naming the first one.

    Args:
        cells: a column of the table.
        wrong: bool, the rows to refuse.
        table: its path.
        reason: cell of the row -> what is wrong with it.
    """
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise DataUnavailable(f"{row_location(table, row)}: {reason(cells.iloc[row])}")


def row_location(path: Path, row: int) -> str:
    """Return the location of an error, such as `labels.csv, row 3`."""
    return f"{path.name}, row {row + _FIRST_ROW}"


def checked_paths(root: Path, names: pd.Series, table: Path) -> pd.Series:
    """Return relative paths from a table after checking that they stay below a folder.

    Raises:
        DataUnavailable: naming the first row whose path is absolute or leads out of the folder.
    """
    # Preselect suspicious paths with fast string operations; parse only these.
    clean = names.str.replace("\\", "/", regex=False)
    suspicious = clean.str.contains("..", regex=False) | clean.str.contains(":", regex=False)
    suspicious |= (
        clean.str.startswith(("/", "~")) | (clean.str.len() > _LONGEST) | clean.str.contains("\0", regex=False)
    )
    for row in suspicious.to_numpy().nonzero()[0]:
        path = PurePosixPath(clean.iloc[row])
        if path.is_absolute() or {"..", "~"} & set(path.parts) or ":" in path.parts[0] or len(str(path)) > _LONGEST:
            raise DataUnavailable(
                f"{row_location(table, int(row))}: the path {str(path)[:80]!r} leads out of {root.name!r} or is "
                "invalid. Give paths relative to the folder of the table."
            )
    return clean


def check_files(root: Path, names: pd.Series, table: Path) -> None:
    """Check that every path of a table is a file, and that no link leads out of the folder.

    Raises:
        DataUnavailable: naming the first row whose file is missing or outside the folder.
    """
    top = root.resolve()
    leads_out = cache(lambda name: not (root / name).resolve().is_relative_to(top))  # a few folders hold all files
    for row, name in enumerate(names.tolist()):
        path = f"{root}{os.sep}{name}"
        if not os.path.isfile(path):
            raise DataUnavailable(
                f"{row_location(table, row)}: there is no file {name!r} in {root.name!r}. Correct the path."
            )
        if leads_out(name.rpartition("/")[0]) or (os.path.islink(path) and leads_out(name)):
            raise DataUnavailable(f"{row_location(table, row)}: {name!r} is a link that leads out of {root.name!r}.")
