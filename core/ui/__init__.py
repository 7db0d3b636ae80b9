"""Code shared by the pages. The only part of `core` that imports streamlit."""
