"""Tables with their download."""

from __future__ import annotations

import pandas as pd
import streamlit as st


def table(rows: pd.DataFrame, alt: str, file: str) -> None:
    """Shows a table and lets it be downloaded.

    Args:
        rows: the table.
        alt: what it holds, for those who cannot see it.
        file: name of the download, without its ending.
    """
    st.dataframe(rows, hide_index=True, width="stretch", alt=alt)
    as_file = rows.to_csv(index=False).encode("utf-8-sig")
    st.download_button("Download (CSV)", as_file, f"{file}.csv", "text/csv", key=f"download_{file}")
