"""Tables with a download button."""

from __future__ import annotations

import pandas as pd
import streamlit as st


def table(rows: pd.DataFrame, alt: str, file: str) -> None:
    """Show a table and its download button.

    Args:
        rows: the table.
        alt: description for screen readers.
        file: name of the download, without the extension.
    """
    st.dataframe(rows, hide_index=True, width="stretch", alt=alt)
    as_file = rows.to_csv(index=False).encode("utf-8-sig")
    st.download_button("Download (CSV)", as_file, f"{file}.csv", "text/csv", key=f"download_{file}")
