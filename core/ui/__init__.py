"""What pages share. The only part of `core` that imports streamlit."""
