"""Tables and their downloads."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import pandas as pd
import streamlit as st

_NAMES = (  # columns that name a row
    "Series", "Series behind", "Family", "Model", "Strategy", "Views", "Metric", "What", "Class", "True class",
    "Finding", "Images per class", "Seed", "Group", "Data set", "Part", "Stage", "Item", "Pair", "Case", "Run",
)  # fmt: skip
_PINNED = 80  # characters of pinned columns beside which an interval fits at a width of 800 pixels


def table(
    rows: pd.DataFrame | Sequence[Mapping[str, Any]], alt: str, file: str = "",
    formats: Mapping[str, str] | None = None, **arguments: Any,
) -> None:  # fmt: skip
    """Show a table, with a download button if a file is named; the columns that name a row stay in view.

    Args:
        rows: the table, or its rows by column.
        alt: description for screen readers.
        file: name of the download, without the extension; "" for none.
        formats: column -> format of its numbers, as in `st.column_config.NumberColumn`.
        arguments: further arguments of `st.dataframe`.
    """
    frame = pd.DataFrame(rows)
    columns: dict[str, Any] = {name: st.column_config.Column(pinned=True) for name in _pinned(frame)}
    columns |= {name: st.column_config.NumberColumn(format=shown) for name, shown in (formats or {}).items()}
    columns |= arguments.pop("column_config", {})
    st.dataframe(frame, hide_index=True, width="stretch", alt=alt, column_config=columns, **arguments)
    if file:
        download("Download (CSV)", frame, file, key=f"download_{file}")


def _pinned(frame: pd.DataFrame) -> list[str]:
    """Return the leading columns that name a row: the first, and the next ones as long as they leave room."""
    pinned: list[str] = []
    length = 0
    for name in takewhile(_NAMES.__contains__, frame.columns):
        length += max(map(len, frame[name].astype(str)), default=0)
        if pinned and length > _PINNED:
            break
        pinned.append(name)
    return pinned


def download(title: str, rows: pd.DataFrame, file: str, place: Any = st, **arguments: Any) -> None:
    """Show a button that downloads a table as CSV, with the byte order mark by which spreadsheets recognize UTF-8.

    Args:
        title: label of the button.
        rows: the table.
        file: name of the file, without the extension.
        place: container that shows the button.
        arguments: further arguments of `st.download_button`.
    """
    content = rows.to_csv(index=False).encode("utf-8-sig")
    place.download_button(title, content, f"{file}.csv", "text/csv", **arguments)
