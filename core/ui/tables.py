"""Tables with a download button."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st


def table(rows: pd.DataFrame, alt: str, file: str, formats: Mapping[str, Any] | None = None) -> None:
    """Show a table and its download button.

    Args:
        rows: the table.
        alt: description for screen readers.
        file: name of the download, without the extension.
        formats: column -> how to show it, from `st.column_config`.
    """
    st.dataframe(rows, hide_index=True, width="stretch", alt=alt, column_config=formats)
    st.download_button("Download (CSV)", as_csv(rows), f"{file}.csv", "text/csv", key=f"download_{file}")


def as_csv(rows: pd.DataFrame) -> bytes:
    """Return a table as CSV, with the mark by which spreadsheets recognize UTF-8."""
    return rows.to_csv(index=False).encode("utf-8-sig")
